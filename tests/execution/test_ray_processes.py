"""Trainings of two processes in a real Ray worker, on the CPU: deaths of a process and of the worker."""

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import torch
from safetensors.torch import load_file

from buildup.execution.ray_tune import RayEvaluator
from buildup.models.read import read_network
from buildup.training.fit import Job, fit
from buildup.training.recipe import load_recipe
from buildup.trials.event import Started
from buildup.trials.outcome import Epoch, Record, Score
from buildup.trials.training import Candidate, Training
from following import follow

pytestmark = pytest.mark.slow

NETWORK = read_network("test_resnet", input_shape=(1, 8, 8), num_classes=10)
EPOCHS = 20


def job(training: Training, folder: Path, earlier: Sequence[Path]) -> Job:
    return Job(
        network=NETWORK,
        seed=1,
        dataset="digits",
        image_size=8,
        fraction=0.1,
        recipe=replace(load_recipe("quick").with_epochs(EPOCHS), min_steps=4),
        processes=2,
        folder=str(folder),
        resume_from=tuple(map(str, earlier)),
    )


@pytest.fixture
def evaluator(tmp_path: Path) -> Iterator[RayEvaluator]:
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    ray.init(address="local", num_cpus=2, num_gpus=0, include_dashboard=False, logging_level=logging.CRITICAL)
    found = RayEvaluator(
        folder=tmp_path, train=fit, job=job, workers=1, cpus_per_worker=2, gpus_per_worker=0, address=None,
        verbose=False,
    )  # fmt: skip
    yield found
    found.close()
    ray.shutdown()


def state_of(pid: int) -> tuple[str, int]:
    """The state of a process, and its parent."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return "Z", 0
    return state, int(parent)


def ranks_of(worker: int) -> list[int]:
    """The processes that a worker has started for its training, the first one first."""
    pids = sorted(int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())
    children = [pid for pid in pids if state_of(pid)[1] == worker]
    return [pid for pid in children if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]


def until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_training_goes_on_after_the_deaths_of_a_process_and_of_its_worker_and_a_stop(
    evaluator: RayEvaluator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    training = Training(candidate=Candidate(network=NETWORK), seed=1)
    follow(fit(job(training, tmp_path / "whole", ())))
    evaluator.request([training])
    started: list[Started] = []
    reached = acted = 0
    while True:
        event = evaluator.next_event(timeout=120)
        assert event is not None, "nothing happened for two minutes"
        match event.update:
            case Started():
                started.append(event.update)
            case Epoch(number=number) if number > reached:
                reached = number
                pid, attempt = started[-1].pid, tmp_path / training.id / f"attempt-{started[-1].attempt}"
                if acted < len(started) <= 3:
                    acted += 1
                    until((attempt / "checkpoint.pt").exists)
                    ranks = ranks_of(pid)
                    assert len(ranks) == 2
                    victim, how = ((ranks[1], signal.SIGKILL), (pid, signal.SIGKILL), (pid, signal.SIGTERM))[
                        len(started) - 1
                    ]
                    os.kill(victim, how)
                    until(lambda ranks=ranks: all(state_of(rank)[0] == "Z" for rank in ranks))  # type: ignore[misc]
            case Record(outcome=outcome):
                break
    assert isinstance(outcome, Score)
    assert len(started) == 4
    assert "process 2 of 2 of the training" in caplog.text
    assert "died:" in caplog.text
    assert "was asked to end" in caplog.text
    weights = [load_file(place / "weights.safetensors") for place in (tmp_path / "whole", attempt)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
