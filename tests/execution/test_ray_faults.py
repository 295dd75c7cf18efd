"""Faults of machines and workers, on a real cluster of two nodes on this machine."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from buildup.errors import ResourceError
from buildup.execution import handshake, ray_nodes
from buildup.execution.ray_tune import RayEvaluator
from buildup.execution.workplace import WORK
from buildup.graph.network import sketch
from buildup.store.remote_folder import RemoteFolder, mark_remote, remote_url
from buildup.store.run_dir import trained_weights
from buildup.trials.event import Event, Started
from buildup.trials.outcome import Epoch, Record, Score
from buildup.trials.training import WEIGHTS, Candidate, Training

# The workers can't import this file, so its functions travel whole.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # type: ignore[no-untyped-call]

SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


def toy(job: dict[str, Any]) -> Generator[Epoch, None, Score]:
    """Three epochs, which fail on the bad node."""
    if ray.get_runtime_context().get_node_id() == job["bad"]:
        raise RuntimeError("CUDA error: uncorrectable ECC error encountered")
    for number in (1, 2, 3):
        time.sleep(job["seconds"])
        yield Epoch(number=number, metrics={"accuracy": 1.0})
    return Score(accuracy=50.0)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes with a CPU each."""
    before = {name: os.environ.get(name) for name in SETTINGS}
    os.environ |= SETTINGS
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.CRITICAL)
    yield cluster
    ray.shutdown()
    cluster.shutdown()  # type: ignore[no-untyped-call]
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a training in a storage gets."""

    folder: str
    resume_from: tuple[str, ...]


def where(job: Job) -> Generator[Epoch, None, Score]:
    """Leave the name of the folder in the place of weights."""
    (Path(job.folder) / WEIGHTS).write_text(job.folder)
    yield Epoch(number=1, metrics={"accuracy": 1.0})
    return Score(accuracy=50.0)


@pytest.mark.slow
def test_a_node_trains_in_its_own_temporary_folder(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "its own").mkdir()
    node = cluster.add_node(num_cpus=3, env_vars={"TMPDIR": str(tmp_path / "its own")})
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    remote = RemoteFolder(remote_url(str(tmp_path / "storage"))) / "demo"
    mark_remote(remote)
    training = Training(candidate=Candidate(network=sketch("CC|CC")), seed=0)
    with closing(
        RayEvaluator(
            folder=tmp_path / "trainings",
            train=where,
            job=lambda training, folder, earlier: Job(folder=str(folder), resume_from=tuple(map(str, earlier))),
            workers=1,
            cpus_per_worker=3,
            gpus_per_worker=0,
            address=cluster.address,
            verbose=False,
            remote=remote,
        )
    ) as evaluator:
        evaluator.request([training])
        while not isinstance((event := evaluator.next_event()).update, Record):  # type: ignore[union-attr]
            pass
    cluster.remove_node(node)
    assert isinstance(event, Event)
    assert isinstance(event.update, Record)
    assert isinstance(event.update.outcome, Score), event.update.outcome
    weights = trained_weights(tmp_path / "trainings" / training.id)
    assert weights is not None
    assert weights.read_text().startswith(str(tmp_path / "its own" / WORK))


Make = Callable[..., RayEvaluator]


@pytest.fixture
def evaluator(tmp_path: Path, cluster: Cluster) -> Iterator[Make]:
    made: list[RayEvaluator] = []

    def make(workers: int = 2, bad: str = "", seconds: float = 0.01, **settings: Any) -> RayEvaluator:
        def job(training: Training, folder: Path, earlier: Sequence[Path]) -> dict[str, Any]:
            return {"bad": bad, "seconds": seconds}

        one = RayEvaluator(
            folder=tmp_path / "trainings",
            train=toy,
            job=job,
            workers=workers,
            cpus_per_worker=1,
            gpus_per_worker=0,
            address=cluster.address,
            verbose=False,
            **settings,
        )
        made.append(one)
        return one

    yield make
    for one in made:
        one.close()


def trainings(count: int) -> list[Training]:
    return [Training(candidate=Candidate(network=sketch("CC|CC")), seed=seed) for seed in range(count)]


def until_ended(evaluator: RayEvaluator, requested: list[Training], see: Callable[[Event], None]) -> list[Record]:
    """Request these until they have all ended."""
    left, records = list(requested), []
    while left:
        evaluator.request(left)
        event = evaluator.next_event(timeout=60)
        assert event is not None, "nothing happened for a minute"
        see(event)
        if isinstance(event.update, Record):
            records.append(event.update)
            left = [training for training in left if training.id != event.training.id]
    return records


def test_a_node_with_a_broken_gpu_spoils_no_training_and_gets_no_more_of_them(
    evaluator: Make, caplog: pytest.LogCaptureFixture
) -> None:
    bad = ray.nodes()[0]["NodeID"]  # type: ignore[no-untyped-call]
    nodes: list[str] = []

    def see(event: Event) -> None:
        if isinstance(event.update, Started):
            nodes.append(event.update.node)

    records = until_ended(evaluator(bad=bad, seconds=0.2), trainings(8), see)
    assert [record.outcome for record in records] == [Score(accuracy=50.0)] * 8
    assert nodes.count(bad) == 3
    assert caplog.text.count("failed 3 times and gets no more trainings in this run") == 1


def test_a_process_on_another_node_is_ended(cluster: Cluster) -> None:
    [other] = {node["NodeID"] for node in ray.nodes()} - {ray.get_runtime_context().get_node_id()}  # type: ignore[no-untyped-call]
    sleeper = subprocess.Popen(["sleep", "60"])
    ray_nodes.end_process(sleeper.pid, other)
    assert sleeper.wait(30) == -signal.SIGKILL


@pytest.mark.slow
def test_a_worker_that_hangs_is_ended_and_its_training_goes_on(
    evaluator: Make, caplog: pytest.LogCaptureFixture
) -> None:
    stopped: list[int] = []

    def see(event: Event) -> None:
        if isinstance(event.update, Started) and not stopped:
            stopped.append(event.update.pid)
            os.kill(event.update.pid, signal.SIGSTOP)

    [record] = until_ended(evaluator(workers=1, seconds=0.2, stall_timeout=4.0), trainings(1), see)
    assert record.outcome == Score(accuracy=50.0)
    assert f"(pid {stopped[0]}) has reported nothing for 4 s and is ended" in caplog.text
    assert f"(pid {stopped[0]}) died" in caplog.text


@pytest.mark.slow
def test_a_worker_that_is_asked_to_end_ends_its_epoch_and_another_one_goes_on(
    evaluator: Make, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[int] = []

    def see(event: Event) -> None:
        if isinstance(event.update, Epoch) and pids[-1] not in asked and len(asked) < 4:
            asked.append(pids[-1])
            os.kill(pids[-1], signal.SIGTERM)
        if isinstance(event.update, Started):
            pids.append(event.update.pid)

    pids: list[int] = []
    [record] = until_ended(evaluator(workers=1, seconds=0.5), trainings(1), see)
    assert record.outcome == Score(accuracy=50.0)
    assert len(asked) == 4
    assert caplog.text.count("was asked to end") == 4


def test_a_node_that_does_not_see_the_run_is_named_before_anything_is_trained(
    evaluator: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_nodes, "_probe", lambda _: nullcontext(str(tmp_path / "unseen")))
    monkeypatch.setattr(handshake, "FOLDER_PATIENCE", 0.0)
    with pytest.raises(ResourceError, match=f"node .* does not see {tmp_path}.*--run on a path that is shared"):
        evaluator()


def test_a_node_with_other_software_is_named_before_anything_is_trained(
    evaluator: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("buildup.execution.ray_tune.software", lambda: {"timm": "0.1"})
    with pytest.raises(ResourceError, match=r"node .* has timm 1.*, and the driver 0\.1"):
        evaluator()
