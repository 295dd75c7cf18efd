"""New blocks of a pretrained network first learn to give the base's features."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from buildup.graph.base_name import parse_base
from buildup.graph.network import Append, Network, apply
from buildup.models.blocks import PostActAttentionBlock, PreActAttentionBlock
from buildup.models.build import build
from buildup.models.layers import GlobalAttention2d
from buildup.models.pretrained import find_pretrained
from buildup.models.read import read_network
from buildup.space.load import load
from buildup.strategies.moves import from_layout
from buildup.training.data_parallel import ALONE
from buildup.training.fit import Job, fit
from buildup.training.health import check_base
from buildup.training.recipe import load_recipe
from buildup.training.train_step import renew_last_block
from buildup.training.transplant import (
    _add_gradients,
    _mixed,
    _rows,
    _set_projection,
    imitation_steps,
    new_blocks,
    transplant,
)
from buildup.trials.outcome import IMITATION, START, Epoch, Score
from buildup.trials.training import WEIGHTS, Pretrained

BASE = "resnetv2_18(stem_chs=8, channels=[8, 16], layers=[2, 2])"
EPOCHS = 2
ONE_EPOCH = load_recipe("finetune").with_epochs(1)


def network_of(layout: str) -> Network:
    base = read_network(BASE, input_shape=(1, 8, 8), num_classes=10)
    return from_layout(layout, base, load("alternet"))


def job(network: Network, folder: Path, **changed: object) -> Job:
    recipe = load_recipe("finetune").with_epochs(EPOCHS)
    return Job(network=network, seed=0, dataset="digits", image_size=8, recipe=recipe, folder=str(folder), **changed)  # type: ignore[arg-type]


def trained(asked: Job) -> tuple[list[Epoch], Score]:
    Path(asked.folder).mkdir(parents=True, exist_ok=True)
    epochs, steps = [], fit(asked)
    while True:
        try:
            epochs.append(next(steps))
        except StopIteration as ended:
            return epochs, ended.value


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Pretrained:
    """The weights of a base that has learned."""
    folder = tmp_path_factory.mktemp("base")
    network = network_of("CC|CC")
    recipe = load_recipe("quick").with_epochs(6)
    _, score = trained(replace(job(network, folder), recipe=recipe))
    assert score.accuracy > 90
    return find_pretrained(network, BASE, str(folder / WEIGHTS))


@pytest.fixture(scope="module")
def imitated(start: Pretrained, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Epoch], Score]:
    return trained(job(network_of("CC|CM"), tmp_path_factory.mktemp("candidate"), start=start))


def test_a_network_knows_most_of_what_its_base_knew(
    start: Pretrained, imitated: tuple[list[Epoch], Score], tmp_path: Path
) -> None:
    curve, score = imitated
    base, _ = trained(job(network_of("CC|CC"), tmp_path, start=start))
    known = base[0].metrics[START]
    assert known > 90
    assert IMITATION not in base[0].metrics  # it has no new block
    assert curve[0].metrics[START] > 0.9 * known
    assert 0 < curve[0].metrics[IMITATION] < 0.5
    assert START not in curve[1].metrics
    assert {name: score.metrics[name] for name in (START, IMITATION)} == {
        name: curve[0].metrics[name] for name in (START, IMITATION)
    }


def test_only_new_blocks_change(start: Pretrained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[dict[str, torch.Tensor], dict[str, bool]]] = []

    def stop(model: nn.Module, *_: object, **__: object) -> None:
        state = {name: value.clone() for name, value in model.state_dict().items()}
        seen.append((state, {name: module.training for name, module in model.named_modules()}))
        raise InterruptedError

    network = network_of("CC|CM")
    monkeypatch.setattr("buildup.training.fit.validate", stop)
    with pytest.raises(InterruptedError):
        trained(job(network, tmp_path, start=start))
    (state, modes), (path,) = seen[0], new_blocks(network)
    fresh = build(network, seed=0, start=start)
    changed = {name for name, weight in fresh.named_parameters() if not torch.equal(weight, state[name])}
    assert changed
    assert all(name.startswith(f"{path}.") for name in changed)
    assert all(modes.values())
    # Norms after the new block see other maps than before.
    statistics = {name for name, buffer in fresh.named_buffers() if not torch.equal(buffer, state[name])}
    assert "norm.running_var" in statistics


def test_a_stopped_training_goes_on_without_another_imitation(
    start: Pretrained, imitated: tuple[list[Epoch], Score], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = job(network_of("CC|CM"), tmp_path / "1", start=start)
    Path(first.folder).mkdir()
    steps: Iterator[Epoch] = fit(first)
    next(steps)
    steps.close()  # type: ignore[attr-defined]
    monkeypatch.setattr("buildup.training.fit.transplant", never)
    curve, score = trained(replace(first, folder=str(tmp_path / "2"), resume_from=(first.folder,)))
    assert score.correct == imitated[1].correct
    assert score.metrics[START] == imitated[1].metrics[START]
    assert [epoch.metrics["train_loss"] for epoch in curve] == [epoch.metrics["train_loss"] for epoch in imitated[0]]


def never(*_: object, **__: object) -> None:
    raise AssertionError("a network is transplanted once")


def test_what_is_imitated_does_not_depend_on_what_was_drawn_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base's stem is for larger images here, so the small one is random in model and base alike."""
    monkeypatch.setattr("buildup.training.transplant.LEAST", 3)
    name, arguments = parse_base(BASE)
    weights = timm.create_model(name, in_chans=1, num_classes=10, **arguments).state_dict()
    save_file({key: value.contiguous() for key, value in weights.items()}, tmp_path / "weights.safetensors")
    network = network_of("CC|CM")
    start = find_pretrained(network, BASE, str(tmp_path / "weights.safetensors"))
    errors: list[float | None] = []

    def stop(*given: Any, **settings: Any) -> None:
        errors.append(transplant(*given, **settings))
        raise InterruptedError

    monkeypatch.setattr("buildup.training.fit.transplant", stop)
    for seed in (1, 2):
        torch.manual_seed(seed)
        with pytest.raises(InterruptedError):
            trained(job(network, tmp_path / str(seed), start=start))
    assert None is not errors[0] == errors[1]


