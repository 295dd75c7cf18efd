"""Trainings of a tiny network on a part of the digits."""

import pickle
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from buildup.errors import RunError
from buildup.graph.network import Network
from buildup.models.build import build
from buildup.models.read import read_network
from buildup.training.checkpoint import Checkpoints
from buildup.training.data import load_data
from buildup.training.dataset import split
from buildup.training.execution_words import Execution, processor_name
from buildup.training.fit import Job, fit
from buildup.training.health import check_base
from buildup.training.recipe import Recipe, load_recipe
from buildup.training.train_step import Stepper, nudge
from buildup.training.validation import evaluate_model
from buildup.trials.outcome import Epoch, Failed, Reason, Score
from following import follow


@cache
def tiny(size: int = 8) -> Network:
    return read_network("test_resnet", input_shape=(1, size, size), num_classes=10)


def few_steps(recipe: str, epochs: int) -> Recipe:
    if recipe == "averaged":
        return replace(few_steps("quick-adamw", epochs), ema=0.9, layer_decay=0.7)
    return replace(load_recipe(recipe).with_epochs(epochs), min_steps=4)


def job(folder: Path, *, epochs: int = 2, fraction: float = 0.25, **changes: object) -> Job:
    settings = {
        "network": tiny(),
        "seed": 1,
        "dataset": "digits",
        "image_size": 8,
        "fraction": fraction,
        "recipe": few_steps("quick", epochs),
        "folder": str(folder),
    }
    return Job(**{**settings, **changes})  # type: ignore[arg-type]  # a test may change any field


def run(given: Job) -> tuple[list[Epoch], Score]:
    return follow(fit(given))


def test_a_training_learns_and_leaves_its_score_curve_and_weights(tmp_path: Path) -> None:
    epochs, score = run(job(tmp_path / "a", fraction=0.5, recipe=load_recipe("quick").with_epochs(3)))
    assert [epoch.number for epoch in epochs] == [1, 2, 3]
    assert score.accuracy > 50
    assert score.device == (processor_name() or "CPU")
    assert epochs[-1].metrics["train_loss"] < epochs[0].metrics["train_loss"]
    assert check_base([epochs], num_classes=10, images=score.images, expected=None) == []
    left = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert left == ["log.txt", "metrics.jsonl", "weights.safetensors"]
    assert len((tmp_path / "a" / "metrics.jsonl").read_text().splitlines()) == 3
    # The weights that were left give the score that was given.
    dataset = load_data("digits", None, 8)
    val = split(dataset, 1, fraction=0.5)[1]
    model = build(tiny())
    model.load_state_dict(load_file(tmp_path / "a" / "weights.safetensors"))
    found = evaluate_model(model, dataset.part(val), load_recipe("quick"), threads=1)
    assert score.correct is not None
    bits = np.unpackbits(np.frombuffer(score.correct, np.uint8), count=score.images)
    assert np.mean(bits) * 100 == pytest.approx(score.accuracy)
    assert np.array_equal(bits.astype(bool), found.correct.numpy())


def test_a_whole_training_sees_the_validation_images_and_is_another_training(tmp_path: Path) -> None:
    settings = {"fraction": 0.02, "recipe": replace(load_recipe("quick").with_epochs(1), min_steps=1)}
    run(job(tmp_path / "part", **settings))  # type: ignore[arg-type]
    _, score = run(job(tmp_path / "whole", whole=True, **settings))  # type: ignore[arg-type]
    seen = [int((tmp_path / name / "log.txt").read_text().split(": ")[1].split()[0]) for name in ("part", "whole")]
    assert seen[1] == seen[0] + score.images
    with pytest.raises(RunError, match="belongs to another training"):
        run(job(tmp_path / "mixed", whole=True, resume_from=(str(tmp_path / "part"),), **settings))  # type: ignore[arg-type]


def test_nudged_weights_are_the_next_larger_ones_and_make_another_training(tmp_path: Path) -> None:
    model, other = build(tiny(), seed=1), build(tiny(), seed=1)
    nudge(other)
    for one, nudged in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.all(nudged > one)
        assert torch.allclose(nudged, one, rtol=2e-7, atol=1e-40)
    scores = [run(job(tmp_path / f"{nudged}", nudged=nudged))[1] for nudged in (False, True)]
    assert scores[0].losses != scores[1].losses
    assert scores[0].validated == scores[1].validated


