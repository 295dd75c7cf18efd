"""`report` of one run and of several."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from buildup.cli.main import main
from buildup.store.run_record import open_record, save_record


@pytest.fixture
def two(tried: Path, tmp_path: Path) -> list[str]:
    """The same search twice, the second on a larger share of the data."""
    places = []
    for name, fraction in (("first", "1/4"), ("second", "1/2")):
        folder = Path(shutil.copytree(tried, tmp_path / name / "tried"))
        run = open_record(str(folder))
        save_record(replace(run, settings=replace(run.settings, fraction=fraction)))
        places.append(str(folder))
    return places


def test_one_run_has_its_report_in_its_folder(two: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", two[0], "--json"]) == 0
    path = json.loads(capsys.readouterr().out)["report"]
    assert path == f"{two[0]}/report.html"
    assert "Result" in Path(path).read_text()


def test_several_runs_are_compared_and_what_differs_is_said(
    two: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "side-by-side.html"
    assert main(["report", *two, "--to", str(target), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["report"] == str(target)
    assert values["differences"] == {"fraction": ["1/4", "1/2"]}
    first, second = values["runs"]
    assert first["winner"] == second["winner"]
    assert first["trainings"] == first["needed"]
    assert values["other_differences"] == {}
    assert "Not comparable" in target.read_text()
    assert main(["report", *two, "--format", "md"]) == 0
    assert "fraction" in capsys.readouterr().out


def test_a_target_that_would_be_ignored_is_refused(two: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", *two, "--format", "md", "--to", "x.html"]) == 2
    assert "--to is for the page" in capsys.readouterr().err


def test_all_that_is_wrong_with_a_comparison_is_said_at_once(
    two: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", two[0], "nowhere", "--format", "pdf", "--to", "no/such/place.html"]) == 2
    said = capsys.readouterr().err
    for part in ("nowhere", "pdf", "no/such/place.html"):
        assert part in said
