"""Augmentation: what each transform does, and that its draws are nobody's but seed's and epoch's."""

import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from buildup.training.augment import (
    Draws,
    augmentation,
    crop,
    data_order,
    epoch_draws,
    erase,
    flip,
    mix,
    normalise,
    soft_targets,
)
from buildup.training.data import load_data
from buildup.training.dataset import Dataset
from buildup.training.recipe import Recipe, load_recipe

CPU = torch.device("cpu")
EVERYTHING = replace(load_recipe("paper"), erasing=0.5)


def draws(epoch: int = 1) -> Draws:
    return epoch_draws(0, epoch, CPU)


def pictures(count: int = 6, channels: int = 3, size: int = 16) -> Tensor:
    return torch.randint(1, 256, (count, channels, size, size), generator=torch.Generator().manual_seed(3)).byte()


def dataset(channels: int = 3) -> Dataset:
    return Dataset(
        name="made up",
        images=pictures(channels=channels),
        labels=torch.arange(6) % 3,
        class_names=("a", "b", "c"),
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
    )


def batch(recipe: Recipe, data: Dataset, given: Draws) -> tuple[Tensor, Tensor]:
    inputs = augmentation(recipe, data)(data.images, given)
    return mix(inputs, soft_targets(data.labels, 3, 0.1), given, recipe)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("recipe", [load_recipe("quick"), EVERYTHING], ids=["quick", "everything"])
def test_draws_depend_on_seed_and_epoch_alone(recipe: Recipe, channels: int) -> None:
    data = dataset(channels)
    inputs, targets = batch(recipe, data, draws())
    # What a network may do between two batches: draw from every global generator.
    torch.rand(5)
    random.random()
    again, same_targets = batch(recipe, data, draws())
    assert torch.equal(inputs, again)
    assert torch.equal(targets, same_targets)
    assert not torch.equal(inputs, batch(recipe, data, draws(epoch=2))[0])
    assert inputs.shape == data.images.shape
    assert targets.sum(1).tolist() == pytest.approx([1.0] * 6)


def test_augmentation_leaves_the_global_generators_as_they_were() -> None:
    before = random.getstate(), torch.get_rng_state()
    batch(EVERYTHING, dataset(), draws())
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


def test_order_is_a_permutation_by_seed_and_epoch() -> None:
    assert sorted(data_order(0, 1, 50).tolist()) == list(range(50))
    assert torch.equal(data_order(0, 1, 50), data_order(0, 1, 50))
    assert not torch.equal(data_order(0, 1, 50), data_order(0, 2, 50))
    assert not torch.equal(data_order(0, 1, 50), data_order(1, 1, 50))


def test_a_crop_is_the_image_moved_with_a_black_border() -> None:
    images = pictures(40)
    found = crop(images, draws(), 2)
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    for image, source in zip(found, padded, strict=True):
        windows = [source[:, y : y + 16, x : x + 16] for y in range(5) for x in range(5)]
        assert sum(torch.equal(image, window) for window in windows) == 1


def test_a_flip_mirrors_some_images_and_leaves_the_others() -> None:
    images = pictures(40)
    mirrored = [torch.equal(new, old.flip(2)) for new, old in zip(flip(images, draws()), images, strict=True)]
    kept = [torch.equal(new, old) for new, old in zip(flip(images, draws()), images, strict=True)]
    assert all(one != other for one, other in zip(mirrored, kept, strict=True))
    assert 10 < sum(mirrored) < 30


def test_digits_are_never_mirrored() -> None:
    digits = load_data("digits")
    recipe = replace(load_recipe("quick"), crop_padding=0)
    plain = normalise(digits.images[:64], digits.mean, digits.std)
    assert torch.equal(augmentation(recipe, digits)(digits.images[:64], draws()), plain)


def test_normalised_pixels_have_the_stated_mean_and_deviation() -> None:
    images = pictures(50).float() / 255
    mean, std = images.mean(dim=(0, 2, 3)), images.std(dim=(0, 2, 3))
    found = normalise(pictures(50), tuple(mean.tolist()), tuple(std.tolist()))
    assert found.mean().item() == pytest.approx(0, abs=1e-4)
    assert found.std().item() == pytest.approx(1, abs=1e-3)


def test_erasing_takes_one_rectangle_from_its_share_of_the_images() -> None:
    holes = erase(torch.ones(400, 3, 32, 32), draws(), 0.25)[:, 0] == 0
    erased = [hole for hole in holes if hole.any()]
    assert 70 < len(erased) < 130
    for hole in erased:
        rows, columns = hole.any(1), hole.any(0)
        assert hole.sum() == rows.sum() * columns.sum()
        assert 0.01 < hole.float().mean() < 0.36


def test_mixing_gives_targets_the_share_that_each_image_keeps() -> None:
    """Images of one colour each tell by their mean how much of them is left."""
    recipe = replace(load_recipe("paper"), label_smoothing=0.0)
    # An odd batch: the image in the middle is mixed with itself.
    colours = torch.arange(5.0)
    given, kinds = draws(), set()
    for _ in range(20):
        images, targets = mix(colours[:, None, None, None].expand(5, 3, 16, 16).clone(), torch.eye(5), given, recipe)
        torch.testing.assert_close(images.mean(dim=(1, 2, 3)), targets @ colours)
        kinds.add(bool(images[0].std() > 0))
    assert kinds == {True, False}


def test_smoothed_targets_are_those_of_the_loss() -> None:
    logits, labels = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    cross_entropy = torch.nn.functional.cross_entropy
    smooth = cross_entropy(logits, soft_targets(labels, 3, 0.1))
    torch.testing.assert_close(smooth, cross_entropy(logits, labels, label_smoothing=0.1))
