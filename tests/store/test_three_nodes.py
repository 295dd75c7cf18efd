"""A search on three nodes with its study in PostgreSQL, in which everything is killed once: equal decisions."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from optuna.trial import TrialState
from ray.cluster_utils import Cluster

from buildup.engine.run import open_run
from chaos import decisions, workers

if TYPE_CHECKING:
    from tests.store.conftest import Server

ASKED = (
    *("--base", "test_resnet", "--dataset", "digits", "--fraction", "1/8", "--epochs", "60", "--seeds", "2"),
    *("--set", "min_steps=4", "--workers", "2", "--allow-weak-base", "--execution", "float32,channels-last,eager"),
)
FASTER = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3"}
"""Else Ray takes half a minute to believe that a node is gone."""


@contextmanager
def three_nodes() -> Iterator[Cluster]:
    head = {"num_cpus": 0, "include_dashboard": False, "include_log_monitor": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(num_cpus=1)
    cluster.add_node(num_cpus=1)
    try:
        yield cluster
    finally:
        with suppress(Exception):  # its head may be gone
            cluster.shutdown()  # type: ignore[no-untyped-call]


@pytest.mark.slow
def test_everything_is_killed_once_and_the_decisions_are_equal(
    tmp_path: Path,
    server: "Server",
    start: Callable[..., "subprocess.Popen[str]"],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {"RAY_USAGE_STATS_ENABLED": "0", **FASTER}.items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, "-m", "buildup"]
    subprocess.run([*command, "search", *ASKED, "--run", "here"], cwd=tmp_path, check=True, capture_output=True)
    run = tmp_path / "runs" / "there"

    def driven(*arguments: str) -> "subprocess.Popen[str]":
        return start([*command, *arguments], cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    with three_nodes() as cluster:
        place = ["--ray", str(cluster.address), "--storage", server.url, "--storage-path", "storage"]
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
        cluster.remove_node(cluster.worker_nodes.copy().pop(), allow_graceful=False)
        cluster.add_node(num_cpus=1)
        wait_for_epochs(run, driver)
        driver.kill()
        driver.communicate()
        driver = driven("resume", "there")
        wait_for_epochs(run, driver)
        head: Any = cluster.head_node
        head.kill_all_processes(check_alive=False, allow_graceful=False)
        _, told = driver.communicate(timeout=300)
    assert driver.returncode == 1
    assert "Ray's head has not answered" in told
    with three_nodes() as cluster:
        driver = driven("resume", "there", "--ray", str(cluster.address))
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
