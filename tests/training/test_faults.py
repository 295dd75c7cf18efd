"""Faults planted into real trainings are found."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from timm.models.resnet import BasicBlock
from torch import nn

from buildup.graph.network import Network
from buildup.models.build import build
from buildup.models.read import read
from buildup.training.data import load_data
from buildup.training.dataset import Dataset
from buildup.training.feed import Feed
from buildup.training.fit import Job, fit
from buildup.training.health import check_base
from buildup.training.recipe import Recipe, load_recipe
from buildup.trials.outcome import Epoch, Failed

QUICK = load_recipe("quick").with_epochs(2)
VAL_IMAGES = 287


@cache
def tiny() -> Network:
    return read("resnet10t", input_shape=(1, 8, 8), num_classes=10)


def trained(folder: Path, recipe: Recipe = QUICK, seed: int = 1) -> list[Epoch]:
    return list(
        fit(
            Job(
                network=tiny(),
                seed=seed,
                dataset="digits",
                image_size=8,
                fraction=0.25,
                recipe=recipe,
                folder=str(folder),
            )
        )
    )


def problems(curve: list[Epoch], expected: float | None = None) -> str:
    return " ".join(check_base([curve], num_classes=10, images=VAL_IMAGES, expected=expected))


def test_norms_at_zero_at_two_places_of_a_branch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def zeroed(network: Network, **settings: object) -> nn.Module:
        model = build(network, **settings)  # type: ignore[arg-type]
        for module in model.modules():
            if isinstance(module, BasicBlock):
                module.bn1.weight.data.zero_()  # type: ignore[operator]  # timm's norms have no types
        return model

    monkeypatch.setattr("buildup.training.train_step.build", zeroed)
    # These digits are easy enough for the shortcuts alone, and the accuracy tells nothing.
    assert "weight tensors get no gradient" in problems(trained(tmp_path, replace(QUICK, min_steps=4)))


def test_shuffled_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = load_data("digits", None, 8)
    order = torch.randperm(len(dataset.labels), generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr("buildup.training.fit.open_data", lambda *_: replace(dataset, labels=dataset.labels[order]))
    assert "where guessing reaches" in problems(trained(tmp_path))


@pytest.mark.slow
def test_a_rate_a_hundred_times_too_high(tmp_path: Path) -> None:
    wild = replace(QUICK, lr=QUICK.lr * 100)
    found = ""
    with suppress(Failed):
        found = problems(trained(tmp_path / "a", wild)) or "sound"
    assert found != "sound"
    # Clipped gradients keep it from diverging, and it learns nothing all the same.
    assert problems(trained(tmp_path / "b", replace(wild, clip_grad=1.0))) != ""


@pytest.mark.slow
def test_validation_images_that_nobody_normalised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forgotten(self: Feed) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        assert isinstance(self.dataset, Dataset)
        yield self.dataset.images[self.val].float(), self.dataset.labels[self.val]

    monkeypatch.setattr(Feed, "validation", forgotten)
    curve = trained(tmp_path, load_recipe("quick").with_epochs(4))
    assert "training and evaluation do not match" in problems(curve) or "where guessing reaches" in problems(curve)
