"""`ls` and `clean`: what there is, what can go, and that the rest stays."""

import json
import logging
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from buildup.cli.main import main
from buildup.engine import clean as engine
from buildup.engine import search
from buildup.engine.clean import SHARE, BudgetObserver, finished_states, leftovers, losers, size_of
from buildup.engine.load_state import state_of
from buildup.engine.replay import View
from buildup.execution.workplace import CLAIM, WORK
from buildup.settings import ResumeSettings
from buildup.store.run_dir import FINAL, LOCK, acquire_run_lock
from buildup.store.run_record import RunRecord, open_record
from buildup.trials.event import Event
from buildup.trials.outcome import Failure, Reason, Record, record_to_values
from buildup.trials.training import CHECKPOINT, WEIGHTS, Training, candidate_id


@pytest.fixture
def place(tried: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one run, whose trainings have their final records."""
    monkeypatch.chdir(tmp_path)
    run = open_record(str(shutil.copytree(tried, tmp_path / "runs" / "tried")))
    for key, outcome in state_of(run)[1].outcomes.items():
        attempt = run.trainings / key / "attempt-1"
        attempt.mkdir(parents=True, exist_ok=True)
        (attempt / FINAL).write_text(json.dumps(record_to_values(Record(outcome=outcome, curve=()))))
    return tmp_path


@pytest.fixture
def dead() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_runs_are_listed_with_their_size_and_verdicts(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "runs" / "broken").mkdir()
    (place / "runs" / "broken" / "run.yaml").write_text("settings: 7")
    assert main(["ls", "--json"]) == 0
    rows = {row["run"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows.keys() == {"runs/tried", "runs/broken"}
    assert (rows["runs/tried"]["status"], rows["runs/tried"]["base"]) == ("finished", "lcnet_035")
    assert rows["runs/tried"]["size"] >= sum(path.stat().st_size for path in place.rglob(WEIGHTS))
    assert rows["runs/tried"]["verdict"] == "1 of 2 kept"
    assert rows["runs/broken"]["status"] == "damaged"
    assert main(["ls"]) == 0
    assert "lcnet_035" in capsys.readouterr().out
    (place / "empty").mkdir()
    assert main(["ls", "empty"]) == 0
    assert "there are no runs" in capsys.readouterr().out
    assert main(["ls", "elsewhere"]) == 2
    assert "elsewhere: there is no such folder" in capsys.readouterr().err


def test_the_weights_of_losers_go_and_all_else_stays(place: Path) -> None:
    run = open_record("tried")
    view, history = state_of(run)
    for weights in [*run.folder.rglob(WEIGHTS)]:
        weights.with_name("weights-3.safetensors").write_bytes(b"a snapshot")
    before = {path for path in run.folder.rglob("*") if path.is_file()}
    gone = losers(run, view, stopped=True)
    for one in gone:
        one.remove()
    after = {path for path in run.folder.rglob("*") if path.is_file()}
    assert before - after == {one.path for one in gone}
    assert {path.name for path in before - after} == {WEIGHTS, "weights-3.safetensors"}
    left = {path.parents[1].name.rpartition("-s")[0] for path in after if path.match("trainings*/*/*/weights*")}
    assert left == {view.candidates[0].id, view.best.id}
    assert state_of(run)[1] == history


def test_a_search_that_has_not_ended_keeps_all_weights(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = set(place.rglob(WEIGHTS))
    assert main(["clean", "tried"]) == 0
    assert "all weights stay, because the search has not ended" in capsys.readouterr().out
    assert set(place.rglob(WEIGHTS)) == weights


def test_what_a_killed_process_left_goes_and_that_of_others_stays(
    place: Path, dead: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engine, "RAY", place / "ray")
    monkeypatch.setattr(engine, "TEMPORARY", place)
    now = datetime.now().strftime("session_%Y-%m-%d_%H-%M-%S_000000")
    ours = [place / "ray" / f"{now}_{dead}", place / f"buildup-tune-{dead}-abc"]
    others = [place / "ray" / f"{now}_{dead}1", place / f"buildup-tune-{dead}1-abc"]
    others.append(place / "ray" / f"session_2020-01-01_00-00-00_000000_{dead}")  # another program had this process id
    for folder in (*ours, *others):
        folder.mkdir(parents=True)
        (folder / "log").write_bytes(b"x" * 1000)
    (place / "runs" / "tried" / LOCK).write_text(f"{dead} on {socket.gethostname()}")
    assert main(["clean", "tried", "--dry-run", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert [row["path"] for row in values["would_remove"]] == [str(path) for path in ours]
    assert values["bytes"] == 2000
    assert all(path.exists() for path in ours)
    assert main(["clean", "tried"]) == 0
    assert "2.00 kB were freed" in capsys.readouterr().out
    assert not any(path.exists() for path in ours)
    assert all(path.exists() for path in others)


def test_the_next_start_of_a_run_removes_what_its_killed_process_left(
    place: Path, dead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "RAY", place / "ray")
    monkeypatch.setattr(engine, "TEMPORARY", place)
    now = datetime.now().strftime("session_%Y-%m-%d_%H-%M-%S_000000")
    ours = [place / "ray" / f"{now}_{dead}", place / f"buildup-tune-{dead}-abc"]
    for folder in ours:
        folder.mkdir(parents=True)
    (place / "runs" / "tried" / LOCK).write_text(f"{dead} on {socket.gethostname()}")

    def stop(_: object) -> None:
        raise InterruptedError

    monkeypatch.setattr(search, "open_writer", stop)
    with pytest.raises(InterruptedError):
        search.resume_search(open_record("tried"), ResumeSettings())
    assert not any(path.exists() for path in ours)


def test_a_file_that_two_runs_share_is_counted_when_its_last_name_goes(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(place / "runs" / "tried", place / "other" / "tried")
    first, second = place / "runs" / "tried" / "shared", place / "other" / "tried" / "shared"
    first.write_bytes(b"x" * 1000)
    os.link(first, second)

    def shared(run: RunRecord) -> tuple[list[engine.Leftover], str]:
        return engine._files([run.folder / "shared"], "weights"), "the rest stays"

    monkeypatch.setattr(engine, "leftovers", shared)
    gone, _ = engine.clean_runs(["tried", "other/tried"], dry_run=False)
    assert sum(one.size for one in gone) == 1000
    assert not first.exists()
    assert not second.exists()


def test_what_killed_workers_left_goes_once_whichever_runs_are_named(
    place: Path, dead: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(place))
    shutil.copytree(place / "runs" / "tried", place / "other" / "tried")
    left = {pid: place / f"{WORK}{pid}" / "ab-s0.1" for pid in (dead, os.getpid())}
    for pid, folder in left.items():
        (folder / "attempt-1").mkdir(parents=True)
        (folder / "attempt-1" / CLAIM).write_text(f"{pid} on {socket.gethostname()}")
        (folder / "attempt-1" / WEIGHTS).write_bytes(b"x" * 3000)
    assert main(["clean", "tried", "other/tried", "--dry-run", "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)["would_remove"]
    assert row["path"] == str(left[dead])
    assert main(["clean", "tried", "other/tried"]) == 0
    said = capsys.readouterr().out
    assert f"kB  folder of an ended process  {left[dead]}" in said
    assert not left[dead].parent.exists()
    assert left[os.getpid()].exists()


def test_the_folders_of_a_living_process_or_of_another_machine_stay(
    place: Path, dead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "RAY", place / "ray")
    monkeypatch.setattr(engine, "TEMPORARY", place)
    run = open_record("tried")
    for pid, host in ((os.getpid(), socket.gethostname()), (dead, "elsewhere")):
        (place / f"buildup-tune-{pid}-abc").mkdir()
        (run.folder / LOCK).write_text(f"{pid} on {host}")
        assert leftovers(run)[0] == []


def test_a_search_above_its_budget_loses_what_nothing_reads_and_then_what_lost(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "buildup")
    run = open_record("tried")
    view, history = state_of(run)
    base, best = view.candidates[0].id, view.best.id
    training = next(path for path in sorted(run.trainings.iterdir()) if path.name.startswith(base))
    (training / "attempt-0").mkdir()
    (training / "attempt-0" / CHECKPOINT).write_bytes(b"x" * 1000)
    going = run.trainings / f"{view.candidates[1].id}-s9" / "attempt-1"
    going.mkdir(parents=True)
    (going / CHECKPOINT).write_bytes(b"x")
    weights = {path: candidate_id(path.parents[1].name) for path in run.trainings.rglob(WEIGHTS)}
    size = size_of(run.folder)

    def look(budget: int, view: View = view) -> None:
        settings = replace(run.settings, disk_budget=budget)
        BudgetObserver(run=replace(run, settings=settings)).see(view, history, None)

    look(size)
    assert caplog.messages == []
    look(size - 1)
    assert not (training / "attempt-0" / CHECKPOINT).exists()
    assert all(path.exists() for path in weights)
    [lost] = set(weights.values()) - {base, best}
    look(1, replace(view, current=next(one for one in view.candidates if one.id == lost)))
    assert all(path.exists() for path in weights)
    look(1)
    assert {own for path, own in weights.items() if path.exists()} == {base, best} & set(weights.values())
    assert (going / CHECKPOINT).exists()
    assert caplog.messages[0] == "disk       1.00 kB of files were removed that `resume` and `final` do not need"
    assert "more than --disk-budget 1 B. `resume` and `final` need what is left of it" in caplog.messages[-1]


def loser(view: View) -> str:
    """The id of a network that lost."""
    return next(one.id for one in view.candidates if one.id not in {view.candidates[0].id, view.best.id})


def attempt(run: RunRecord, key: str, *, reason: Reason | None = None, number: int = 7) -> Path:
    """The checkpoint of an attempt of a training, with a record of its failure if it is given a reason."""
    folder = run.trainings / key / f"attempt-{number}"
    folder.mkdir(parents=True)
    (folder / CHECKPOINT).write_bytes(b"x" * 1000)
    if reason:
        record = Record(outcome=Failure(reason=reason, message="it failed"), curve=())
        (folder / FINAL).write_text(json.dumps(record_to_values(record)))
    return folder / CHECKPOINT


def test_what_an_unneeded_training_left_goes_when_the_search_has_ended_and_nothing_trains(place: Path) -> None:
    run = open_record("tried")
    unfinished = state_of(run)[0]
    view = replace(unfinished, current=None, checks=())
    lost = loser(view)
    unneeded, base = attempt(run, f"{lost}-s9"), attempt(run, f"{view.candidates[0].id}-s9")
    other = run.folder / "trainings-77" / f"{lost}-s9" / "attempt-1" / CHECKPOINT
    shutil.copytree(unneeded.parent, other.parent)
    check = Training(candidate=replace(view.candidates[0], check="longer"), seed=0)
    going = attempt(run, check.id)
    waiting = replace(view, checks=(check,))
    files = [
        {one.path for one in losers(run, one_view, stopped=stopped)}
        for one_view, stopped in ((view, False), (unfinished, True), (waiting, True), (view, True))
    ]
    assert [unneeded in found for found in files] == [False, False, True, True]
    assert [going in found for found in files] == [False, False, False, True]
    assert not any({base, other} & found for found in files)
    settings = replace(run.settings, disk_budget=1)
    budget = BudgetObserver(run=replace(run, settings=settings))
    budget.keep(view)
    assert unneeded.exists()
    budget.keep(view, stopped=True)
    assert (unneeded.exists(), base.exists(), other.exists()) == (False, True, True)


@pytest.mark.parametrize(("reason", "stays"), [(Reason.OUT_OF_MEMORY, True), (Reason.DIVERGED, False)])
def test_what_another_try_of_a_failed_training_goes_on_from_stays(place: Path, reason: Reason, stays: bool) -> None:
    run = open_record("tried")
    view, _ = state_of(run)
    lost = loser(view)
    state = attempt(run, f"{lost}-s9", reason=reason)
    found = [*finished_states(run), *losers(run, view, stopped=True)]
    assert (state not in {one.path for one in found}) == stays


def test_a_file_with_several_names_in_a_run_counts_once_and_goes_as_a_whole(place: Path) -> None:
    run = open_record("tried")
    view, _ = state_of(run)
    lost = loser(view)
    states = [attempt(run, f"{lost}-s9", reason=Reason.DIVERGED, number=number) for number in (1, 2)]
    folders, before = [path.parent for path in states], size_of(run.folder)
    own, shared = folders[0] / "weights-1.safetensors", folders[0] / "weights-2.safetensors"
    for path in (own, shared):
        path.write_bytes(b"x" * 5000)
        (folders[1] / path.name).hardlink_to(path)
    (place / "another").hardlink_to(shared)
    assert size_of(run.folder) == before + 5000
    assert [one.size for one in losers(run, view, stopped=False) if one.path.name == own.name] == [5000]
    settings = replace(run.settings, disk_budget=1)
    BudgetObserver(run=replace(run, settings=settings)).keep(view)
    assert [(folder / own.name).exists() for folder in folders] == [False, False]
    assert [(folder / shared.name).exists() for folder in folders] == [True, True]


def test_looks_at_a_large_run_take_a_small_share_of_the_search(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = open_record("tried")
    view, history = state_of(run)
    now, looks = [0.0], list[float]()

    class Slow(BudgetObserver):
        def keep(self, view: View, *, stopped: bool = False) -> None:
            looks.append(now[0])
            now[0] += 2.0

    monkeypatch.setattr("time.monotonic", lambda: now[0])
    observer = Slow(run=run)
    record = Record(outcome=next(iter(history.outcomes.values())), curve=())
    ended = Event(training=Training(candidate=view.candidates[0], seed=0), update=record)
    for _ in range(1000):
        observer.see(view, history, ended)
        now[0] += 1.0
    assert 2.0 * len(looks) <= 1.2 * SHARE * now[0]
    for _ in range(200):  # the last ended training is not forgotten
        observer.see(view, history, None)
        now[0] += 1.0
    assert looks[-1] > 1000


def test_a_run_that_is_written_is_left_alone(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with acquire_run_lock(place / "runs" / "tried"):
        assert main(["clean", "tried"]) == 2
    assert "being written by process" in capsys.readouterr().err


def test_all_that_is_wrong_is_said_at_once(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["clean", "nowhere", "neither"]) == 2
    said = capsys.readouterr().err
    assert "nowhere" in said
    assert "neither" in said
    assert main(["clean"]) == 2
    assert "RUN is missing" in capsys.readouterr().err
