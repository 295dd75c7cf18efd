"""A search on three nodes with its study in PostgreSQL, in which everything is killed once: equal decisions."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from optuna.trial import TrialState

from buildup.engine.run import open_run
from chaos import ancestors, decisions, workers

if TYPE_CHECKING:
    from tests.store.conftest import Server

ASKED = (
    *("--base", "test_resnet", "--dataset", "digits", "--fraction", "1/8", "--epochs", "30", "--seeds", "2"),
    *("--set", "min_steps=4", "--workers", "2", "--allow-weak-base", "--execution", "float32,channels-last,eager"),
)
FASTER = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3"}
"""Else Ray takes half a minute to believe that a node is gone."""


Start = Callable[..., "subprocess.Popen[str]"]


class Nodes:
    """A head without a CPU, and nodes with one each, as `ray start` makes them on machines of their own."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._program = str(Path(sys.executable).with_name("ray"))
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        self.temporary = Path(tempfile.mkdtemp(prefix="ray-"))  # the path of a socket has at most 107 characters
        flags = ["--num-cpus=0", f"--temp-dir={self.temporary}", "--include-dashboard=false"]
        self.head = self._node("--head", f"--port={port}", *flags)
        self.others: list[subprocess.Popen[str]] = []

    def join(self) -> None:
        until(lambda: "Resources" in self._status())
        for there in ("/1.0 CPU", "/2.0 CPU"):  # two that start at once get in each other's way
            self.others.append(self.add())
            until(lambda there=there: there in self._status())  # type: ignore[misc]

    def add(self) -> "subprocess.Popen[str]":
        return self._node(f"--address={self.address}", "--num-cpus=1")

    def _node(self, *flags: str) -> "subprocess.Popen[str]":
        ports = [f"--{name}-port={free_port()}" for name in ("dashboard-agent-listen", "dashboard-agent-grpc")]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return self._start([self._program, "start", *flags, *ports, "--block"], **quiet)

    def _status(self) -> str:
        command = [self._program, "status", "--address", self.address]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def close(self) -> None:
        for node in (*self.others, self.head):
            kill(node)


def kill(node: "subprocess.Popen[str]") -> None:
    """Kill a node with all its processes, as when its machine loses its power."""
    for pid in (*descendants(node.pid), node.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    node.wait()


def descendants(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if pid in ancestors(int(path.name)):
                found.append(int(path.name))
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def three_nodes(start: Start) -> Iterator[Nodes]:
    nodes = Nodes(start)
    try:
        nodes.join()
        yield nodes
    finally:
        nodes.close()
        shutil.rmtree(nodes.temporary, ignore_errors=True)


@pytest.mark.slow
def test_everything_is_killed_once_and_the_decisions_are_equal(
    tmp_path: Path,
    server: "Server",
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", **FASTER}.items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, "-m", "buildup"]
    subprocess.run([*command, "search", *ASKED, "--run", "here"], cwd=tmp_path, check=True, capture_output=True)
    run = tmp_path / "runs" / "there"

    def driven(*arguments: str) -> "subprocess.Popen[str]":
        return start([*command, *arguments], cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    with three_nodes(start) as cluster:
        place = ["--ray", cluster.address, "--storage", server.url, "--storage-path", "storage"]
        driver = driven("search", *ASKED, "--run", "there", *place)
        wait_for_epochs(run, driver)
        os.kill(workers()[0], signal.SIGKILL)
        wait_for_epochs(run, driver)
        server.stop()
        time.sleep(5)
        server.start()
        wait_for_epochs(run, driver)
        (tmp_path / "storage").rename(tmp_path / "aside")
        (tmp_path / "storage").touch()
        time.sleep(5)
        (tmp_path / "storage").unlink()
        (tmp_path / "aside").rename(tmp_path / "storage")
        wait_for_epochs(run, driver)
        kill(cluster.others.pop())
        cluster.others.append(cluster.add())
        wait_for_epochs(run, driver)
        driver.kill()
        driver.communicate()
        driver = driven("resume", "there")
        wait_for_epochs(run, driver)
        kill(cluster.head)
        _, told = driver.communicate(timeout=300)
    # Ray itself ends a driver whose own node is gone. That of another node is told so (test_signals.py).
    assert driver.returncode != 0, told
    with three_nodes(start) as cluster:
        driver = driven("resume", "there", "--ray", cluster.address)
        _, told = driver.communicate(timeout=500)
        assert driver.returncode == 0, told
        until(lambda: not workers())
    assert decisions(run) == decisions(tmp_path / "runs" / "here")
    opened = open_run(run)
    assert opened.status == "finished"
    assert [one for one in opened.study.trials if one.state is TrialState.RUNNING] == []
    finished = [path for path in run.glob("trainings/*") if len([*path.glob("*/final.json")]) > 1]
    assert finished == []


def wait_for_epochs(run: Path, driver: "subprocess.Popen[str]") -> None:
    """Wait until a few more epochs are recorded."""

    def recorded() -> int:
        return sum(path.read_bytes().count(b"\n") for path in run.glob("trainings/*/metrics.jsonl"))

    before = recorded()

    def is_there() -> bool:
        assert driver.poll() is None, driver.communicate()
        return recorded() >= before + 5

    until(is_there)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)
