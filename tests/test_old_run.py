"""A run of version 0.1.0 is opened, reported and resumed.

The fixture is a search that `--max-trials 6` stopped: test_resnet on 1/8 of digits, 4 epochs, 2 seeds, judge `point`.
It has two verdicts (keep, drop) and a training that had begun. Its weights were set to zero, so that it is small.
"""

import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

import buildup
from buildup.cli.main import main
from buildup.engine import search
from buildup.engine.reports import report_of
from buildup.store.run_record import open_record
from local_workers import LocalWorkers

ARCHIVE = Path(__file__).parent / "fixtures" / "run_0_1_0.tar.xz"


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path / "runs", filter="data")
    monkeypatch.chdir(tmp_path)
    return "old"


def test_it_is_opened_with_its_decisions(old: str) -> None:
    run = buildup.open_run(old)
    assert run.status == "stopped"
    assert [decision.verdict for decision in run.decisions] == ["keep", "drop"]
    assert run.winner.layout == "CC|CC|CM"
    assert run.settings.execution == "float32,channels-first,eager"
    assert len(run.trials_dataframe()) == len(run.study.trials) == 7


def test_it_is_reported(old: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", old]) == 0
    assert "CC|CC|CM" in Path("runs/old/report.html").read_text(encoding="utf-8")
    assert main(["status", old]) == 0
    assert "stopped (--max-trials 6 was reached)" in capsys.readouterr().out


def test_a_run_whose_driver_was_killed_is_reported_as_stopped(old: str) -> None:
    killed = replace(open_record(old), status="running", reason="")
    assert report_of(killed).finished == "This run is stopped: its driver is gone."


@pytest.mark.usefixtures("unchecked_export")
def test_it_is_resumed_to_its_end_and_repeats_no_training(old: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "start_workers", LocalWorkers)
    before = {path: path.read_bytes() for path in Path("runs/old/trainings").glob("*/attempt-1/final.json")}
    run = buildup.open_run(old).resume(workers=1)
    assert run.status == "finished"
    assert [decision.verdict for decision in run.decisions[:2]] == ["keep", "drop"]
    assert len(before) == 6
    assert all(path.read_bytes() == content for path, content in before.items())
    assert not list(Path("runs/old/trainings").glob("6e*/attempt-2"))
    assert (run.folder / "export" / "model.safetensors").is_file()
