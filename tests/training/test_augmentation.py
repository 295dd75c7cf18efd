"""Augmentation: what each transform does with what was drawn for it, and that timm's does the same."""

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from timm.data.mixup import Mixup
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from buildup.training.augmentation import (
    EpochImages,
    Mixture,
    cut,
    mix,
    mixture,
    normalise,
    random_stream,
    soft_targets,
)
from buildup.training.recipe import AUGMENTATIONS, load_recipe

MIXED = replace(load_recipe("quick"), mixup=1.0, cutmix=0.8, mix_prob=1.0, mix_switch_prob=0.5)


def pictures(count: int = 6, channels: int = 3, size: int = 16) -> Tensor:
    return torch.randint(1, 256, (count, channels, size, size), generator=torch.Generator().manual_seed(3)).byte()


def changed(name: str, setting: object, images: Tensor) -> Tensor:
    """Images as an augmentation changes them in an epoch."""
    epoch = EpochImages(
        count=len(images),
        size=images.shape[2],
        mean=(0.5, 0.5, 0.5),
        mirror=True,
        device=torch.device("cpu"),
        seed=0,
        epoch=1,
    )
    change = AUGMENTATIONS[name].draw(setting, epoch)
    assert change is not None
    return change(images, slice(0, len(images)))


def test_order_is_a_permutation_by_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return [int(index) for index in random_stream(seed, epoch, "order").permutation(50)]

    assert sorted(order(0, 1)) == list(range(50))
    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)


def test_a_crop_is_the_image_moved_with_a_black_border() -> None:
    images, moved = pictures(40), set()
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    for image, source in zip(changed("crop_padding", 4, images), padded, strict=True):
        windows = {(y, x): source[:, y : y + 16, x : x + 16] for y in range(5) for x in range(5)}
        (shift,) = (shift for shift, window in windows.items() if torch.equal(image, window))
        moved.add(shift)
    assert {y for y, _ in moved} == {x for _, x in moved} == set(range(5))


def test_a_flip_mirrors_some_images_and_leaves_the_others() -> None:
    images = pictures(40)
    found = changed("flip", True, images)
    mirrored = (found != images).flatten(1).any(1)
    assert 10 < mirrored.sum() < 30
    assert torch.equal(found[mirrored], images[mirrored].flip(3))


def test_normalised_pixels_have_the_stated_mean_and_deviation() -> None:
    images = pictures(50).float() / 255
    mean, std = images.mean(dim=(0, 2, 3)), images.std(dim=(0, 2, 3))
    found = normalise(pictures(50), tuple(mean.tolist()), tuple(std.tolist()))
    assert found.mean().item() == pytest.approx(0, abs=1e-4)
    assert found.std().item() == pytest.approx(1, abs=1e-3)


def test_erasing_takes_one_rectangle_from_its_share_of_the_images_as_timm_does() -> None:
    count = 4000
    holes = changed("erasing", 0.25, torch.ones(count, 1, 32, 32))[:, 0] == 0
    for hole in holes[:100]:
        for axis in (0, 1):  # a filled rectangle: all lines through it have the same pixels, one beside the other
            lines = hole.unique(dim=axis)
            assert (lines.sum(1 - axis) > 0).sum() == hole.any()
            assert (hole.any(1 - axis).int().diff() != 0).sum() <= 2

    before = random.getstate()
    random.seed(0)
    by_timm: Any = RandomErasing(0.25, mode="const", device="cpu")  # type: ignore[no-untyped-call]
    theirs = by_timm(torch.ones(count, 1, 32, 32))[:, 0] == 0
    random.setstate(before)
    for measure in (lambda h: h.flatten(1).sum(1), lambda h: h.any(2).sum(1), lambda h: h.flatten(1).float().argmax(1)):
        assert stats.ks_2samp(measure(holes).numpy(), measure(theirs).numpy()).pvalue > 1e-3  # type: ignore[no-untyped-call]


def test_mixing_gives_targets_the_share_that_each_image_keeps() -> None:
    """Images of one colour each tell by their mean how much of them is left."""
    # An odd batch: the image in the middle is mixed with itself.
    colours = torch.arange(5.0)
    draws, kinds = random_stream(0, 1, "mix"), set()
    for _ in range(20):
        how = mixture(draws, 16, MIXED)
        images, targets = mix(colours[:, None, None, None].expand(5, 3, 16, 16).clone(), torch.eye(5), how)
        torch.testing.assert_close(images.mean(dim=(1, 2, 3)), targets @ colours)
        kinds.add(how.box is None)
    assert kinds == {True, False}


def test_a_fixed_mixture_gives_the_images_and_targets_of_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs: Any = Mixup(mixup_alpha=1.0, cutmix_alpha=1.0, num_classes=4)  # type: ignore[no-untyped-call]
    images, labels = torch.randn(6, 3, 15, 16), torch.tensor([0, 1, 2, 3, 3, 1])
    for own, centre in ((0.7, (3, 9)), (0.4, (14, 0)), (0.81, (7, 7))):
        for how in (Mixture(own=own), cut((15, 16), own, centre)):
            places = iter(centre)
            monkeypatch.setattr(theirs, "_params_per_batch", lambda own=own, how=how: (own, how.box is not None))
            monkeypatch.setattr(np.random, "randint", lambda *_, places=places, **__: next(places))
            expected = theirs(images.clone(), labels)
            torch.testing.assert_close(mix(images, soft_targets(labels, 4, 0.1), how), expected)


def test_a_box_inside_of_the_image_has_the_sides_that_were_drawn() -> None:
    sides = set()
    for own in np.linspace(0.02, 0.98, 97):
        side = int(32 * np.sqrt(1 - own))
        how = cut((32, 32), own, (16, 16))
        assert how.box is not None
        top, bottom, left, right = how.box
        assert (bottom - top, right - left) == (side, side)
        assert how.own == pytest.approx(1 - side**2 / 32**2)
        sides.add(side)
    assert {side % 2 for side in sides} == {0, 1}


def test_mixtures_are_as_often_and_as_strong_as_those_of_timm() -> None:
    theirs: Any = Mixup(mixup_alpha=1.0, cutmix_alpha=0.8, prob=0.8, switch_prob=0.3)  # type: ignore[no-untyped-call]
    before = np.random.get_state()
    np.random.seed(0)
    drawn = [theirs._params_per_batch() for _ in range(4000)]
    np.random.set_state(before)
    draws = random_stream(0, 1, "mix")
    recipe = replace(MIXED, mix_prob=0.8, mix_switch_prob=0.3)
    ours = [mixture(draws, 32, recipe) for _ in range(4000)]
    assert np.mean([how.own == 1 for how in ours]) == pytest.approx(0.2, abs=0.03)
    assert np.mean([how.box is not None for how in ours]) == pytest.approx(
        np.mean([cuts for _, cuts in drawn]), abs=0.03
    )
    mixed = [how.own for how in ours if how.own != 1 and how.box is None]
    assert stats.ks_2samp(mixed, [own for own, cuts in drawn if own != 1 and not cuts]).pvalue > 1e-3


def test_smoothed_targets_are_those_of_the_loss() -> None:
    logits, labels = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    cross_entropy = torch.nn.functional.cross_entropy
    smooth = cross_entropy(logits, soft_targets(labels, 3, 0.1))
    torch.testing.assert_close(smooth, cross_entropy(logits, labels, label_smoothing=0.1))
