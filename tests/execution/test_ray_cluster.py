"""What is found out on the machines of a cluster, on a real one."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

import buildup
from buildup.engine.request import resolve
from buildup.errors import DataError, RequestError, ResourceError
from buildup.execution.ray_cluster import accelerators_of, gpus_of, on_worker
from buildup.execution.ray_nodes import resources_of
from buildup.settings import SearchSettings
from buildup.training.speed import Speed

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # type: ignore[no-untyped-call]
SEARCH = {"base": "resnet6", "dataset": "digits", "epochs": 1, "seeds": 2}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster that says it has a GPU, which is all that Ray knows of it."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "num_gpus": 1, "include_dashboard": False})
    yield cluster.address
    cluster.shutdown()  # type: ignore[no-untyped-call]


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
        buildup.plan(**SEARCH, ray=address)  # type: ignore[arg-type]


def test_the_speed_of_a_plan_is_that_of_a_worker(address: str) -> None:
    made = buildup.plan(**SEARCH, ray=address, device="cpu")  # type: ignore[arg-type]
    (speed,) = made.request.speeds
    assert made.request.settings.device == "cpu"
    assert made.images_per_second == 1 / speed.train


@pytest.mark.slow
def test_all_trainings_of_a_cluster_with_several_kinds_of_gpus_get_one_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
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
