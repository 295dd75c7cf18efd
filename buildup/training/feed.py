"""What a training is fed: batches on its device, augmented, epoch by epoch; and the images it is measured on.

`Resident` is for sets that fit: the decoded images lie on the device, and whole batches are augmented there. Sets that
do not fit are read anew in each epoch (`stream.py`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from buildup.training import draws
from buildup.training.augment import CROP, ERASING, FLIP, mix, normalise, soft_targets
from buildup.training.augmentation import AUGMENTATIONS, Change, EpochImages, send
from buildup.training.dataset import Dataset
from buildup.training.draws import stream
from buildup.training.randaugment import COLOUR_JITTER, RANDAUGMENT
from buildup.training.recipe import Recipe

CHUNK = 1 << 24
"""Pixel values that a GPU augments together: each kernel is then worth its launch (4,096 images of 32 px)."""

for _augmentation in (CROP, FLIP, RANDAUGMENT, COLOUR_JITTER, ERASING):  # in the order in which images go through them
    AUGMENTATIONS.register(_augmentation)


class Feed(Protocol):
    """Where the images of a training come from."""

    @property
    def num_classes(self) -> int:
        """How many classes the labels know."""
        ...

    @property
    def train_images(self) -> int:
        """How many images an epoch draws from."""
        ...

    @property
    def val_images(self) -> int:
        """How many images there are to validate on."""
        ...

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch, normalised images with their soft targets: by seed and epoch, and by nothing else.

        There are as many as `batch_starts` says.
        """
        ...

    def validation(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The validation images in their order, normalised, with their labels."""
        ...


@dataclass(frozen=True, kw_only=True)
class Resident:
    """Images that lie on the device."""

    recipe: Recipe
    dataset: Dataset
    """On the device, or about to go there."""
    train: Tensor
    """Which of its images are trained on, and in `val`, which ones are validated on."""
    val: Tensor
    seed: int
    device: torch.device

    @property
    def num_classes(self) -> int:
        """How many classes the labels know."""
        return self.dataset.num_classes

    @property
    def train_images(self) -> int:
        """How many images an epoch draws from."""
        return len(self.train)

    @property
    def val_images(self) -> int:
        """How many images there are to validate on."""
        return len(self.val)

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch, each stack of them augmented at once."""
        recipe, dataset, images = self.recipe, self.dataset, self.train_images
        order = draws.data_order(stream(self.seed, number, "order"), images)
        where = send(self.train[torch.from_numpy(order)], self.device)
        pixels, normalised = drawn_changes(
            recipe,
            EpochImages(
                count=images,
                size=dataset.image_size,
                mean=dataset.mean,
                mirror=dataset.mirror,
                device=self.device,
                seed=self.seed,
                epoch=number,
            ),
        )
        mixtures = stream(self.seed, number, "mix")
        starts = batch_starts(images, recipe.batch_size)
        together = self._together()
        for first in range(0, len(starts), together):
            begin = starts[first]
            end = min(images, starts[min(first + together, len(starts)) - 1] + recipe.batch_size)
            here = slice(begin, end)
            inputs = dataset.images[where[here]]
            for change in pixels:
                inputs = change(inputs, here)
            inputs = normalise(inputs, dataset.mean, dataset.std)
            for change in normalised:
                inputs = change(inputs, here)
            targets = soft_targets(dataset.labels[where[here]], dataset.num_classes, recipe.label_smoothing)
            for some, their in zip(
                torch.split(inputs, recipe.batch_size), torch.split(targets, recipe.batch_size), strict=True
            ):
                yield mixed(recipe, mixtures, some, their)

    def validation(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The validation images in their order."""
        for part in torch.split(self.val, self.recipe.eval_batch_size):
            index = part.to(self.device)
            yield normalise(self.dataset.images[index], self.dataset.mean, self.dataset.std), self.dataset.labels[index]

    def _together(self) -> int:
        """How many batches are augmented at once. A CPU keeps one in its cache, and has no launches to save."""
        values = self.recipe.batch_size * self.dataset.channels * self.dataset.image_size**2
        return max(1, CHUNK // values) if self.device.type == "cuda" else 1


def drawn_changes(recipe: Recipe, seen: EpochImages) -> tuple[list[Change], list[Change]]:
    """What a recipe does to the images of an epoch: to their pixels, and then to them as they are normalised."""
    found: tuple[list[Change], list[Change]] = ([], [])
    for name in AUGMENTATIONS:
        if setting := recipe.setting(name):
            augmentation = AUGMENTATIONS[name]
            if change := augmentation.draw(setting, seen):
                found[augmentation.sees == "normalised"].append(change)
    return found


def mixed(recipe: Recipe, mixtures: np.random.RandomState, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """A batch mixed as the recipe says, by the epoch's stream for that; as it is in a recipe that mixes nothing."""
    if not (recipe.mixup or recipe.cutmix):
        return images, targets
    height, width = images.shape[-2:]
    how = draws.mixture(
        mixtures,
        (height, width),
        mixup=recipe.mixup,
        cutmix=recipe.cutmix,
        mix_prob=recipe.mix_prob,
        mix_switch_prob=recipe.mix_switch_prob,
    )
    return mix(images, targets, how)


def batch_starts(images: int, batch_size: int) -> range:
    """Where each batch of an epoch starts. A last one of less than half the size is left out: its few images would
    get the step, and the batch norm statistics, of a whole one.

    >>> list(batch_starts(100, 30)), list(batch_starts(50_000, 96))[-1]
    ([0, 30, 60], 49920)
    """
    rest = images % batch_size
    return range(0, images if images <= batch_size or rest * 2 >= batch_size else images - rest, batch_size)


def on_device(dataset: Dataset, device: torch.device) -> Dataset:
    """The same dataset with its images on a device; the next training in this process finds them there."""
    return dataset if dataset.images.device == device else _moved(dataset, device)


@lru_cache(maxsize=1)
def _moved(dataset: Dataset, device: torch.device) -> Dataset:
    return replace(dataset, images=dataset.images.to(device), labels=dataset.labels.to(device))
