"""A study that is lost or damaged is made anew from the files of the trainings, with the same decisions."""

import json
import logging
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from buildup.cli.main import main
from buildup.engine import search
from buildup.engine.extend import begin
from buildup.engine.load_state import state_of
from buildup.engine.setup import open_writer, rebuild_study
from buildup.errors import RequestError, RunError
from buildup.execution.simulated import SimulatedEvaluator
from buildup.settings import ResumeSettings
from buildup.store.run_dir import FINAL, attempt_folder
from buildup.store.run_record import RunRecord, open_record, save_record
from buildup.store.study_reader import open_study
from buildup.trials.history import History
from buildup.trials.outcome import Failure, Reason, Record, record_to_values


@pytest.fixture
def run(tried: Path, tmp_path: Path) -> RunRecord:
    """A run with the final records that its workers would have left."""
    run = open_record(str(shutil.copytree(tried, tmp_path / "tried")))
    for key, outcome in state_of(run)[1].outcomes.items():
        attempt = attempt_folder(run.trainings / key, 1)
        attempt.mkdir(parents=True, exist_ok=True)
        record = Record(outcome=outcome, curve=())
        (attempt / FINAL).write_text(json.dumps(record_to_values(record)))
    return run


def damage(path: Path, seed: int) -> None:
    """Overwrite a tenth of the pages, but not the first one, which names the tables."""
    chance, data = random.Random(seed), bytearray(path.read_bytes())
    for page in range(1, len(data) // 4096):
        if chance.random() < 0.1 + (page == 2):
            data[4096 * page : 4096 * (page + 1)] = chance.randbytes(4096)
    path.write_bytes(data)


@pytest.mark.parametrize("loss", ["removed", "emptied", "damaged"])
def test_a_rebuilt_study_has_all_scores_and_decisions(run: RunRecord, loss: str) -> None:
    _, before = state_of(run)
    lines, file = (run.folder / "decisions.jsonl").read_bytes(), run.folder / "study.db"
    file.unlink() if loss == "removed" else file.write_bytes(b"") if loss == "emptied" else damage(file, 1)
    left = file.read_bytes() if file.exists() else None
    rebuild_study(run)
    _, after = state_of(run)
    assert after.decisions == before.decisions
    assert after.outcomes == before.outcomes
    assert (run.folder / "decisions.jsonl").read_bytes() == lines
    aside = run.folder / "damaged-1" / "study.db"
    assert (aside.read_bytes() if aside.exists() else None) == left


@pytest.mark.parametrize("seed", range(5))
def test_damaged_pages_are_a_sentence_that_names_the_way_back(
    run: RunRecord, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(run.folder / "study.db", seed)
    assert main(["status", str(run.folder)]) == 2
    said = capsys.readouterr().err
    assert "study.db" in said
    assert f"buildup resume {run.folder} --rebuild" in said


def test_a_lost_study_is_a_sentence_that_names_the_way_back(run: RunRecord, capsys: pytest.CaptureFixture[str]) -> None:
    (run.folder / "study.db").unlink()
    assert main(["status", str(run.folder)]) == 2
    assert f"buildup resume {run.folder} --rebuild" in capsys.readouterr().err


def test_a_lost_study_is_not_begun_anew_by_a_search_with_other_epochs(run: RunRecord) -> None:
    (run.folder / "study.db").unlink()
    begin(replace(run, earlier=({"until": "then", "seeds": 1, "epochs": 3},)))
    with pytest.raises(RunError, match="--rebuild"):
        open_writer(open_record(str(run.folder)))


def test_the_earlier_decisions_of_an_extended_run_come_back(run: RunRecord) -> None:
    _, before = state_of(run)
    shutil.copyfile(run.folder / "decisions.jsonl", run.folder / "decisions-1.jsonl")
    extended = replace(run, earlier=({"until": "then", "seeds": 1, "epochs": run.settings.epochs},))
    save_record(extended)
    rebuild_study(extended)
    attributes = open_study(run.folder, None, run.study_name).user_attrs
    assert {"decision:0001", "decision:0002", "decision-1:0001", "decision-1:0002"} <= attributes.keys()
    assert state_of(extended)[1].decisions == before.decisions


def test_failed_trainings_of_a_damaged_study_are_done_anew_once_it_is_rebuilt(
    run: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    view, before = state_of(run)
    [path] = run.trainings.glob(f"{view.candidates[1].id}-s*/attempt-1/{FINAL}")
    failure = Failure(reason=Reason.BROKEN, message="Traceback\nZeroDivisionError: a broken block")
    path.write_text(json.dumps(record_to_values(Record(outcome=failure, curve=()))))
    damage(run.folder / "study.db", 1)
    monkeypatch.setattr(search, "_workers", lambda *_, verbose: SimulatedEvaluator(table={}))
    followed: list[History] = []
    monkeypatch.setattr(search, "_follow", lambda record, writer, *_, **__: followed.append(writer.history))
    search.resume_search(run, ResumeSettings(rebuild=True, retry_failed=True))
    assert before.outcomes.keys() - followed[0].outcomes.keys() >= {path.parent.parent.name}
    assert followed[0].outcomes.items() <= before.outcomes.items()
    assert followed[0].outcomes


def test_wrong_settings_are_told_before_a_study_is_rebuilt(run: RunRecord) -> None:
    damage(run.folder / "study.db", 1)
    left = (run.folder / "study.db").read_bytes()
    with pytest.raises(RequestError, match="--seeds 0"):
        search.resume_search(run, ResumeSettings(rebuild=True, seeds=0))
    assert (run.folder / "study.db").read_bytes() == left


def test_a_record_that_was_changed_is_told_by_its_decision(run: RunRecord, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "buildup")
    view, _ = state_of(run)
    first = view.candidates[1].id
    [path] = run.trainings.glob(f"{first}-s*/attempt-1/{FINAL}")
    path.write_text(path.read_text().replace('"accuracy": 8', '"accuracy": 1'))
    (run.folder / "study.db").unlink()
    rebuild_study(run)
    assert "decision 1 was keep" in caplog.text
