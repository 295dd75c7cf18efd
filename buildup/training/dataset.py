"""A dataset in memory, and how its training images are split: always by a seed, always balanced over the classes."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from hashlib import sha256
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from buildup.errors import DataError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Decoded images with their labels: either those for training or those for the test, never both."""

    name: str
    images: Tensor
    """uint8, images x channels x height x width."""
    labels: Tensor
    """int64."""
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    """Of each channel, for pixels from 0 to 1."""
    std: tuple[float, ...]
    mirror: bool = True
    """Whether a mirrored image still shows what its label says."""
    val_share: float = 0.1
    """The share of the training images that is kept for validation."""
    origin: str = ""
    """Who decoded the images and when, for the logs."""

    def __post_init__(self) -> None:
        assert self.images.dtype == torch.uint8
        assert len(self.images) == len(self.labels)

    @property
    def channels(self) -> int:
        """1 or 3."""
        return self.images.shape[1]

    @property
    def image_size(self) -> int:
        """Height and width."""
        return self.images.shape[2]

    @property
    def num_classes(self) -> int:
        """How many classes the labels know."""
        return len(self.class_names)

    def part(self, index: Tensor) -> "Dataset":
        """Some of the images, in the order of their indexes."""
        return replace(self, images=self.images[index], labels=self.labels[index])

    @cached_property
    def hash(self) -> str:
        """sha256 over pixels, labels and class names: equal only for equal data in equal order."""
        digest = sha256("\0".join(self.class_names).encode())
        digest.update(repr(tuple(self.images.shape)).encode())
        digest.update(self.images.contiguous().numpy().data)
        digest.update(self.labels.contiguous().numpy().data)
        return digest.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What is known of the training images of a set before they are decoded, validation included."""

    members: tuple[int, ...]
    """How many images each class has."""
    classes: tuple[str, ...] = ()
    channels: int = 3
    val_share: float = 0.1
    present: bool = True
    """Whether they lie on this disk; if not, they are fetched when they are loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataInfo:
    """What a plan needs to know of a dataset before it is decoded."""

    image_size: int
    channels: int
    num_classes: int
    train_images: int
    """What is trained on: without the validation images, and after the fraction."""
    val_images: int
    present: bool = True
    """Whether it lies on this disk; if not, it is fetched when it is loaded."""
    classes: tuple[str, ...] = field(default=(), repr=False)


class Labelled(Protocol):
    """What a split needs to know of a dataset."""

    @property
    def labels(self) -> Tensor:
        """int64."""
        ...

    @property
    def num_classes(self) -> int:
        """How many classes the labels know."""
        ...

    @property
    def val_share(self) -> float:
        """The share of the training images that is kept for validation."""
        ...


def split(
    dataset: Labelled, seed: int, *, val_share: float | None = None, fraction: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Indexes of the images to train on and of those to validate on, both rising.

    Each class gives the same share to validation. `fraction` thins out the training part only: the validation part
    stays whole, and what a smaller fraction keeps, a larger one keeps too; at least one image a class.
    """
    share = dataset.val_share if val_share is None else val_share
    labels = dataset.labels.numpy()
    train: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
    val: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
    for label in range(dataset.num_classes):
        members = np.flatnonzero(labels == label)
        # numpy promises that RandomState never changes its draws.
        shuffled = members[np.random.RandomState([seed, label]).permutation(len(members))]
        kept, held = split_sizes(len(members), share, fraction)
        val.append(shuffled[:held])
        train.append(shuffled[held : held + kept])
    return tuple(torch.from_numpy(np.sort(np.concatenate(part))) for part in (train, val))  # type: ignore[return-value]


def split_sizes(members: int, val_share: float, fraction: float = 1.0) -> tuple[int, int]:
    """How many images of a class with so many members are trained on and validated on.

    >>> split_sizes(500, 0.1), split_sizes(500, 0.1, 1 / 64)
    ((450, 50), (7, 50))
    """
    held = min(max(1, round(members * val_share)), members - 1)
    return max(1, round((members - held) * fraction)), held


def count_split(members: Sequence[int], val_share: float, fraction: float = 1.0) -> tuple[int, int]:
    """The same over all classes."""
    sizes = [split_sizes(count, val_share, fraction) for count in members]
    return sum(kept for kept, _ in sizes), sum(held for _, held in sizes)


def parse_fraction(text: str | float) -> float:
    """A share of the training data, as people write it.

    >>> parse_fraction("1/64")
    0.015625
    """
    try:
        above, _, below = str(text).partition("/")
        fraction = float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        fraction = -1.0
    if not 0 < fraction <= 1:
        raise DataError(f"fraction is {str(text)!r}; a share of the training data such as 1/64, 0.1 or 1 is needed.")
    return fraction


def fraction_text(fraction: float) -> str:
    """The same text for the same share, however it was typed.

    >>> [fraction_text(parse_fraction(text)) for text in ("0.125", "1/8", "1.0", "0.3")]
    ['1/8', '1/8', '1', '3/10']
    """
    short = Fraction(fraction).limit_denominator(1_000_000)
    return str(short if float(short) == fraction else fraction)
