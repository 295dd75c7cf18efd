"""A measurement from elsewhere runs like a shipped one: as an entry point, as a line of the table, as in the docs."""

import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from buildup.cli.main import main
from buildup.diagnostics.analysis import Measurement, Sizes, Subject
from buildup.diagnostics.cka import UnitSimilarity
from buildup.diagnostics.figures import Figure, Row, Rows, Table
from buildup.diagnostics.measurements import MEASUREMENTS, find_measurements
from buildup.errors import RequestError

GUIDE = Path(__file__).parents[2] / "docs" / "extending.md"


class Targets(Measurement):
    """How many targets each part saw: one part a batch."""

    name = "targets"
    title = "Targets of training images"
    caption = "Bars of no use."

    def train_batches(self, sizes: Sizes) -> int:
        return 2

    def settings(self, subject: Subject) -> Row:
        return {"twice": True}

    def work(self, subject: Subject) -> tuple[int, int]:
        return 2, 0

    def measure(self, subject: Subject, done: Rows) -> Iterator[Rows]:
        for number, (images, targets) in enumerate(subject.train_batches[: self.train_batches(subject.sizes)]):
            yield [{"batch": number, "images": len(images), "classes": targets.shape[1]}]

    def summary(self, rows: Rows) -> Row:
        return {"images": sum(row["images"] for row in rows)}

    def figure(self, tables: Sequence[Table]) -> Figure:
        figure = Figure()
        figure.subplots().bar([row["batch"] for row in tables[0].rows], [row["images"] for row in tables[0].rows])
        return figure


BUILT_IN = tuple(MEASUREMENTS._members)
TARGETS = Targets()
Register = Callable[[str], None]


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Members and entry points of a test are gone after it."""
    monkeypatch.setattr(MEASUREMENTS, "_members", dict(MEASUREMENTS._members))
    vars(MEASUREMENTS).pop("_offered", None)
    yield
    vars(MEASUREMENTS).pop("_offered", None)


@pytest.fixture
def register(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Register:
    """Install a package of one entry point."""

    def install(entry: str) -> None:
        folder = tmp_path / "site" / "own-1.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: own\nVersion: 1\n")
        (folder / "entry_points.txt").write_text(f"[buildup.measurements]\n{entry}\n")
        monkeypatch.syspath_prepend(folder.parent)

    return install


def analyze(what: str, folder: Path) -> int:
    tiny = ["resnet10t", "--dataset", "digits", "--device", "cpu", "--quick", "--images", "32"]
    return main(["analyze", *tiny, "--what", what, "--out", str(folder)])


def check_files(what: str, folder: Path, title: str) -> list[Row]:
    """Numbers, table, figure and section are there; the rows are given back."""
    values = json.loads((folder / f"{what}.json").read_text())
    rows: list[Row] = values["tables"][0]["rows"]
    with (folder / f"{what}.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["model"] for line in lines] == ["resnet10t"] * len(rows)
    assert list(lines[0]) == ["model", *rows[0]]
    assert (folder / f"{what}.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (folder / f"{what}.svg").read_text()
    assert f"<h2>{title}</h2>" in (folder / "index.html").read_text()
    return rows


def test_a_registered_measurement_runs_through_analyze(tmp_path: Path) -> None:
    MEASUREMENTS.register(TARGETS)
    assert analyze("targets,variance", tmp_path / "a") == 0
    rows = check_files("targets", tmp_path / "a", "Targets of training images")
    assert rows == [{"batch": 0, "images": 16, "classes": 10}, {"batch": 1, "images": 16, "classes": 10}]
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert summary["summaries"]["targets"] == {"resnet10t": {"images": 32}}
    assert json.loads((tmp_path / "a" / "targets.json").read_text())["identity"]["twice"] is True
    assert "twice" not in json.loads((tmp_path / "a" / "variance.json").read_text())["identity"]


def test_the_measurement_of_the_guide_runs_as_an_entry_point(tmp_path: Path, register: Register) -> None:
    section = GUIDE.read_text(encoding="utf-8").split("\n## A measurement\n")[1].split("\n## ")[0]
    assert sum(bool(line) for line in section.splitlines()) < 20
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (entry,) = re.findall(r"`(spread = .*?)`", section)
    register(entry.replace('"', ""))
    (tmp_path / "site" / "spread.py").write_text(code)
    assert analyze("spread", tmp_path / "a") == 0
    rows = check_files("spread", tmp_path / "a", "Spread")
    assert len(rows) > 3
    assert all(row["spread"] > 0 for row in rows)
    usual = [name for name in BUILT_IN if name not in ("ensemble", "robustness", "training")]
    assert [measurement.name for measurement in find_measurements()] == [*usual, "spread"]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("own = no_such_module:OWN", "can't be loaded"),
        ("own = math:nan", "can't be loaded"),
        ("own = buildup.diagnostics.cka:UnitSimilarity", "it is named 'cka' there"),
        ("accuracy = buildup.trials.objective:ACCURACY", "is not a buildup.diagnostics.analysis.Measurement"),
    ],
)
def test_an_entry_point_that_gives_no_measurement_is_refused(register: Register, entry: str, said: str) -> None:
    register(entry)
    with pytest.raises(RequestError, match=said):
        find_measurements([entry.partition(" ")[0]])


def test_an_entry_point_cannot_replace_a_built_in_measurement(register: Register) -> None:
    register("cka = math:nan")
    with pytest.warns(UserWarning, match="the one of buildup has this name"):
        found = find_measurements()
    assert [type(measurement) for measurement in found if measurement.name == "cka"] == [UnitSimilarity]


def test_passes_are_asked_for_by_their_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert analyze("ensemble", tmp_path / "a") == 2
    assert "needs the number of passes: --mc-dropout N" in capsys.readouterr().err
