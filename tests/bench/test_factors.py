"""When attention pays: the design, the effects, and what continues."""

import doctest
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from math import prod, sqrt
from pathlib import Path
from statistics import fmean, variance
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock

import factors
from answer import read_lines
from buildup import build, read
from buildup.settings import TrainSettings
from buildup.space.load import load
from buildup.statistics.distributions import t_quantile
from buildup.trials.outcome import Epoch
from factors import FACTORS, LAYOUTS, cells, effects


def test_no_effect_is_mixed_with_another_or_with_two_together() -> None:
    signs = [{name: 1 if high else -1 for name, high in cell.items()} for cell in cells()]
    assert len(signs) == 8
    for count in (1, 2, 3):
        for names in combinations(FACTORS, count):
            assert sum(prod(sign[name] for name in names) for sign in signs) == 0


def test_effects_are_those_of_the_closed_form() -> None:
    gains = [
        (cell, 1.0 + 2.0 * cell["width"] - 0.5 * cell["images"] + 0.1 * ((5 * i + seed) % 7 - 3))
        for seed in (0, 1)
        for i, cell in enumerate(cells())
    ]
    found = {row["name"]: row for row in effects(gains)}
    assert found["mean"]["effect"] == pytest.approx(fmean(gain for _, gain in gains))
    for name in FACTORS:
        high, low = ([gain for cell, gain in gains if cell[name] is level] for level in (True, False))
        assert found[name]["effect"] == pytest.approx(fmean(high) - fmean(low))
    # Each level of a factor has half of the trainings, so all effects are known equally well.
    fitted = [
        found["mean"]["effect"] + sum(found[name]["effect"] * (0.5 if cell[name] else -0.5) for name in FACTORS)
        for cell, _ in gains
    ]
    noise = sqrt(sum((gain - value) ** 2 for (_, gain), value in zip(gains, fitted, strict=True)) / (16 - 5))
    assert found["width"]["half"] == pytest.approx(t_quantile(11, 0.975) * noise * 2 / sqrt(16))
    assert variance([gain for _, gain in gains]) > noise**2


def test_too_few_trainings_tell_no_effect() -> None:
    assert effects([(cell, 1.0) for cell in cells()[:5]]) == []
    assert effects([(cells()[0], 1.0)] * 20) == []


def trained_as(calls: list[TrainSettings]) -> Any:
    """A training that attention at the end of the last stage helps."""

    def train(base: str, settings: TrainSettings) -> Any:
        calls.append(settings)
        metrics: Mapping[str, float] = {"accuracy": 50.0, "nll": 1.0, "train_loss": 1.0, "throughput": 100.0}
        curve = (Epoch(number=1, metrics=metrics),)
        score = SimpleNamespace(accuracy=50.0 + 1.5 * (settings.layout == LAYOUTS["last stage"]), seconds=1.0)
        return SimpleNamespace(score=score, record=SimpleNamespace(curve=curve))

    return train


def test_each_training_is_made_once_by_whichever_process_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[TrainSettings] = []
    monkeypatch.setattr(factors, "train_once", trained_as(calls))
    arguments = [str(tmp_path), "--data-dir", "images", "--seeds", "2"]
    with FileLock(tmp_path / "llll-none-0.lock"):  # another process is at this one
        assert factors.main(arguments) == 0
    assert len(calls) == len(read_lines(tmp_path / "factors.jsonl")) == 47
    assert factors.main(arguments) == 0
    assert len(calls) == 48
    assert {(one.fraction, one.epochs) for one in calls} == {("1/5", 24), ("1/5", 96), ("4/5", 6), ("4/5", 24)}
    capsys.readouterr()
    assert factors.main([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "48 trainings." in printed
    assert "mean           +1.50  +1.50 to +1.50" in printed
    assert len(calls) == 48


def test_a_warm_start_trains_for_a_third_from_the_weights_without_attention(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[TrainSettings] = []
    monkeypatch.setattr(factors, "train_once", trained_as(calls))
    arguments = [str(tmp_path), "--data-dir", "images", "--warm"]
    assert factors.main(arguments) == 0
    assert len(calls) == 24  # nothing has weights yet
    weights = tmp_path / "llll-none-0" / "attempt-1" / "weights.safetensors"
    weights.parent.mkdir(parents=True)
    weights.touch()
    for _ in range(2):
        assert factors.main(arguments) == 0
        assert len(calls) == 27
    for warm, scratch in zip(calls[24:], calls[:3], strict=True):
        assert warm == replace(
            scratch, to=warm.to, epochs=(scratch.epochs or 0) // 3, set=("transplant=0.1",), pretrained=str(weights)
        )
    printed = capsys.readouterr().out
    assert "Warm starts: 2 of 2 gains have the same sign; Kendall's tau within combinations +1.00" in printed


def test_the_long_combinations_are_trained_otherwise_to_see_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[TrainSettings] = []
    monkeypatch.setattr(factors, "train_once", trained_as(calls))
    for _ in range(2):
        assert factors.main([str(tmp_path), "--data-dir", "images", "--why"]) == 0
        assert len(calls) == 24 + 4 * 3
    long = [one for one in calls[:24] if one.layout == LAYOUTS["last stage"]][4:]
    for narrow, heads, scratch, larger in zip(
        (True, True, False, False), (4, 4, 8, 8), long, calls[24::3], strict=True
    ):
        assert larger == replace(scratch, to=larger.to, space=larger.space)
        space = load(str(larger.space))
        assert [stage.heads for stage in space.stages or ()] == [None, heads]
        network = read(factors.BASES[not narrow], input_size=32)
        rule, more, base = (
            sum(weight.numel() for weight in build(layout).parameters())
            for layout in (
                network.replace("stages.2.blocks.1", "M"),
                network.replace("stages.2.blocks.1", "M", heads=heads),
                network,
            )
        )
        assert abs(more - base) < abs(rule - base) / 3
    adamw = [one for one in calls[24:] if one.recipe == "quick-adamw"]
    assert [one.layout for one in adamw] == [LAYOUTS["none"], LAYOUTS["last stage"]] * 4
    capsys.readouterr()
    values = factors.summary(
        *(read_lines(tmp_path / f"{name}.jsonl") for name in ("factors", "warm", "larger", "adamw"))
    )
    assert [(one["gain"], one["larger"], one["adamw_gain"]) for one in values["why"]] == [(1.5, 1.5, 1.5)] * 4


def test_gains_of_different_orders_have_a_negative_tau() -> None:
    def lines(last: float, before: float) -> list[dict[str, Any]]:
        scores = {"none": 50.0, "last stage": 50.0 + last, "stage before": 50.0 + before}
        return [
            {"cell": cell, "place": place, "seed": 0, "accuracy": score, "curve": [score]}
            for cell in cells()[:6]
            for place, score in scores.items()
        ]

    found = factors.summary(lines(1.0, -1.0), lines(-0.5, 0.5))["warm"]
    assert (found["tau"], found["gains"], found["same_sign"]) == (-1.0, 12, 0)
    assert found["high"] < 0
    assert factors.summary(lines(1.0, -1.0), lines(-0.5, 0.5)[:2])["warm"] == {}


def test_the_examples_are_right() -> None:
    assert doctest.testmod(factors).failed == 0
