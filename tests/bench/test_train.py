"""`bench/train.py` gives a row a variant and batch."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

import train
from buildup.graph.layout import layout
from buildup.graph.network import Network
from buildup.models.read import read_network
from buildup.training.execution_words import Execution
from buildup.training.recipe import Recipe, load_recipe
from buildup.training.train_step import create_training_model
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


def test_all_loops_are_measured_with_the_model_and_the_settings_of_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, before = replace(load_recipe("quick"), drop_path=0.3), torch.get_num_threads()
    threads: list[int] = []
    made: list[float] = []

    def create(network: Network, recipe: Recipe, **given: Any) -> Any:
        made.append(recipe.drop_path)
        return create_training_model(network, recipe, **given)

    def look(loop: Any, *_: Any, **__: Any) -> None:
        threads.append(torch.get_num_threads())
        loop.rates.append(1.0)
        loop.shares.append(0.5)

    monkeypatch.setattr(train, "create_training_model", create)
    monkeypatch.setattr(train, "_round", look)
    monkeypatch.setattr(train, "_peak", lambda *_: 100.0)
    monkeypatch.setattr(train, "_matrix_rate", lambda *_: 1e12)
    network = read_network("resnet10t", input_shape=(3, 16, 16), num_classes=5)
    asked: Any = {"batch": 4, "device": "cpu", "threads": before + 1, "workers": 0, "executions": [Execution()]}
    rows = train.compare(network, layout(network), recipe, **asked)
    assert [row.variant for row in rows] == ["plain", "amp", "ours"]
    assert made == [0.3] * 3
    assert set(threads) == {before + 1}
    assert torch.get_num_threads() == before


def test_a_wrong_bench_is_refused_with_all_that_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--base", "resnet10t", "--batch", "8,x", "--recipe", "papre"]) == 2
    said = capsys.readouterr().err
    assert "--batch x" in said
    assert "did you mean 'paper'" in said
