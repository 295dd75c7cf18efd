"""`bench/train.py` gives a row a variant and batch."""

import json

import pytest

from train import main

ROW = {"variant", "base", "layout", "batch", "device", "images_per_s", "data_share", "peak_mib"}


@pytest.mark.slow
def test_three_variants_are_measured_for_each_batch(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--base", "resnet10t", "--batch", "8,9", "--device", "cpu", "--size", "16", "--json"]
    assert main(asked) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["batch"], row["variant"]) for row in rows] == [
        (batch, variant) for batch in (8, 9) for variant in ("plain", "amp", "ours")
    ]
    for row in rows:
        assert row.keys() >= ROW
        assert row["images_per_s"] > 0
        assert 0 < row["data_share"] <= 1
        assert row["peak_mib"] > 100


def test_a_wrong_bench_is_refused_with_all_that_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--base", "resnet10t", "--batch", "8,x", "--recipe", "papre"]) == 2
    said = capsys.readouterr().err
    assert "--batch x" in said
    assert "did you mean 'paper'" in said
