"""Global against local attention over sizes: pairs, their gains, and what continues."""

import doctest
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import scale
from answer import read_lines
from buildup.settings import TrainSettings

BASES = [f"resnetv2_18(stem_chs=8, channels=[{width}, 16, 32], layers=[1, 2, 2])" for width in (8, 16)]


def test_each_pair_is_trained_once_with_attention_after_the_first_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained: list[tuple[str, int]] = []

    def train(base: str, settings: TrainSettings) -> Any:
        assert settings.layout is not None
        trained.append((settings.layout, settings.seed))
        accuracy = 50.0 + (settings.layout == "C|CG|CG") * (1 + BASES.index(base)) + settings.seed / 8
        return SimpleNamespace(score=SimpleNamespace(metrics={"accuracy": accuracy}))

    monkeypatch.setattr(scale, "train_once", train)
    for _ in range(2):
        assert scale.main([str(tmp_path), "--dataset", "digits", "--seeds", "2", "--bases", *BASES]) == 0
    assert trained == [(layout, seed) for seed in (0, 1) for _ in BASES for layout in ("C|CM|CM", "C|CG|CG")]
    values = scale.summary(read_lines(tmp_path / "scale.jsonl"))
    assert [(row["base"], row["gain"], row["half"]) for row in values["rows"]] == [(BASES[0], 1, 0), (BASES[1], 2, 0)]
    assert values["trend"]["tau"] == 1
    assert "+2.00 (+2.00 to +2.00)" in capsys.readouterr().out


def test_a_base_without_a_second_stage_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert scale.main([str(tmp_path), "--dataset", "digits", "--bases", "resnet18", "vit_tiny_patch16_224"]) == 2
    assert "vit_tiny_patch16_224" in capsys.readouterr().err
    assert not (tmp_path / "scale.jsonl").exists()


def test_the_example_of_the_table_is_right() -> None:
    assert doctest.testmod(scale).failed == 0
