"""A positive control: images on which attention at the end of the last stage must help.

Three real digits stand in three corners of an empty image, too far apart for one position of a shallow network to see
two of them. The digit at the top left is the cue: a 0 says that the class is the digit at the top right, a 1 that it is
the digit at the bottom left. These two always differ.

A network that averages local features knows which two digits there are and what the cue is, but not both at one place,
so it can only guess between the two: 50 %. One layer of attention over the whole map brings the cue to the digits.

The images are made for this, so they say nothing about real ones. A search that finds no attention here is broken.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.random import RandomState

from buildup.errors import DataError
from buildup.training.dataset import Contents, Dataset
from buildup.training.standard_datasets import Digits

SIDE = 6
"""Of a digit: smaller than scikit-learn's 8 px, so that they are further apart."""
IMAGE_SIZE = 28
"""A quarter of it is 7, the largest usual window."""
CUES = (0, 1)
"""The top right digit is asked for by the first, the bottom left digit by the second."""
ANSWERS = (4, 6, 7)
IMAGES, TEST_IMAGES = 3000, 1000
"""For training and validation together, and for the test."""
VAL_SHARE = 1 / 3


@dataclass(frozen=True, slots=True, kw_only=True)
class CuedDigits:
    """Images composed of scikit-learn's digits: those for the test of held-out digits only."""

    name: str = "cued-digits"
    usage: str = "cued-digits"

    def size(self, name: str, place: Path, asked: int | None) -> int:
        if asked is not None and asked < 3 * SIDE:
            raise DataError(f"{self.name}: image size is {asked}; at least {3 * SIDE} px keep the digits apart.")
        return asked or IMAGE_SIZE

    def contents(self, name: str, place: Path) -> Contents:
        members = np.bincount(np.arange(IMAGES) % len(ANSWERS))
        return Contents(
            members=tuple(members.tolist()), classes=tuple(map(str, ANSWERS)), channels=1, val_share=VAL_SHARE
        )

    def source(self, name: str, place: Path, *, train: bool) -> None:
        """None: the images are composed at once."""

    def load(self, name: str, place: Path, size: int, *, train: bool) -> Dataset:
        """Compose the images, the same ones in every call."""
        digits = Digits().load("digits", place, SIDE, train=train)
        images, labels = compose(digits, IMAGES if train else TEST_IMAGES, size, RandomState(int(train)))
        return Dataset(
            name=self.name,
            images=images,
            labels=labels,
            class_names=tuple(map(str, ANSWERS)),
            mean=(0.042,),
            std=(0.158,),
            mirror=False,
            val_share=VAL_SHARE,
        )


def compose(digits: Dataset, count: int, size: int, random: RandomState) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels; the classes take turns."""
    of = {kind: digits.images[digits.labels == kind] for kind in (*CUES, *ANSWERS)}
    images = torch.zeros(count, 1, size, size, dtype=torch.uint8)
    labels = np.arange(count) % len(ANSWERS)
    others = (labels + random.randint(1, len(ANSWERS), count)) % len(ANSWERS)
    cues = random.randint(0, len(CUES), count)
    top, bottom = slice(0, SIDE), slice(size - SIDE, size)
    for image, label, other, cue in zip(images[:, 0], labels, others, cues, strict=True):
        shown = (label, other) if cue == 0 else (other, label)
        kinds = (CUES[cue], *(ANSWERS[answer] for answer in shown))
        for kind, rows, columns in zip(kinds, (top, top, bottom), (top, bottom, top), strict=True):
            image[rows, columns] = of[kind][random.randint(len(of[kind])), 0]
    return images, torch.from_numpy(labels)
