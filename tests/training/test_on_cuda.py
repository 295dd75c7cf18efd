"""A training on a CUDA device, on a fake one: where its tensors are, what makes the host wait, how much is launched."""

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from buildup.graph.network import Network
from buildup.models.build import build
from buildup.models.pretrained import find_pretrained
from buildup.models.read import read_network
from buildup.training import augmentation, speed
from buildup.training.dataset import Dataset
from buildup.training.execution import share_of_memory
from buildup.training.execution_words import Execution
from buildup.training.feed import Feed, on_device
from buildup.training.fit import Job, fit
from buildup.training.metrics import METRICS
from buildup.training.recipe import AUGMENTATIONS, RandAugment, Recipe, load_recipe
from buildup.training.speed import choose_execution
from buildup.training.train_step import Stepper, create_training_model, make_optimizer, prepare_model
from buildup.training.validation import evaluate_model, validate
from fake_cuda import FakeCuda, Wrong, fake_cuda
from following import follow

CUDA = torch.device("cuda:0")
PAPER = replace(load_recipe("paper"), batch_size=8, eval_batch_size=4)
BARE = replace(PAPER, crop_padding=0, flip=False, mixup=0.0, cutmix=0.0, randaugment=None)
SETTINGS: dict[str, Any] = {
    "crop_padding": 4,
    "flip": True,
    "erasing": 1.0,
    "randaugment": RandAugment(layers=2, magnitude=9.0, std=0.5),
    "colour_jitter": 0.4,
}
"""Each augmentation turned on."""
LAUNCHES = 140
"""The most of one eager step of ResNet-10-T. It makes 134 by SGD, 135 by AdamW (torch 2.15): 15 convolutions and norms
with their gradients, and one fused update. One more launch for each of its 47 weights would break the limit."""


@pytest.fixture
def cuda() -> Iterator[FakeCuda]:
    on_device.cache_clear()
    with fake_cuda(2) as found:
        yield found
    on_device.cache_clear()


@cache
def tiny(channels: int = 3, size: int = 16, classes: int = 5) -> Network:
    narrow = {"channels": [8, 16, 16, 32], "stem_width": 8}
    return read_network("resnet10t", input_shape=(channels, size, size), num_classes=classes, base_args=narrow)


def feed(recipe: Recipe, device: torch.device = CUDA, *, resident: bool = True) -> Feed:
    generator = torch.default_generator.__class__().manual_seed(3)
    data = Dataset(
        name="made up",
        images=torch.randint(1, 256, (40, 3, 16, 16), generator=generator).byte(),
        labels=torch.arange(40) % 5,
        class_names=tuple("abcde"),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
    )
    index = torch.arange(40)
    dataset = on_device(data, device) if resident else data
    return Feed(recipe=recipe, dataset=dataset, train=index[:29], val=index[29:], seed=0, device=device)


@pytest.mark.parametrize("resident", [True, False], ids=["on the device", "on the host"])
def test_an_epoch_is_fed_without_waiting(cuda: FakeCuda, resident: bool) -> None:
    given = feed(replace(BARE, **SETTINGS, mixup=0.8, cutmix=1.0), resident=resident)
    with cuda.no_waits():
        for batches in (given.epoch(1), given.validation()):
            places = {tensor.device for batch in batches for tensor in batch}
            assert places == {CUDA}


