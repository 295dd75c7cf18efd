"""Trainings in two processes on the CPU: the result of one device, resume, and the ends of processes."""

import multiprocessing
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from timm.layers.evo_norm import EvoNorm2dB0
from timm.layers.norm_act import FrozenBatchNormAct2d

from buildup.errors import ResourceError
from buildup.models.read import read_network
from buildup.training import fit as fitting
from buildup.training.data import open_data
from buildup.training.data_parallel import ALONE, ProcessGroup
from buildup.training.execution_words import Execution
from buildup.training.feed import Feed, batch_starts
from buildup.training.fit import Job, fit
from buildup.training.processes import in_processes
from buildup.training.recipe import RandAugment, Recipe, load_recipe
from buildup.trials.outcome import Epoch, Failed, Reason
from following import follow
from toy_ranks import DIVERGES, counting

STRONG = replace(
    load_recipe("paper"),
    batch_size=11,
    eval_batch_size=4,
    erasing=0.5,
    colour_jitter=0.4,
    randaugment=RandAugment(layers=2, magnitude=9.0, std=0.5),
)


@given(batch=st.integers(4, 40), size=st.integers(1, 5))
def test_the_rows_of_all_processes_are_a_batch_and_the_partners_of_mixup_stay_together(batch: int, size: int) -> None:
    rows = [ProcessGroup(rank=rank, size=size).rows(batch) for rank in range(size)]
    assert sorted(np.concatenate(rows).tolist()) == list(range(batch))
    for own in rows:
        assert own.tolist() == (batch - 1 - own[::-1]).tolist()
        assert len(own) >= 2 or batch < 2 * size


def images(folder: Path) -> str:
    for name, shade in (("a", 50), ("b", 200)):
        (folder / name).mkdir(parents=True)
        for number in range(16):
            Image.new("RGB", (40, 36), (shade, 10 * number, number)).save(folder / name / f"{number}.png")
    return f"folder:{folder}"


def feeds(recipe: Recipe, data: str, size: int) -> list[Feed]:
    dataset = open_data(data, None, 16, recipe)
    index = torch.arange(32)
    return [
        Feed(
            recipe=recipe, dataset=dataset, train=index[:26], val=index[26:], seed=3, device=torch.device("cpu"),
            group=ProcessGroup(rank=rank, size=size),
        )
        for rank in range(size)
    ]  # fmt: skip


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("source", ["decoded", "streamed"])
def test_processes_see_the_rows_of_the_batches_of_one_device(tmp_path: Path, source: str, size: int) -> None:
    recipe = STRONG if source == "decoded" else replace(STRONG, resized_crop=(0.3, 1.0), crop_padding=0)
    data = images(tmp_path / "images")
    [alone] = feeds(recipe, data, 1)
    ranks = feeds(recipe, data, size)
    whole = list(alone.epoch(2))
    assert len(whole) == len(batch_starts(26, 11))
    for batch, *parts in zip(whole, *(feed.epoch(2) for feed in ranks), strict=True):
        for feed, part in zip(ranks, parts, strict=True):
            rows = torch.from_numpy(feed.group.rows(len(batch[0])))
            assert torch.equal(part[0], batch[0][rows])
            assert torch.equal(part[1], batch[1][rows])
    validated = [torch.cat([batch for batch, _ in feed.validation(2)]) for feed in ranks]
    assert torch.equal(torch.cat(validated), torch.cat([batch for batch, _ in alone.validation(2)]))


def job(folder: Path, **changes: Any) -> Job:
    settings: dict[str, Any] = {
        "network": read_network("test_resnet", input_shape=(1, 8, 8), num_classes=10),
        "seed": 1,
        "dataset": "digits",
        "image_size": 8,
        "fraction": 0.1,
        "recipe": replace(load_recipe("quick").with_epochs(2), min_steps=4),
        "folder": str(folder),
    }
    return Job(**{**settings, **changes})


def test_batches_that_are_too_small_to_be_shared_are_refused(tmp_path: Path) -> None:
    training = fitting._train(job(tmp_path), [], 1, ProcessGroup(rank=0, size=15))
    with pytest.raises(ResourceError, match=r"15 GPUs .* the smallest batch has 29"):
        next(training)


def test_statistics_over_a_batch_that_are_not_those_of_batch_norm_are_refused() -> None:
    with pytest.raises(ResourceError, match="1 is a EvoNorm2dB0"):
        ProcessGroup(size=2).spread(torch.nn.Sequential(FrozenBatchNormAct2d(4), EvoNorm2dB0(4)))


@pytest.fixture
def no_processes_left() -> Iterator[None]:
    yield
    assert multiprocessing.active_children() == []


