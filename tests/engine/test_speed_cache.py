"""The speed of a training is measured once for a network, a recipe and a machine."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from buildup.engine import plan
from buildup.engine.plan import known_speed, make_plan, plan_to_values
from buildup.engine.summaries import plan_text
from buildup.graph.network import sketch
from buildup.settings import SearchSettings
from buildup.training.execution_words import Execution
from buildup.training.recipe import load_recipe
from buildup.training.speed import Speed

ASKED: dict[str, Any] = {
    "network": sketch("CC|CC"),
    "recipe": load_recipe("quick"),
    "execution": Execution(),
    "device": "cpu",
    "threads": 1,
}


@pytest.fixture
def count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often something was measured. Each measurement gives another speed."""
    calls: list[object] = []

    def measure(network: object, recipe: object, execution: Execution, **rest: object) -> Speed:
        calls.append(network)
        return Speed(execution=execution, train=0.1 * len(calls), evaluate=0.01, preparation=0.5)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(plan, "measure_speed", measure)
    return lambda: len(calls)


def test_a_known_speed_is_not_measured_again(count: Callable[[], int]) -> None:
    first, when = known_speed(**ASKED)
    again, then = known_speed(**ASKED)
    assert (when, count()) == ("", 1)
    assert again == first
    assert then.startswith("20")


@pytest.mark.parametrize(
    "change",
    [
        {"network": sketch("CC|CM")},
        {"network": sketch("CC|CC", size=64)},
        {"recipe": replace(load_recipe("quick"), batch_size=64)},
        {"execution": Execution(precision="bf16")},
        {"threads": 2},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_changes_the_speed_is_measured_for_itself(change: dict[str, Any], count: Callable[[], int]) -> None:
    known_speed(**ASKED)
    known_speed(**ASKED | change)
    known_speed(**ASKED | change)
    assert count() == 2


def test_other_epochs_are_as_fast(count: Callable[[], int]) -> None:
    known_speed(**ASKED)
    known_speed(**ASKED | {"recipe": load_recipe("quick").with_epochs(3)})
    assert count() == 1


@pytest.mark.parametrize(
    ("name", "value"), [("device_kind", "another chip"), ("version", "another"), ("_digest", "other code")]
)
def test_another_machine_or_version_is_measured(
    name: str, value: str, count: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    known_speed(**ASKED)
    monkeypatch.setattr(plan, name, lambda *_: value)
    known_speed(**ASKED)
    assert count() == 2


def test_a_damaged_entry_is_measured_again(count: Callable[[], int], tmp_path: Path) -> None:
    known_speed(**ASKED)
    damaged = ["{", "[]", '{"seconds": {"train": null}, "measured": ""}']
    damaged += [
        f'{{"seconds": {{"train": {train}, "evaluate": 0, "preparation": 0}}, "measured": ""}}'
        for train in ("0", "-1", "NaN", "Infinity")
    ]
    for text in damaged:
        next(tmp_path.rglob("*.json")).write_text(text)
        known_speed(**ASKED)
    assert count() == 1 + len(damaged)


def test_a_plan_says_when_it_measured_and_measures_anew_when_asked(count: Callable[[], int]) -> None:
    settings = SearchSettings(base="test_resnet", dataset="digits", epochs=2, seeds=2, device="cpu")
    first, second = make_plan(settings), make_plan(settings)
    assert "measured now" in plan_text(first)
    assert f"measured {second.measured}; --anew measures again" in plan_text(second)
    assert second.images_per_second == first.images_per_second
    anew = make_plan(settings, anew=True)
    assert (anew.measured, count()) == ("", 2)
    assert plan_to_values(anew)["measured"] == "now"
    assert make_plan(settings).images_per_second == anew.images_per_second != first.images_per_second
