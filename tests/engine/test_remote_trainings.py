"""A run whose trainings write into a storage: what its commands find there, and that kills change no decision."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from buildup.cli.main import main
from buildup.engine.load_state import state_of
from buildup.store.remote_folder import RemoteFolder, mark_remote, remote_url
from buildup.store.reuse import ReusableRuns
from buildup.store.run_dir import FINAL, attempt_folder, note_remote, remote_of
from buildup.store.run_record import RunRecord, open_record
from buildup.training.recipe import shipped_recipes
from buildup.trials.outcome import Record, record_to_values
from buildup.trials.training import WEIGHTS, Training
from s3_server import s3_server

SHORT = shipped_recipes()["quick"].read_text().replace("min_steps: 32", "min_steps: 8")
ASKED = [
    *("--base", "test_resnet", "--dataset", "digits", "--epochs", "5", "--seeds", "1", "--fraction", "1/2"),
    *("--workers", "2", "--recipe", "short.yaml", "--allow-weak-base", "--no-base-checks"),
    *("--execution", "float32,channels-last,eager"),
]


@pytest.fixture
def run(tried: Path, tmp_path: Path) -> RunRecord:
    """A run whose records and weights are in a storage alone."""
    run = open_record(str(shutil.copytree(tried, tmp_path / "tried")))
    storage = RemoteFolder(remote_url(str(tmp_path / "storage"))) / "tried"
    mark_remote(storage)
    for key, outcome in state_of(run)[1].outcomes.items():
        attempt, there = attempt_folder(run.trainings / key, 1), storage / key / "attempt-1"
        attempt.mkdir(parents=True, exist_ok=True)
        (attempt / FINAL).write_text(json.dumps(record_to_values(Record(outcome=outcome, curve=()))))
        for path in list(attempt.iterdir()):
            there.put(path)
            path.unlink()
        note_remote(attempt, there)
    return run


@pytest.mark.usefixtures("unchecked_export")
def test_weights_are_brought_for_an_export(run: RunRecord, tmp_path: Path) -> None:
    assert main(["export", str(run.folder), "--to", str(tmp_path / "out"), "--candidate", "1"]) == 0
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_a_lost_study_is_rebuilt_from_the_records_in_the_storage(
    run: RunRecord, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, before = state_of(run)
    (run.folder / "study.db").unlink()
    monkeypatch.setattr("buildup.engine.search._workers", lambda *_, verbose: pytest.fail("something is trained"))
    with pytest.raises(pytest.fail.Exception):  # the rule has not ended, so after the rebuilding it goes on
        main(["resume", str(run.folder), "--rebuild"])
    assert state_of(run)[1] == before
    shutil.rmtree(run.folder.parent / "storage")
    (run.folder / "study.db").unlink()
    for path in run.folder.glob("trainings/*/*/" + FINAL):
        path.unlink()
    assert main(["resume", str(run.folder), "--rebuild"]) == 2
    assert "storage/tried: nothing of this run is there. Is it mounted here" in capsys.readouterr().err


def test_clean_removes_the_weights_of_losers_from_the_storage(
    run: RunRecord, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    view, _ = state_of(run)
    storage = run.folder.parent / "storage"
    before = {path.parent.parent.name for path in storage.glob(f"tried/*/*/{WEIGHTS}")}
    monkeypatch.setattr("buildup.engine.replay.View.finished", True)
    assert main(["clean", str(run.folder)]) == 0
    after = {path.parent.parent.name for path in storage.glob(f"tried/*/*/{WEIGHTS}")}
    kept = {view.candidates[0].id, view.best.id}
    assert after == {key for key in before if key.rpartition("-s")[0] in kept}
    assert 0 < len(after) < len(before)
    assert f"weights  file://{storage}/tried/" in capsys.readouterr().out


def test_a_training_that_is_reused_from_a_storage_belongs_to_the_run_that_takes_it(run: RunRecord) -> None:
    view, _ = state_of(run)
    other = run.folder.parent / "other"
    shutil.copytree(run.folder, other)
    shutil.rmtree(other / "trainings")
    taker, training = open_record(str(other)), Training(candidate=view.candidates[0], seed=run.settings.seed)
    for attempt, snapshot in ((1, "weights-1.safetensors"), (2, "weights-3.safetensors")):
        # An attempt that was followed by another; which of them wrote a snapshot does not matter.
        there = run.folder.parent / "storage" / "tried" / training.id / f"attempt-{attempt}"
        there.mkdir(exist_ok=True)
        (there / snapshot).write_bytes(b"a snapshot")
    first, second = (attempt_folder(run.trainings / training.id, number) for number in (1, 2))
    second.mkdir()
    remote = remote_of(first)
    assert remote is not None
    note_remote(second, remote.parent / second.name)
    for name in (FINAL, WEIGHTS):
        there = run.folder.parent / "storage" / "tried" / training.id
        (there / "attempt-1" / name).rename(there / "attempt-2" / name)
    ReusableRuns(taker, pytest.fail).fetch(training, taker.trainings / training.id)
    assert {path.name for path in (taker.trainings / training.id / "attempt-1").iterdir()} == {
        FINAL,
        WEIGHTS,
        "weights-1.safetensors",
        "weights-3.safetensors",
        "reused_from",
    }


@pytest.mark.slow
def test_kills_of_workers_and_drivers_with_a_real_s3_change_no_decision(
    tmp_path: Path, start: Callable[..., "subprocess.Popen[str]"]
) -> None:
    (tmp_path / "short.yaml").write_text(SHORT)
    chance = random.Random(1)
    with s3_server() as query:
        buildup(tmp_path, "search", *ASKED, "--run", "here")
        command = [sys.executable, "-m", "buildup"]
        arguments = ["search", *ASKED, "--run", "there", "--storage-path", f"s3://bucket/runs?{query}"]
        for kills in (("worker", "driver"), ("driver",), ("worker",)):
            driver = start([*command, *arguments], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
            arguments = ["resume", "there"]
            for kill in kills:
                wait_for_epoch(tmp_path / "runs" / "there", driver)
                time.sleep(chance.uniform(0, 3))
                kill_worker(driver.pid) if kill == "worker" else driver.kill()
            told = driver.communicate(timeout=500)[1]
        assert driver.returncode == 0, told
        assert decisions(tmp_path, "here") == decisions(tmp_path, "there")
        logs = [log_of(attempt, tmp_path) for attempt in attempts_of(tmp_path / "runs" / "there")]
        assert any("going on after epoch" in log for log in logs)
        assert not list((tmp_path / "runs" / "there").glob("trainings/*/*/checkpoint.pt"))
        buildup(tmp_path, "export", "there", "--to", "out", "--candidate", "1")
        (tmp_path / "runs" / "there" / "study.db").unlink()
        buildup(tmp_path, "resume", "there", "--rebuild")
        assert decisions(tmp_path, "here") == decisions(tmp_path, "there")


@pytest.mark.slow
def test_a_search_goes_on_after_its_storage_was_away(
    tmp_path: Path, start: Callable[..., "subprocess.Popen[str]"]
) -> None:
    (tmp_path / "short.yaml").write_text(SHORT)
    buildup(tmp_path, "search", *ASKED, "--run", "here")
    command = [sys.executable, "-m", "buildup", "search", *ASKED, "--run", "there", "--storage-path", "storage"]
    driver = start(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    for seconds in (20, 5):
        wait_for_epoch(tmp_path / "runs" / "there", driver)
        assert driver.poll() is None
        (tmp_path / "storage").rename(tmp_path / "aside")
        (tmp_path / "storage").touch()
        time.sleep(seconds)
        (tmp_path / "storage").unlink()
        (tmp_path / "aside").rename(tmp_path / "storage")
    told = driver.communicate(timeout=500)[1]
    assert driver.returncode == 0, told
    assert "does not answer (nothing of this run is there" in told
    assert "answers again after" in told
    assert "fault " not in told
    assert decisions(tmp_path, "here") == decisions(tmp_path, "there")


def buildup(place: Path, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "buildup", *arguments], cwd=place, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def decisions(place: Path, run: str) -> list[object]:
    return [json.loads(line) for line in (place / "runs" / run / "decisions.jsonl").read_text().splitlines()]


def attempts_of(run: Path) -> list[RemoteFolder]:
    return [there for path in run.glob("trainings/*/attempt-*") if (there := remote_of(path))]


def log_of(attempt: RemoteFolder, place: Path) -> str:
    return (place / "log").read_text() if attempt.get("log.txt", place / "log") else ""


def wait_for_epoch(run: Path, driver: "subprocess.Popen[str]") -> None:
    """Wait until a training has reported an epoch after now, or the driver has ended."""
    before = {path: path.stat().st_size for path in run.glob("trainings/*/metrics.jsonl")}
    end = time.monotonic() + 300
    while all(path.stat().st_size <= before.get(path, 0) for path in run.glob("trainings/*/metrics.jsonl")):
        if driver.poll() is not None:
            return
        assert time.monotonic() < end
        time.sleep(0.2)


def kill_worker(driver: int) -> None:
    """Kill a process that trains, which is a descendant of the driver's Ray."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                if path.read_bytes().startswith(b"ray::ResourceTrainable") and driver in ancestors(
                    int(path.parent.name)
                ):
                    os.kill(int(path.parent.name), signal.SIGKILL)
                    return
        time.sleep(0.1)
    pytest.fail("no worker was found")


def ancestors(pid: int) -> set[int]:
    found = set[int]()
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        found.add(pid)
    return found