def test_images_on_the_host_are_fed_alike(cuda: FakeCuda) -> None:
    settings = replace(BARE, **SETTINGS)
    ours, theirs = (list(feed(settings, resident=resident).epoch(1)) for resident in (True, False))
    assert all(torch.equal(one[0], other[0]) for one, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("name", SETTINGS)
def test_each_augmentation_stays_on_the_device_and_never_waits(name: str, cuda: FakeCuda) -> None:
    given = feed(replace(BARE, **{name: SETTINGS[name]}))
    plain = feed(BARE)
    cuda.clear()
    with cuda.no_waits():
        changed, same = (next(each.epoch(1))[0] for each in (given, plain))
    assert changed.device == CUDA
    assert not torch.equal(changed, same)


def test_every_augmentation_is_tested_here() -> None:
    assert set(AUGMENTATIONS) == set(SETTINGS)


def stepper(recipe: Recipe, execution: Execution | None = None, device: str = "cuda") -> Stepper:
    execution = execution or Execution()
    model = create_training_model(tiny(), recipe, seed=0, device=torch.device(device))
    model = prepare_model(model, tiny(), execution).train()
    return Stepper(model, make_optimizer(model, recipe, execution), recipe, execution)


@pytest.mark.parametrize("recipe", ["quick", "quick-adamw"])
def test_a_step_never_waits_and_launches_no_more_than_this(recipe: str, cuda: FakeCuda) -> None:
    settings = replace(load_recipe(recipe), batch_size=8)
    step = stepper(settings)
    inputs, targets = torch.randn(8, 3, 16, 16).to("cuda"), torch.randn(8, 5).softmax(1).to("cuda")
    step(inputs, targets, 0.01)  # the first one makes the optimiser's state
    cuda.clear()
    with cuda.no_waits():
        step(inputs, targets, 0.02)
    assert cuda.copies == []
    assert len(cuda.launches) <= LAUNCHES


@pytest.mark.parametrize("execution", [Execution(channels_last=True), Execution(precision="bf16", channels_last=True)])
def test_a_step_by_the_whole_recipe_never_waits(execution: Execution, cuda: FakeCuda) -> None:
    settings = replace(PAPER, drop_path=0.2, dropout=0.2, clip_grad=1.0)
    step = stepper(settings, execution)
    (inputs, targets) = next(feed(settings).epoch(1))
    with cuda.no_waits():
        for rate in (0.01, 0.02):
            step(inputs, targets, rate)
    assert {weight.device for weight in step.model.state_dict().values()} == {CUDA}
    assert step.take_sums()[0].device == CUDA


def test_a_validation_waits_a_few_times_however_many_batches_it_has(cuda: FakeCuda) -> None:
    model = build(tiny(), seed=0, device="cuda")
    for size in (11, 2):
        given = feed(replace(PAPER, eval_batch_size=size))
        cuda.clear()
        found = validate(model, given, Execution())
        # Sums, reliability, hits and losses; mean IoU and the like read from the host.
        assert len(cuda.waits) <= 4, cuda.waits
        assert set(found.values) <= set(METRICS)


def test_a_score_is_computed_in_ieee_float32_and_epochs_in_between_as_they_train(cuda: FakeCuda) -> None:
    cudnn: Any = torch.backends.cudnn
    model = build(tiny(), seed=0, device="cuda")
    seen: list[tuple[str, torch.dtype]] = []
    model.register_forward_hook(lambda module, inputs, logits: seen.append((cudnn.conv.fp32_precision, logits.dtype)))
    given = replace(feed(PAPER), val=torch.arange(4))
    with torch.autocast("cuda", torch.bfloat16):
        validate(model, given, Execution())
    validate(model, given, Execution(precision="bf16"))
    assert seen == [("ieee", torch.float32), ("tf32", torch.bfloat16)]
    assert cudnn.conv.fp32_precision == "tf32"


def job(folder: Path, **changes: Any) -> Job:
    settings: dict[str, Any] = {
        "network": tiny(1, 8, 10),
        "seed": 1,
        "dataset": "digits",
        "image_size": 8,
        "fraction": 0.05,
        "recipe": replace(load_recipe("quick").with_epochs(2), min_steps=1),
        "folder": str(folder),
    }
    return Job(**{**settings, **changes})


def test_a_training_on_the_device_is_that_of_the_cpu_and_resumes(
    tmp_path: Path, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Stepper.__call__

    def watched(self: Stepper, *arguments: Any) -> None:
        with cuda.no_waits():
            step(self, *arguments)

    monkeypatch.setattr(Stepper, "__call__", watched)
    _, plain = follow(fit(job(tmp_path / "cpu")))
    for name, changes in (("cuda", {}), ("second", {"device": "cuda:1", "execution": Execution(steps="captured")})):
        first = fit(job(tmp_path / f"{name}-1", **{"device": "cuda", **changes}))
        next(first)
        first.close()
        resumed = {"device": "cuda", "resume_from": (str(tmp_path / f"{name}-1"),), **changes}
        epochs, score = follow(fit(job(tmp_path / f"{name}-2", **resumed)))
        assert [epoch.number for epoch in epochs] == [1, 2]
        assert score.accuracy == pytest.approx(plain.accuracy, abs=2)
        assert score.metrics["nll"] == pytest.approx(plain.metrics["nll"], rel=0.02)
    weights = [load_file(tmp_path / name / "weights.safetensors") for name in ("cpu", "cuda-2")]
    assert all(torch.allclose(weights[0][name], weights[1][name], atol=1e-5) for name in weights[0])


@pytest.mark.gpu
@pytest.mark.parametrize("steps", ["eager", "captured", "compiled"])
def test_a_training_on_a_real_device_is_that_of_the_cpu_and_resumes(steps: Any, tmp_path: Path) -> None:
    _, plain = follow(fit(job(tmp_path / "cpu")))
    settings = {"device": "cuda", "execution": Execution(steps=steps), "device_share": 0.5}
    first = fit(job(tmp_path / "1", **settings))
    next(first)
    first.close()
    epochs, score = follow(fit(job(tmp_path / "2", **settings, resume_from=(str(tmp_path / "1"),))))
    assert [epoch.number for epoch in epochs] == [1, 2]
    assert score.accuracy == pytest.approx(plain.accuracy, abs=2)
    assert score.metrics["nll"] == pytest.approx(plain.metrics["nll"], rel=0.02)


@pytest.mark.parametrize("steps", ["eager", "captured"])
def test_the_test_for_a_real_device_passes_on_the_fake_one(steps: Any, tmp_path: Path, cuda: FakeCuda) -> None:
    test_a_training_on_a_real_device_is_that_of_the_cpu_and_resumes(steps, tmp_path)


@pytest.mark.parametrize(("device", "index"), [("cuda", 0), ("cuda:1", 1)])
def test_a_training_keeps_to_its_share_of_the_device_and_gives_its_memory_back(
    device: str, index: int, tmp_path: Path, cuda: FakeCuda
) -> None:
    follow(fit(job(tmp_path, device=device, device_share=0.25)))
    assert [call for call in cuda.calls if "memory" in call[0]] == [("memory 0.25", index), ("memory 1", index)]
    assert cuda.calls[-1][0] == "empty_cache"


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_steps_are_measured_in_the_share_that_they_will_have(
    device: str, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "GPU_STEPS", 1)
    settings = replace(load_recipe("quick"), batch_size=4)
    choose_execution(tiny(), settings, device=device, threads=1, steps=1, share=0.5)
    names = [name for name, _ in cuda.calls if "memory" in name or name == "graph"]
    assert names == ["memory 0.5", "graph", "memory 1"]


def test_memory_that_only_cycles_hold_is_given_back(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    class Holder:
        """As a compiled block holds its weights."""

    holder = Holder()
    holder.itself = holder  # type: ignore[attr-defined]
    held = weakref.ref(holder)
    del holder
    seen: list[object] = []
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: seen.append(held()))
    gc.disable()
    try:
        with share_of_memory("cuda", 1.0):
            pass
    finally:
        gc.enable()
    assert seen == [None]


def test_a_second_device_of_the_process_captures_on_its_own(cuda: FakeCuda) -> None:
    settings = replace(load_recipe("quick"), batch_size=4)
    for device in ("cuda:0", "cuda:1"):
        step = stepper(settings, Execution(steps="captured"), device)
        step.capture(torch.zeros(4, 3, 16, 16, device=device), torch.zeros(4, 5, device=device))
    assert [index for name, index in cuda.calls if name == "graph"] == [0, 1]


def test_a_tensor_of_another_device_is_sent(cuda: FakeCuda) -> None:
    tensor = torch.ones(2, device="cuda:0")
    assert augmentation.send(tensor, torch.device("cuda:1")).device == torch.device("cuda:1")
    assert augmentation.send(tensor, torch.device("cuda")) is tensor


def test_captures_and_measures_belong_to_the_device_of_the_model(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "GPU_STEPS", 1)
    settings = replace(load_recipe("quick"), batch_size=4)
    found = choose_execution(tiny(), settings, device="cuda:1", threads=1, steps=1)
    assert {"Stream", "graph", "synchronize"} <= {name for name, _ in cuda.calls}
    assert {index for name, index in cuda.calls if name != "empty_cache"} == {1}
    assert {one.execution.steps for one in found} == {"eager", "captured"}


def test_a_training_starts_on_the_device_from_pretrained_weights(tmp_path: Path, cuda: FakeCuda) -> None:
    save_file(build(tiny(), seed=5).state_dict(), tmp_path / "w.safetensors")
    start = find_pretrained(tiny(), "resnet10t", str(tmp_path / "w.safetensors"))
    model = create_training_model(tiny(), PAPER, seed=0, device=torch.device("cuda"), start=start)
    assert {weight.device for weight in model.state_dict().values()} == {CUDA}
    assert torch.equal(
        model.get_parameter("conv1.0.weight").cpu(), build(tiny(), seed=5).get_parameter("conv1.0.weight")
    )


def test_a_test_set_is_scored_on_the_device(cuda: FakeCuda) -> None:
    given = feed(PAPER, resident=False)
    assert isinstance(given.dataset, Dataset)
    scores = [
        evaluate_model(build(tiny(), seed=0, device=device), given.dataset, PAPER, threads=1)
        for device in ("cpu", "cuda")
    ]
    assert scores[0].values == pytest.approx(scores[1].values)


def test_the_feed_finds_a_mistake_of_devices(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmentation, "send", lambda tensor, device: tensor)
    with pytest.raises(Wrong):
        list(feed(replace(BARE, crop_padding=4)).epoch(1))
