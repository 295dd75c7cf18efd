"""What networks keep when a block is replaced: the base, and one line for each place and kind."""

import json
from pathlib import Path

import pytest
from safetensors.torch import save_file

import kept
from buildup.models.build import build
from buildup.models.read import read_network


def test_a_block_that_starts_as_the_trained_one_keeps_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("buildup.training.transplant.LEAST", 2)
    monkeypatch.setattr("buildup.training.transplant.FITTED", 1)
    monkeypatch.setattr(kept, "STEPS", 1)
    base = "resnetv2_18(stem_chs=8,channels=[8,8],layers=[2,2])"
    network = read_network(base, input_shape=(1, 16, 16), num_classes=10)
    save_file(build(network, seed=0).state_dict(), tmp_path / "weights.safetensors")
    asked = ["--base", base, "--dataset", "digits", "--precision", "float32", "--kinds", "T", "M"]
    assert kept.main([str(tmp_path / "weights.safetensors"), *asked]) == 0
    first, *lines = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["place"] == "the base"
    assert first["training_seconds"] >= 0
    assert [(line["kind"], line["place"]) for line in lines] == [
        (kind, f"stages.{stage}.blocks.1") for kind in ("T", "M") for stage in (0, 1)
    ]
    assert [line["accuracy"] for line in lines[:2]] == [first["accuracy"]] * 2
    assert [line["error"] for line in lines[:2]] == [None, None]
    assert all(line["error"] > 0 for line in lines[2:])
