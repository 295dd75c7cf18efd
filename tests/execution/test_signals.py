"""A real search whose processes are ended from outside."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from buildup.store.run_record import open_record

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def search(tmp_path: Path, start: Start) -> "subprocess.Popen[str]":
    """A search in a session of its own that has finished an epoch, in the folder `run`."""
    words = ("search", "--base", "test_resnet", "--dataset", "digits", "--epochs", "500", "--seeds", "1")
    process = start(
        [sys.executable, "-m", "buildup", *words, "--workers", "1", "--run", str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    end = time.monotonic() + 120
    while not list(tmp_path.glob("run/trainings/*/metrics.jsonl")):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.1)
    return process


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_all_processes_of_a_search_ends_it_in_seconds_with_the_way_to_go_on(
    search: "subprocess.Popen[str]", tmp_path: Path, number: int
) -> None:
    os.killpg(search.pid, number)
    _, said = search.communicate(timeout=30)
    assert said.splitlines()[-1] == f"Interrupted. Go on with: buildup resume {tmp_path / 'run'}"
    assert search.returncode == 130
    assert open_record(str(tmp_path / "run")).status == "stopped"


@pytest.mark.slow
def test_the_loss_of_ray_itself_is_told_with_the_way_to_go_on(search: "subprocess.Popen[str]", tmp_path: Path) -> None:
    listed = subprocess.run(["ps", "-wweo", "pid,pgid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()[1:]]
    [head] = [int(pid) for pid, group, command in rows if int(group) == search.pid and "gcs_server" in command]
    os.kill(head, signal.SIGKILL)
    _, said = search.communicate(timeout=55)
    assert "Ray's head has not answered for" in said
    assert "`buildup resume`" in said
    assert search.returncode == 1
    assert open_record(str(tmp_path / "run")).status == "failed"