@pytest.mark.parametrize("recipe", ["quick", "paper", "averaged"])
def test_a_resumed_training_equals_an_unbroken_one_bit_by_bit(tmp_path: Path, recipe: str) -> None:
    whole = job(tmp_path / "whole", fraction=0.1, recipe=few_steps(recipe, 3))
    unbroken, score = run(whole)

    first = fit(replace(whole, folder=str(tmp_path / "attempt-1")))
    next(first)
    first.close()
    torch.rand(3)
    # The second attempt dies before its first epoch, and the third still finds what the first one did.
    second = fit(replace(whole, folder=str(tmp_path / "attempt-2"), resume_from=(str(tmp_path / "attempt-1"),)))
    next(second)  # remembered, not trained
    second.close()
    third, resumed = run(replace(whole, folder=str(tmp_path / "attempt-3"), resume_from=(str(tmp_path / "attempt-2"),)))

    assert [epoch.number for epoch in third] == [1, 2, 3]
    assert resumed.correct == score.correct
    assert {**resumed.metrics, "throughput": 0} == {**score.metrics, "throughput": 0}
    clocks = {"seconds", "throughput"}
    timeless = {key: value for key, value in unbroken[-1].metrics.items() if key not in clocks}
    assert {key: value for key, value in third[-1].metrics.items() if key not in clocks} == timeless
    assert len((tmp_path / "attempt-3" / "metrics.jsonl").read_text().splitlines()) == 3
    weights = [load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "attempt-3")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_averaged_weights_are_what_is_measured_and_kept(tmp_path: Path) -> None:
    """Without a decay the average is the last weights."""
    last, none, half = (
        job(tmp_path / name, fraction=0.1, recipe=replace(few_steps("quick", 1), ema=ema))
        for name, ema in (("last", 0.0), ("none", 1e-9), ("half", 0.5))
    )
    scores = [run(one)[1] for one in (last, none, half)]
    weights = [load_file(Path(one.folder) / "weights.safetensors") for one in (last, none, half)]
    assert scores[0].losses == scores[1].losses != scores[2].losses
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])


def test_snapshots_are_the_weights_of_their_epochs_and_go_with_a_resumed_training(tmp_path: Path) -> None:
    recipe = replace(few_steps("quick", 3), warmup_epochs=0.5, snapshots=("warmup", 2))
    whole = job(tmp_path / "whole", fraction=0.05, recipe=recipe)
    run(whole)
    first = fit(replace(whole, folder=str(tmp_path / "attempt-1")))
    next(first)
    first.close()
    run(replace(whole, folder=str(tmp_path / "attempt-2"), resume_from=(str(tmp_path / "attempt-1"),)))
    names = sorted(path.name for path in (tmp_path / "attempt-2").glob("weights-*"))
    assert names == ["weights-1.safetensors", "weights-2.safetensors"]
    for name in names:
        kept, resumed = load_file(tmp_path / "whole" / name), load_file(tmp_path / "attempt-2" / name)
        assert all(torch.equal(kept[tensor], resumed[tensor]) for tensor in kept)
    # They are the weights that a training that ends there leaves: one whose schedule does not know the end.
    flat = replace(recipe, schedule="steps", milestones=(100,), epochs=2, snapshots=(1,))
    run(replace(whole, folder=str(tmp_path / "long"), recipe=flat))
    run(replace(whole, folder=str(tmp_path / "short"), recipe=replace(flat, epochs=1, snapshots=())))
    kept, end = load_file(tmp_path / "long" / names[0]), load_file(tmp_path / "short" / "weights.safetensors")
    assert kept.keys() == end.keys()
    assert all(torch.equal(kept[tensor], end[tensor]) for tensor in kept)


def test_snapshots_do_not_make_another_training(tmp_path: Path) -> None:
    plain = job(tmp_path / "1", epochs=2, fraction=0.05)
    first = fit(plain)
    next(first)
    first.close()
    kept = replace(plain.recipe, snapshots=(1,))
    run(replace(plain, folder=str(tmp_path / "2"), resume_from=(str(tmp_path / "1"),), recipe=kept))
    assert "weights-1.safetensors: no earlier attempt has it" in (tmp_path / "2" / "log.txt").read_text()