@pytest.mark.slow
def test_several_processes_imitate_and_train_as_one_does(start: Pretrained, tmp_path: Path) -> None:
    network = network_of("CC|CM")
    one, two = (
        trained(job(network, tmp_path / str(processes), start=start, processes=processes)) for processes in (1, 2)
    )
    assert two[0][0].metrics[IMITATION] == pytest.approx(one[0][0].metrics[IMITATION], rel=0.1)
    assert two[1].accuracy == pytest.approx(one[1].accuracy, abs=2)


def test_gated_attention_starts_as_the_trained_block_and_learns_from_there(start: Pretrained, tmp_path: Path) -> None:
    network = network_of("CC|CT")
    base, _ = trained(replace(job(network_of("CC|CC"), tmp_path / "base", start=start), recipe=ONE_EPOCH))
    curve, _ = trained(replace(job(network, tmp_path / "new", start=start), recipe=ONE_EPOCH))
    assert curve[0].metrics[START] == base[0].metrics[START]
    assert IMITATION not in curve[0].metrics  # it starts as the block that it replaces
    found = load_file(tmp_path / "new" / WEIGHTS)
    assert any(found[name].any() for name in found if name.endswith(".gate"))


def test_a_block_without_weights_imitates_nothing_and_is_trained_as_any_other(
    start: Pretrained, tmp_path: Path
) -> None:
    curve, score = trained(replace(job(network_of("CC|CS"), tmp_path, start=start), recipe=ONE_EPOCH))
    assert len(curve) == 1
    assert score.accuracy > 10


PARTS: dict[str, Any] = {
    "conv": partial(nn.Conv2d, kernel_size=1, bias=False),
    "norm": nn.BatchNorm2d,
    "drop_path": None,
}
CORES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "pre": lambda attention: PreActAttentionBlock(6, 4, attention, scale=torch.full((6,), 1e-6), **PARTS),
    "post": lambda attention: PostActAttentionBlock(6, 4, attention, act=None, **PARTS),
}


@pytest.mark.parametrize("order", CORES)
@torch.no_grad()
def test_what_is_linear_in_what_attention_mixes_is_imitated_from_the_start(order: str) -> None:
    torch.manual_seed(0)
    core = CORES[order](GlobalAttention2d(4, 6, 1, 8))
    given = torch.randn(8, 6, 5, 5)
    mixed = _mixed(core, given)
    added = nn.Conv2d(8, 6, 1)(mixed)

    def error() -> float:
        return float((core(given) - given - added).square().mean() / added.square().mean())

    before = error()
    rows = torch.cat([_rows(mixed), torch.ones(200, 1)], dim=1)
    _set_projection(core, rows.T @ rows / 200, rows.T @ _rows(added) / 200)
    assert error() < 0.05 < 0.5 < before


