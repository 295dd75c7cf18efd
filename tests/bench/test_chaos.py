"""What is counted of searches whose driver was killed; the kills themselves take hours."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import chaos
from answer import append_line
from buildup.engine.load_state import state_of
from buildup.store.run_dir import FINAL
from buildup.store.run_record import open_record
from buildup.trials.outcome import Record, record_to_values
from chaos import Place, ancestors, checked, decisions, drive, main


@pytest.fixture
def run(tried: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose trainings have a final record each."""
    monkeypatch.setattr(chaos, "leaked", list)
    run = open_record(str(shutil.copytree(tried, tmp_path / "tried")))
    for key, outcome in state_of(run)[1].outcomes.items():
        attempt = run.trainings / key / "attempt-1"
        attempt.mkdir(parents=True, exist_ok=True)
        (attempt / FINAL).write_text(json.dumps(record_to_values(Record(outcome=outcome, curve=()))))
    return run.folder


def test_a_search_that_decided_as_the_undisturbed_one_and_repeated_nothing_passes(run: Path) -> None:
    found = checked(run, decisions(run))
    assert found["equal"]
    assert (found["repeated"], found["running"], found["leaked"]) == (0, 0, [])
    assert found["trainings"] == found["attempts"] > 0


def test_other_decisions_and_a_finished_training_that_was_done_again_are_found(run: Path) -> None:
    first = next((run / "trainings").iterdir())
    (first / "attempt-2").mkdir()
    shutil.copy(first / "attempt-1" / FINAL, first / "attempt-2")
    found = checked(run, decisions(run)[:-1])
    assert not found["equal"]
    assert found["repeated"] == 1


@pytest.mark.parametrize(("command", "code"), [("exec sleep 60", None), ("echo why >&2; exit 3", 3)])
def test_a_driver_is_killed_after_its_time_unless_it_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, code: int | None
) -> None:
    started = list[subprocess.Popen[bytes]]()

    def start_driver(place: Place, run: Path, seed: int) -> "subprocess.Popen[bytes]":
        (run / "trainings" / "a-s0").mkdir(parents=True, exist_ok=True)
        (run / "trainings" / "a-s0" / "metrics.jsonl").write_bytes(b"{}\n")
        with (place.temporary / "said").open("w") as said:
            started.append(subprocess.Popen(["sh", "-c", command], stderr=said))
        return started[-1]

    monkeypatch.setattr(chaos, "start_driver", start_driver)
    place = Place(folder=tmp_path, address="", temporary=tmp_path, start_up=8.0)
    assert drive(place, tmp_path / "run", 0, 0.3 if code is None else 60)[:2] == (code, "" if code is None else "why\n")
    assert started[0].returncode == (-signal.SIGKILL if code is None else code)
    assert 4 <= place.start_up <= 8


def test_all_that_was_found_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = {"equal": True, "status": "finished", "trainings": 9, "attempts": 12, "repeated": 0, "running": 0}
    kills = [{"after": 3.0, "epochs": 0, "finished": 0}, {"after": 9.0, "epochs": 4, "finished": 2}]
    append_line(tmp_path / "kills.jsonl", {"search": 0, "kills": kills, **good, "leaked": [], "workers": 2})
    append_line(tmp_path / "kills.jsonl", {"search": 1, "kills": kills[:1], "exit": 1, "said": "a traceback"})
    assert main([str(tmp_path), "--table", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "searches": 2,
        "kills": 3,
        "kills_before_an_epoch": 2,
        "trainings": 9,
        "attempts": 12,
        "not_finished": 1,
        "other_decisions": 1,
        "repeated": 0,
        "running": 0,
        "leaked": 0,
        "searches_with_workers_seen": 1,
    }
    assert main([str(tmp_path), "--table"]) == 0
    assert "3 kills of the driver in 2 searches, 2 of them before its first epoch" in capsys.readouterr().out


def test_workers_are_looked_for_among_the_processes_below_this_one() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert ancestors(child.pid)[0] == os.getpid()
        assert ancestors(child.pid)[-1] in (0, 1)
