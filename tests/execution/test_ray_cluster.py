"""A real cluster of two nodes on this machine: what is found out there, and faults of machines and workers."""

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

import buildup
from buildup.engine.request import resolve
from buildup.errors import DataError, RequestError, ResourceError
from buildup.execution import handshake, ray_nodes
from buildup.execution.ray_cluster import accelerators_of, gpus_of, on_worker
from buildup.execution.ray_nodes import resources_of
from buildup.execution.ray_tune import RayEvaluator
from buildup.execution.workplace import WORK
from buildup.graph.network import sketch
from buildup.settings import SearchSettings
from buildup.store.remote_folder import RemoteFolder, mark_remote, remote_url
from buildup.store.run_dir import trained_weights
from buildup.training.speed import Speed
from buildup.trials.event import Event, Started
from buildup.trials.outcome import Epoch, Record, Score
from buildup.trials.training import WEIGHTS, Candidate, Training

# The workers can't import this file, so its functions travel whole.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # type: ignore[no-untyped-call]
SEARCH = {"base": "resnet6", "dataset": "digits", "epochs": 1, "seeds": 2}
HEAD: dict[str, Any] = {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}
"""A head without the processes that no test here looks at."""
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_prestart_worker_first_driver": "0",  # else a process a CPU starts with each connection
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes with a CPU each. The first one says that it has a GPU, which is all that Ray knows of it."""
    with pytest.MonkeyPatch.context() as patched:
        for name, value in ENVIRONMENT.items():
            patched.setenv(name, value)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 1, **HEAD})
        cluster.add_node(num_cpus=1)
        yield cluster
        cluster.shutdown()  # type: ignore[no-untyped-call]


@pytest.fixture
def address(cluster: Cluster) -> str:
    """The cluster, for tests whose driver connects by itself; they stand before those with `connected`."""
    assert not ray.is_initialized()
    return str(cluster.address)


def where(value: int) -> tuple[int, int]:
    return os.getpid(), value


def refusing() -> None:
    raise DataError("no images")


def failing() -> None:
    raise ZeroDivisionError("one line\nthe last line")


def test_a_function_is_called_in_a_worker_and_its_errors_come_back_as_sentences(address: str) -> None:
    process, value = on_worker(where, 7, resources=resources_of(1, 0), address=address)
    assert value == 7
    assert process != os.getpid()
    with pytest.raises(DataError, match=r"^no images$"):
        on_worker(refusing, resources=resources_of(1, 0), address=address)
    with pytest.raises(ResourceError, match=f"{address} can't train: the last line"):
        on_worker(failing, resources=resources_of(1, 0), address=address)
    with pytest.raises(ResourceError, match="1 workers with 1 CPU and 3 GPU each do not fit"):
        on_worker(where, 7, resources=resources_of(1, 3), address=address)
    assert gpus_of(address) == 1
    assert not ray.is_initialized()


@pytest.mark.slow
def test_what_is_missing_for_a_cluster_with_a_token_is_said(
    tmp_path: Path, start: Callable[..., "subprocess.Popen[str]"]
) -> None:
    cases = (
        ("disabled", "0" * 64, "RAY_AUTH_MODE is disabled here"),
        ("token", "1" * 64, "the token here is not its token"),
        ("token", "", "no token is here"),
        ("", "", "no token is here"),
        ("", "0" * 64, ""),
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    ray_program = Path(sys.executable).parent / "ray"
    flags = ["--head", "--block", f"--port={port}", "--num-cpus=1", "--include-dashboard=false"]
    short = Path(tempfile.mkdtemp(prefix="ray-"))  # the path of a socket has at most 107 characters
    head = start(
        [ray_program, "start", *flags, f"--temp-dir={short}"],
        env=plain | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not answers(port):
            assert head.poll() is None
            time.sleep(0.2)
        for number, (mode, token, lacks) in enumerate(cases):
            home = tmp_path / f"{number}"
            (home / ".ray").mkdir(parents=True)
            if token:
                (home / ".ray" / "auth_token").write_text(token)
            connect = f"from buildup.execution.ray_cluster import gpus_of; gpus_of('127.0.0.1:{port}')"
            driver = start(
                [sys.executable, "-c", connect],
                env=plain | {"HOME": str(home)} | ({"RAY_AUTH_MODE": mode} if mode else {}),
                stderr=subprocess.PIPE,
                text=True,
            )
            _, error = driver.communicate(timeout=120)
            assert (driver.returncode == 0) == (not lacks)
            assert not lacks or f"this cluster wants a token, and {lacks}. Copy" in error.splitlines()[-1]
    finally:
        head.terminate()
        head.wait(timeout=60)
        shutil.rmtree(short)


def answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def test_a_search_on_a_cluster_takes_its_gpus_although_the_driver_has_none(address: str) -> None:
    # The worker gets the GPU that the cluster promised, and finds none.
    with pytest.raises(ResourceError, match=r"A worker of the Ray cluster at .* can't train: .*NVIDIA"):
        buildup.plan(**SEARCH, ray=address, threads=1)  # type: ignore[arg-type]


def test_the_speed_of_a_plan_is_that_of_a_worker(address: str) -> None:
    made = buildup.plan(**SEARCH, ray=address, device="cpu")  # type: ignore[arg-type]
    (speed,) = made.request.speeds
    assert made.request.settings.device == "cpu"
    assert made.images_per_second == 1 / speed.train


@pytest.mark.slow
def test_all_trainings_of_a_cluster_with_several_kinds_of_gpus_get_one_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **HEAD})
    try:
        for kind, count in (("T4", 1), ("A100", 2)):
            cluster.add_node(num_cpus=2, num_gpus=count, resources={f"accelerator_type:{kind}": 1})
        assert accelerators_of(cluster.address) == {"A100": 2, "T4": 1}
        asked = {"base": "resnet6", "dataset": "digits", "run": "never-made", "ray": cluster.address, "device": "cuda"}
        measured: list[Mapping[str, float]] = []

        def on_worker(*_: object, resources: Mapping[str, float], address: str) -> tuple[Speed, ...]:
            measured.append(resources)
            return ()

        monkeypatch.setattr("buildup.execution.ray_cluster.on_worker", on_worker)
        assert resolve(SearchSettings(**asked)).settings.accelerator == "A100"
        assert resolve(SearchSettings(**asked, accelerator="T4")).settings.accelerator == "T4"
        assert [list(resources)[-1] for resources in measured] == ["accelerator_type:A100", "accelerator_type:T4"]
        with pytest.raises(RequestError, match="unknown --accelerator 'H200'"):
            resolve(SearchSettings(**asked, accelerator="H200"))
        monkeypatch.undo()
        host = on_worker_of(cluster.address, "T4")
        assert host == {"GPU": 1.0, "accelerator_type:T4": 1.0}
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]


def on_worker_of(address: str, kind: str) -> dict[str, float]:
    """The GPUs of the machine where a function of a kind of GPU runs."""

    def here() -> dict[str, float]:
        node = ray.get_runtime_context().get_node_id()
        (own,) = (one["Resources"] for one in ray.nodes() if one["NodeID"] == node)  # type: ignore[no-untyped-call]
        return {name: own[name] for name in own if name == "GPU" or name.startswith("accelerator_type")}

    return on_worker(here, resources=resources_of(1, 1, kind), address=address)


def toy(job: dict[str, Any]) -> Generator[Epoch, None, Score]:
    """Three epochs, which fail on the bad node."""
    if ray.get_runtime_context().get_node_id() == job["bad"]:
        raise RuntimeError("CUDA error: uncorrectable ECC error encountered")
    for number in (1, 2, 3):
        time.sleep(job["seconds"])
        yield Epoch(number=number, metrics={"accuracy": 1.0})
    return Score(accuracy=50.0)


@pytest.fixture(scope="module")
def connected(cluster: Cluster) -> Iterator[None]:
    """This process is a driver of the cluster, for the rest of the tests."""
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.CRITICAL)
    yield
    ray.shutdown()


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a training in a storage gets."""

    folder: str
    resume_from: tuple[str, ...]


def with_its_folder(job: Job) -> Generator[Epoch, None, Score]:
    """Leave the name of the folder in the place of weights."""
    (Path(job.folder) / WEIGHTS).write_text(job.folder)
    yield Epoch(number=1, metrics={"accuracy": 1.0})
    return Score(accuracy=50.0)


@pytest.mark.slow
@pytest.mark.usefixtures("connected")
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
            train=with_its_folder,
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
def evaluator(tmp_path: Path, connected: None, cluster: Cluster) -> Iterator[Make]:
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


@pytest.mark.usefixtures("connected")
def test_a_process_on_another_node_is_ended() -> None:
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