def test_imitation_has_steps_for_its_epochs_and_for_small_sets_a_least_number() -> None:
    def steps(share: float, images: int, batch_size: int) -> int:
        recipe = replace(load_recipe("finetune"), epochs=20, transplant=share, batch_size=batch_size)
        return imitation_steps(recipe, images)

    assert steps(0, 50_000, 500) == 0
    assert steps(0.005, 1_000, 50) == 100
    assert steps(0.1, 50_000, 500) == 200


def test_an_added_block_learns_to_change_nothing(start: Pretrained, tmp_path: Path) -> None:
    network = apply(network_of("CC|CC"), Append(stage=network_of("CC|CC").stages[0].name))
    assert new_blocks(network) == ("stages.0.blocks.2",)
    base, _ = trained(replace(job(network_of("CC|CC"), tmp_path / "base", start=start), recipe=ONE_EPOCH))
    curve, _ = trained(replace(job(network, tmp_path / "new", start=start), recipe=ONE_EPOCH))
    fresh = replace(ONE_EPOCH, transplant=0.0)
    random, _ = trained(replace(job(network, tmp_path / "random", start=start), recipe=fresh))
    known, learned, drawn = (one[0].metrics[START] for one in (base, curve, random))
    assert learned > 0.9 * known > 1.5 * drawn


def test_what_a_trained_network_knows_is_measured_whatever_imitates(start: Pretrained, tmp_path: Path) -> None:
    """Else a base that has nothing left to learn passes for one that has not learned."""
    recipe = replace(load_recipe("quick").with_epochs(2), lr=1e-6, transplant=0.0)
    curve, score = trained(replace(job(network_of("CC|CC"), tmp_path, start=start), recipe=recipe))
    assert curve[0].metrics[START] > 90
    assert IMITATION not in curve[0].metrics
    assert curve[1].metrics["train_loss"] > 0.99 * curve[0].metrics["train_loss"]
    assert check_base([curve], num_classes=10, images=score.images, expected=None) == []


@contextmanager
def forward_sizes(seen: list[int]) -> Iterator[None]:
    """Note how many images each convolution gets."""
    whole = nn.Conv2d.forward

    def forward(self: nn.Conv2d, inputs: torch.Tensor) -> torch.Tensor:
        seen.append(len(inputs))
        return whole(self, inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Conv2d, "forward", forward)
        yield


@pytest.mark.parametrize("parts", [1, 2])
def test_imitation_never_sees_more_images_at_once_than_a_part_of_a_batch(
    parts: int, start: Pretrained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    errors: list[float | None] = []
    sizes: list[int] = []

    def watched(model: nn.Module, network: Network, start: Pretrained, feed: Any, *given: Any, **asked: Any) -> Any:
        sizes.append(feed.recipe.batch_size)
        with forward_sizes(seen):
            errors.append(transplant(model, network, start, feed, *given, **{**asked, "parts": parts}))
        raise InterruptedError

    monkeypatch.setattr("buildup.training.transplant.LEAST", 3)
    monkeypatch.setattr("buildup.training.fit.transplant", watched)
    with pytest.raises(InterruptedError):
        trained(job(network_of("CC|CM"), tmp_path, start=start))
    assert max(seen) == ceil(sizes[0] / parts)
    assert errors[0] is not None
    assert 0 < errors[0] < 1


def test_parts_of_a_batch_give_the_gradient_of_the_whole_one() -> None:
    torch.manual_seed(0)
    layer, inputs = nn.Linear(3, 1, bias=False), torch.randn(6, 3)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for part in inputs.chunk(3):
        _add_gradients(optimizer, len(part) / 6 * layer(part).square().mean(), ALONE)
    found = layer.weight.grad
    (expected,) = torch.autograd.grad(layer(inputs).square().mean(), list(layer.parameters()))
    assert found is not None
    torch.testing.assert_close(found, expected)


def test_a_renewed_last_block_alone_forgets_its_weights(start: Pretrained, tmp_path: Path) -> None:
    network = network_of("CC|CC")
    kept, renewed = (build(network, seed=3, start=start) for _ in range(2))
    renew_last_block(renewed, network, 3)
    drawn, last = build(network, seed=3).state_dict(), network.stages[-1].blocks[-1].path
    assert not torch.equal(renewed.state_dict()[f"{last}.conv1.weight"], kept.state_dict()[f"{last}.conv1.weight"])
    for name, value in renewed.state_dict().items():
        assert torch.equal(value, (drawn if name.startswith(f"{last}.") else kept.state_dict())[name]), name
    jobs = (job(network, tmp_path / name, start=start, renewed=name == "anew") for name in ("usual", "anew"))
    usual, anew = (trained(one)[1] for one in jobs)
    assert anew.metrics[START] < usual.metrics[START]