def test_epochs_come_from_the_first_process_and_an_error_of_another_one_is_that_of_the_training(
    no_processes_left: None,
) -> None:
    yielded: list[Epoch] = []
    with pytest.raises(Failed, match="the loss is not a number") as failed:
        follow(in_processes(partial(counting, 3, DIVERGES), 2, "cpu", yielded))
    assert failed.value.reason is Reason.DIVERGED
    # The other process does not wait for the first one to be heard, so its error may come before the epoch.
    assert [epoch.metrics for epoch in yielded] in ([], [{"total": 3.0}])


@pytest.mark.slow
def test_a_process_that_is_killed_is_named_and_the_others_end(no_processes_left: None) -> None:
    yielded: list[Epoch] = []
    training = in_processes(partial(counting, 10**9, None), 2, "cpu", yielded)
    next(training)
    next(process for process in multiprocessing.active_children() if process.name == "rank 1").kill()
    with pytest.raises(Failed, match=r"process 2 of 2 of the training \(pid \d+\) ended by SIGKILL") as failed:
        follow(training)
    assert failed.value.reason is Reason.LOST
    assert yielded


@pytest.mark.slow
def test_an_exception_keeps_its_kind_and_its_traceback(no_processes_left: None) -> None:
    with pytest.raises(ZeroDivisionError) as raised:
        follow(in_processes(partial(counting, 3, ZeroDivisionError("a broken block")), 3, "cpu", []))
    assert "in counting" in "".join(raised.value.__notes__)


def difference(one: Path, other: Path) -> float:
    """Of all weights, relative to their size."""
    ours, theirs = (load_file(folder / "weights.safetensors") for folder in (one, other))
    floats = [name for name, tensor in ours.items() if tensor.is_floating_point()]
    flat, apart = (torch.cat([each.flatten() for each in found]) for found in (
        [ours[name] for name in floats], [ours[name] - theirs[name] for name in floats]
    ))  # fmt: skip
    return float(apart.norm() / flat.norm())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "limit"),
    [
        ({}, 1e-5),
        ({"recipe": replace(STRONG.with_epochs(2), batch_size=13, drop_path=0.0)}, 1e-5),
        ({"execution": Execution(precision="bf16", channels_last=True)}, 0.05),
    ],
    ids=["quick", "paper", "bf16"],
)
def test_two_processes_have_the_result_of_one(
    tmp_path: Path, no_processes_left: None, changes: dict[str, Any], limit: float
) -> None:
    _, one = follow(fit(job(tmp_path / "one", **changes)))
    epochs, two = follow(fit(job(tmp_path / "two", **changes, processes=2)))
    assert [epoch.number for epoch in epochs] == [1, 2]
    assert difference(tmp_path / "one", tmp_path / "two") < limit
    assert two.metrics["nll"] == pytest.approx(one.metrics["nll"], rel=limit)
    assert two.validated == one.validated
    left = sorted(path.name for path in (tmp_path / "two").iterdir())
    assert left == ["log.txt", "metrics.jsonl", "weights.safetensors"]


@pytest.mark.slow
def test_attempts_after_a_stop_and_after_a_killed_process_go_on_to_the_same_weights(
    tmp_path: Path, no_processes_left: None
) -> None:
    shared = job(tmp_path / "whole", processes=2, recipe=replace(load_recipe("quick").with_epochs(4), min_steps=4))
    _, whole = follow(fit(shared))
    first = fit(replace(shared, folder=str(tmp_path / "1")))
    next(first)
    first.close()
    second = fit(replace(shared, folder=str(tmp_path / "2"), resume_from=(str(tmp_path / "1"),)))
    next(second)  # remembered
    next(second)
    next(process for process in multiprocessing.active_children() if process.name == "rank 1").kill()
    with pytest.raises(Failed, match="process 2 of 2"):
        follow(second)
    again, score = follow(fit(replace(shared, folder=str(tmp_path / "3"), resume_from=(str(tmp_path / "2"),))))
    assert [epoch.number for epoch in again] == [1, 2, 3, 4]
    assert "going on after epoch" in (tmp_path / "3" / "log.txt").read_text()
    assert difference(tmp_path / "whole", tmp_path / "3") == 0
    assert {**score.metrics, "throughput": 0} == {**whole.metrics, "throughput": 0}


@pytest.mark.slow
def test_two_processes_make_batches_in_parts_and_resume_what_one_began(tmp_path: Path, no_processes_left: None) -> None:
    first = fit(job(tmp_path / "first"))
    next(first)
    first.close()
    shared = job(tmp_path / "second", processes=2, resume_from=(str(tmp_path / "first"),))
    epochs, score = follow(fitting._attempt(shared, [], parts=2))
    assert [epoch.number for epoch in epochs] == [1, 2]
    assert score.accuracy > 0
    assert "in 2 parts" in (tmp_path / "second" / "log.txt").read_text()


def test_one_process_alone_asks_for_nothing() -> None:
    model = torch.nn.BatchNorm2d(2)
    assert ALONE.spread(model) is model
    assert ALONE.gather(1) == [1]
    assert ALONE.share(1) == 1
    assert ALONE.rows(3).tolist() == [0, 1, 2]
