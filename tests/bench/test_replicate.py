"""Repeated searches: what is done is not done again, and what the table says of it."""

import doctest
from pathlib import Path
from typing import Any

import pytest

import replicate
from answer import append_line, read_lines

LINE: dict[str, Any] = {"layout": "CC|CM", "seconds": 60.0, "final": {"claimed": True}}


def test_only_the_missing_searches_are_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [(precision, seed) for precision in replicate.PRECISIONS for seed in replicate.SEEDS]
    for precision, seed in runs[:-2]:
        append_line(tmp_path / "replications.jsonl", {**LINE, "precision": precision, "seed": seed})
    searched: list[tuple[str, int]] = []

    def search(flags: list[str], precision: str, seed: int) -> dict[str, Any]:
        assert flags == ["--base", "resnet6"]
        searched.append((precision, seed))
        return {**LINE, "precision": precision, "seed": seed, "layout": "CC|CC", "final": None}

    monkeypatch.setattr(replicate, "replicate", search)
    for _ in range(2):
        assert replicate.main([str(tmp_path), "--", "--base", "resnet6"]) == 0
    assert searched == runs[-2:]
    assert "bf16: 8 CC|CM, 2 CC|CC; 8 of 8 finals" in capsys.readouterr().out


def test_the_example_of_the_table_is_right() -> None:
    assert doctest.testmod(replicate).failed == 0


@pytest.mark.slow
def test_a_real_search_is_summed_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicate, "SEEDS", (0,))
    monkeypatch.setattr(replicate, "PRECISIONS", ("float32",))
    flags = [
        "--base",
        "test_resnet",
        "--dataset",
        "digits",
        "--fraction",
        "1/4",
        "--epochs",
        "2",
        "--seeds",
        "2",
        "--allow-weak-base",
    ]
    assert replicate.main([str(tmp_path), "--", *flags]) == 0
    (line,) = read_lines(tmp_path / "replications.jsonl")
    assert len(line["decisions"]) == 3