@pytest.mark.parametrize("recipe", ["paper", "averaged"])
def test_a_training_goes_on_from_the_middle_of_a_long_epoch_bit_by_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    monkeypatch.setattr("buildup.training.fit.SEGMENT", 3)
    monkeypatch.setattr(Checkpoints, "_is_due", lambda self: self._wait() is None)
    whole = job(tmp_path / "whole", fraction=0.1, recipe=replace(few_steps(recipe, 2), batch_size=13))
    unbroken, score = run(whole)
    step, calls = Stepper.__call__, []

    def failing(self: Stepper, inputs: torch.Tensor, targets: torch.Tensor, lr: float) -> None:
        calls.append(lr)
        if len(calls) == 9 + 8:
            raise ZeroDivisionError
        step(self, inputs, targets, lr)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "__call__", failing)
        with pytest.raises(ZeroDivisionError):
            run(replace(whole, folder=str(tmp_path / "first")))
    resumed = replace(whole, folder=str(tmp_path / "second"), resume_from=(str(tmp_path / "first"),))
    epochs, again = run(resumed)
    assert "going on after step 6 after epoch 1 of" in (tmp_path / "second" / "log.txt").read_text()
    for ours, theirs in zip(epochs, unbroken, strict=True):
        clocks = {"seconds": 0, "throughput": 0}
        assert {**ours.metrics, **clocks} == {**theirs.metrics, **clocks}
    assert again.losses == score.losses
    weights = [load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "second")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_training_that_died_between_its_end_and_its_record_is_not_repeated(tmp_path: Path) -> None:
    done = job(tmp_path / "1", epochs=1, fraction=0.05)
    _, score = run(done)
    epochs, again = run(replace(done, folder=str(tmp_path / "2"), resume_from=(str(tmp_path / "1"),)))
    assert [epoch.number for epoch in epochs] == [1]
    assert again == score


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    done = job(tmp_path / "1", epochs=1, fraction=0.05)
    run(done)
    with pytest.raises(RunError, match="belongs to another training"):
        run(replace(done, folder=str(tmp_path / "2"), resume_from=(str(tmp_path / "1"),), seed=2))
    with pytest.raises(RunError, match="is not the folder of an earlier attempt"):
        run(replace(done, folder=str(tmp_path / "2"), resume_from=(str(tmp_path / "none"),)))


def test_a_diverging_training_is_a_named_failure(tmp_path: Path) -> None:
    wild = replace(load_recipe("quick").with_epochs(2), lr=1e20)
    with pytest.raises(Failed, match="loss became") as failed:
        run(job(tmp_path, recipe=wild, fraction=0.1))
    assert failed.value.reason is Reason.DIVERGED


def test_a_job_travels_to_a_worker(tmp_path: Path) -> None:
    given = job(tmp_path)
    assert pickle.loads(pickle.dumps(given)) == given


def test_a_worker_gets_its_settings_back(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        training = fit(job(tmp_path, fraction=0.05, threads=1, execution=Execution(deterministic=True)))
        next(training)
        assert torch.get_num_threads() == 1
        training.close()
        assert torch.get_num_threads() == 2
        assert not torch.are_deterministic_algorithms_enabled()
    finally:
        torch.set_num_threads(threads)


def test_kernels_are_searched_for_in_whole_batches_of_training_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: dict[tuple[bool, int], set[bool]] = {}
    forward = torch.nn.Conv2d.forward

    def watched(self: torch.nn.Conv2d, images: torch.Tensor) -> torch.Tensor:
        searched.setdefault((self.training, len(images)), set()).add(torch.backends.cudnn.benchmark)
        return forward(self, images)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", watched)
    recipe = replace(load_recipe("quick").with_epochs(1), batch_size=22, min_steps=1)
    run(job(tmp_path, recipe=recipe, fraction=0.05))  # 60 images
    assert {size: found for (training, size), found in searched.items() if training} == {22: {True}, 16: {False}}
    assert {flag for (training, _), found in searched.items() if not training for flag in found} == {False}


@pytest.mark.slow
def test_resnet18_reads_digits(tmp_path: Path) -> None:
    network = read_network("resnet18", input_shape=(1, 16, 16), num_classes=10)
    recipe = load_recipe("quick").with_epochs(6)
    _, score = run(
        job(
            tmp_path,
            network=network,
            image_size=16,
            recipe=recipe,
            fraction=1.0,
            execution=Execution(precision="bf16", channels_last=True),
            threads=2,
        )
    )
    assert score.accuracy > 95
