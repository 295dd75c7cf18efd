"""What imitation is worth, and how errors order the places: what is trained, what continues, and what is told."""

import doctest
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock

import order
from answer import read_lines
from buildup.settings import TrainSettings
from buildup.trials.outcome import IMITATION, Epoch

SMALL = {"small": ("resnet18(channels=[8,8,8,8])", "quick")}
GAINS = {"CM|CC|CC|CC": -3.0, "CC|CM|CC|CC": -2.0, "CC|CC|CM|CC": -1.0, "CC|CC|CC|CM": 0.5}
ERRORS = {"CM|CC|CC|CC": 0.4, "CC|CM|CC|CC": 0.3, "CC|CC|CM|CC": 0.35, "CC|CC|CC|CM": 0.1}


def lines() -> list[dict[str, Any]]:
    """A base at three rates, and four places, each with two seeds; new blocks that start at random lose a point."""

    def line(layout: str, start: str, seed: int, accuracy: float, rate: str = "1.0e-3", **more: Any) -> dict[str, Any]:
        key = {"name": "ResNet", "layout": layout, "start": start, "rate": rate, "seed": seed}
        return key | {"accuracy": accuracy, "curve": [0.0, 0.0, accuracy - 20.0], "seconds": 1} | more

    base = "CC|CC|CC|CC"
    found = [line(base, "", 0, 50.0, rate) for rate in ("3.0e-4", "3.0e-3")]
    for seed in (0, 1):
        found.append(line(base, "", seed, 60.0 + seed))
        for layout, gain in GAINS.items():
            found.append(line(layout, "imitates", seed, 60.0 + seed + gain, error=ERRORS[layout]))
            found.append(line(layout, "at random", seed, 59.0 + seed + gain))
    return found


def test_gains_are_those_over_the_base_at_its_best_rate_with_the_same_seed() -> None:
    found = order.summary(lines())
    [base] = found["bases"]
    assert base == {"name": "ResNet", "rate": "1.0e-3", "accuracy": 60.5}
    assert {one["layout"]: one["gain"] for one in found["places"]} == pytest.approx(GAINS)
    assert {one["layout"]: one["at_random"] for one in found["places"]} == pytest.approx(
        {layout: gain - 1 for layout, gain in GAINS.items()}
    )
    assert {one["seeds"] for one in found["places"]} == {2}


def test_the_rate_of_a_base_is_that_of_its_first_seed() -> None:
    known = [line | ({"accuracy": 20.0} if line["seed"] and not line["start"] else {}) for line in lines()]
    assert order.best_rate(known, "ResNet") == "1.0e-3"


def test_orders_are_told_by_kendalls_tau() -> None:
    found = order.summary(lines())["orders"]
    assert found["error"]["tau"] == pytest.approx(4 / 6)  # one of six pairs is wrong
    assert found["rule"]["tau"] == found["early"]["tau"] == found["seeds"]["tau"] == 1
    assert "seeds" not in order.summary([line for line in lines() if line["seed"] == 0])["orders"]


def test_a_base_whose_rates_are_not_known_yet_tells_nothing() -> None:
    known = [line for line in lines() if line["rate"] != "3.0e-3"]
    assert order.summary(known) == {"bases": [], "places": [], "orders": {}}


def test_each_training_is_made_once_by_whichever_process_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[TrainSettings] = []

    def train(base: str, settings: TrainSettings) -> Any:
        calls.append(settings)
        curve = tuple(Epoch(number=number, metrics={"accuracy": 40.0}) for number in range(1, 11))
        imitates = settings.layout and settings.layout.strip("C|") and "transplant=0" not in settings.set
        score = SimpleNamespace(accuracy=50.0, seconds=1.0, metrics={IMITATION: 0.2} if imitates else {})
        return SimpleNamespace(score=score, record=SimpleNamespace(curve=curve), weights=tmp_path / "weights")

    monkeypatch.setattr(order, "train_once", train)
    monkeypatch.setattr(order, "halves", lambda *_: None)
    monkeypatch.setattr(order, "BASES", SMALL)
    arguments = [str(tmp_path), "--data-dir", "images", "--seeds", "2"]
    with FileLock(tmp_path / "small-CCCCCCCC--3.0e-4-0.lock"):  # another process is at this one
        assert order.main(arguments) == 0
    assert [one.recipe for one in calls] == ["quick", "finetune", "finetune", "quick"]  # without its rate, no place
    assert order.main(arguments) == 0
    # Three rates and one more seed of the base; M with and without imitation, and G, at four places with two seeds.
    known = read_lines(tmp_path / "order.jsonl")
    assert len(known) == 3 + 1 + 3 * 4 * 2
    assert {line["start"]: "error" in line for line in known} == {"": False, "imitates": True, "at random": False}
    made = [one for one in calls if one.recipe == "finetune"]
    assert len(made) == len(known)
    assert {one.set for one in made if one.layout != "CC|CC|CC|CC"} == {("lr=3.0e-4",), ("lr=3.0e-4", "transplant=0")}
    assert order.main(arguments) == 0
    assert read_lines(tmp_path / "order.jsonl") == known
    capsys.readouterr()
    assert order.main([str(tmp_path)]) == 0
    assert "CC|CC|CC|CM   0.20" in capsys.readouterr().out


def test_the_docstring_is_true() -> None:
    assert doctest.testmod(order).failed == 0
