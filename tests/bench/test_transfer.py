"""Searches on pretrained weights: what is done is not done again, and what the table says of it."""

from pathlib import Path
from typing import Any

import pytest
from sklearn.datasets import load_digits
from torchvision.transforms.functional import to_pil_image

import transfer
from answer import append_line, read_lines
from buildup.trials.training import CHECKS

LINE: dict[str, Any] = {
    "base": "resnet18",
    "way": "imitate",
    "layout": "CC|CM",
    "scores": {"CC|CC": [38.0, 39.0], "CC|CM": [39.0, 41.0]},
    "errors": {"CC|CM": [0.25, 0.35]},
    "decisions": [
        {"layout": "CC|CM", "kept": True, "gain": 1.5, "ci": [0.1, 2.9], "seeds": 2},
        {"layout": "CM|CM", "kept": False, "gain": -1.0, "ci": [-2.0, 0.0], "seeds": 2},
    ],
    "final": {"gain": 1.0, "ci": [-0.5, 2.5], "proven": False},
    "seconds": 60,
}


def test_only_the_missing_searches_are_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append_line(tmp_path / "transfer.jsonl", LINE)
    searched: list[tuple[str, str]] = []

    def search(folder: Path, base: str, way: str, flags: list[str]) -> dict[str, Any]:
        searched.append((base, way))
        return {**LINE, "way": way, "final": None}

    monkeypatch.setattr(transfer, "halves", lambda *_: None)
    monkeypatch.setattr(transfer, "searched", search)
    for _ in range(2):
        assert transfer.main([str(tmp_path), "--data-dir", "data", "--bases", "resnet18"]) == 0
    assert searched == [("resnet18", way) for way in list(transfer.WAYS)[1:]]


def test_the_table_has_the_base_the_verdicts_and_the_final() -> None:
    cells = [" ".join(row).split() for row in transfer.rows([LINE])]
    assert cells == [
        ["resnet18", "imitate", "CC|CC", "38.50", "2", "seeds", "of", "the", "base"],
        ["CC|CM", "0.30", "40.00", "+1.50", "+0.10", "to", "+2.90", "kept"],
        ["CM|CM", "-1.00", "-2.00", "to", "+0.00", "dropped"],
        ["CC|CM", "+1.00", "-0.50", "to", "+2.50", "final,", "not", "proven"],
    ]
    assert transfer.table([LINE]).splitlines()[0].split()[:2] == ["base", "new"]


@pytest.mark.slow
def test_real_searches_on_halves_of_the_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digits = load_digits()
    for number, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        part = "test" if number % 5 == 0 else "train"
        place = tmp_path / "images" / ("even", "odd")[label % 2] / part / str(label)
        place.mkdir(parents=True, exist_ok=True)
        to_pil_image((image * 15.9).astype("uint8")).resize((16, 16)).save(place / f"{number}.png")
    monkeypatch.setattr(transfer, "EPOCHS", 2)
    monkeypatch.setattr(transfer, "WAYS", dict(list(transfer.WAYS.items())[:2]))
    monkeypatch.setattr(transfer, "SEEDS", 2)
    monkeypatch.setattr(transfer, "FINAL_SEEDS", 2)
    monkeypatch.setattr(transfer, "PART", "1")
    base = "resnetv2_18(stem_chs=8,channels=[8,16],layers=[2,2])"
    assert transfer.main([str(tmp_path), "--data-dir", "there", "--bases", base]) == 0
    imitates, random = read_lines(tmp_path / "transfer.jsonl")
    assert len(imitates["decisions"]) == 2
    assert imitates["errors"].keys() >= {"CC|CM"}
    assert imitates["checks"].keys() == set(CHECKS.values())
    assert random["errors"] == {}
