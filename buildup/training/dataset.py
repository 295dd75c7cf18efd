"""A decoded dataset, the split of its training images, and its file on disk.

A machine decodes a set once. The first training that needs it writes a file, and all others map the same pages:

    decoded/cifar100-32-train-1f0c9a.safetensors    pixels, labels, class names, and who decoded them when

The log of each training names that process, so the logs of a run show how often a set was decoded.
"""

import hashlib
import json
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from buildup.errors import DataError, some
from buildup.files import replacing

if TYPE_CHECKING:
    from buildup.training.feed import StreamedDataset

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
FILE_FORMAT = "2"
UNEVEN = 10
"""Users are told where the largest class has at least this many times the images of the smallest."""
LEAST_MEMBERS = 2
"""The images that a class needs: one to train on and one to validate on."""
MOST_VALIDATED = 10_000
"""The most images to validate on, if the validation share of the dataset is not more. More would cost time and tell
little: at 10,000 images the seed matters more than single images."""


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
        return self.images.shape[2]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def part(self, index: Tensor) -> "Dataset":
        return replace(self, images=self.images[index], labels=self.labels[index])

    @cached_property
    def hash(self) -> str:
        """sha256 over pixels, labels and class names: equal only for equal data in equal order."""
        digest = hashlib.sha256("\0".join(self.class_names).encode())
        digest.update(repr(tuple(self.images.shape)).encode())
        digest.update(self.images.contiguous().numpy().data)
        digest.update(self.labels.contiguous().numpy().data)
        return digest.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What is known of the training images of a set before decoding, validation images included."""

    members: tuple[int, ...]
    """How many images each class has."""
    classes: tuple[str, ...] = ()
    channels: int = 3
    val_share: float = 0.1
    present: bool = True
    """Whether they are on this disk; if not, loading fetches them."""
    notes: tuple[str, ...] = ()
    """What of the set is left out, as sentences."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataInfo:
    """What a plan needs to know of a dataset before it is decoded."""

    image_size: int
    channels: int
    num_classes: int
    train_images: int
    """Images trained on: without the validation images, and after the fraction."""
    val_images: int
    present: bool = True
    """Whether it is on this disk; if not, loading fetches it."""
    notes: tuple[str, ...] = field(default=(), repr=False)
    """What users should know of the images, as sentences."""


def split(
    dataset: "Dataset | StreamedDataset", seed: int, *, fraction: float = 1.0, most: int = MOST_VALIDATED
) -> tuple[Tensor, Tensor]:
    """Indexes of the images to train on and of those to validate on, both in rising order.

    Each seed has a fold of its own: with a validation share of 1/10, seeds 0 to 9 validate on ten parts of one order of
    the images, seeds 10 to 19 on those of another. Each class gives the same share. `fraction` reduces the training
    part, to at least one image a class; a larger fraction keeps all images that a smaller one keeps. What is not
    trained on is validated on, up to `most` images.
    """
    labels, folds = dataset.labels.numpy(), round(1 / dataset.val_share)
    check_members(np.bincount(labels, minlength=dataset.num_classes).tolist(), dataset.class_names)
    train, val = [], []
    for label in range(dataset.num_classes):
        members = np.flatnonzero(labels == label)
        start = seed % folds * len(members) // folds
        # numpy promises that RandomState never changes its draws.
        order = np.roll(np.random.RandomState([seed // folds, label]).permutation(members), -start)
        kept, held, more = split_sizes(len(members), dataset.val_share, fraction, most / len(labels))
        train.append(order[held : held + kept])
        val += [order[:held], order[held + kept : held + kept + more]]
    return _sorted(train), _sorted(val)


def shared_split(dataset: "Dataset | StreamedDataset", seed: int, *, fraction: float = 1.0) -> tuple[Tensor, Tensor]:
    """`split` for a run before version 0.3.0: all its trainings validate on one fold, and on no other images."""
    return split(dataset, seed * round(1 / dataset.val_share), fraction=fraction, most=0)


def check_members(members: Sequence[int], classes: Sequence[str] = ()) -> None:
    """Raise if a class has too few images to be trained and validated on. Without names, classes are numbered."""
    if len(members) < 2:
        raise DataError(f"it has only the class {classes[0] if classes else 0}; at least two are needed.")
    few = [
        f"class {classes[label] if classes else label} has {count} image{'' if count == 1 else 's'}"
        for label, count in enumerate(members)
        if count < LEAST_MEMBERS
    ]
    if few:
        raise DataError(
            f"{some(few)}: a class needs at least {LEAST_MEMBERS}, one "
            "to train on and one to validate on. Add images, or leave the class out."
        )


def size_note(members: Sequence[int], classes: Sequence[str]) -> str | None:
    """A sentence on classes of very different size; None if they are not.

    >>> size_note((5000, 120), ("cat", "dog"))
    'Classes of very different size: 5,000 images of cat, 120 of dog. Accuracy tells most about the large ones.'
    """
    large, small = max(members), min(members)
    if large < UNEVEN * small or not classes:
        return None
    most, least = classes[members.index(large)], classes[members.index(small)]
    return (
        f"Classes of very different size: {large:,} images of {most}, {small:,} of {least}. "
        "Accuracy tells most about the large ones."
    )


def check_fraction(members: Sequence[int], val_share: float, fraction: float) -> None:
    rest = sum(split_sizes(count, val_share)[0] for count in members)
    if fraction * rest < len(members):
        raise DataError(
            f"fraction {fraction_text(fraction)} of {rest:,} training images are {fraction * rest:.2g}, and "
            f"{len(members)} classes need at least one each: take at least 1/{rest // len(members)}."
        )


def _sorted(parts: Sequence[npt.NDArray[np.int64]]) -> Tensor:
    return torch.from_numpy(np.sort(np.concatenate(parts)))


def split_sizes(members: int, val_share: float, fraction: float = 1.0, most: float = 0.0) -> tuple[int, int, int]:
    """How many images of a class are trained on, held out for validation, and validated on beside these.

    `most` is the largest share of the images that is validated on, if that is more than `val_share`.

    >>> split_sizes(500, 0.1), split_sizes(500, 0.1, 1 / 64, most=0.2)
    ((450, 50, 0), (7, 50, 50))
    """
    held = min(max(1, round(members * val_share)), members - 1)
    kept = max(1, round((members - held) * fraction))
    return kept, held, max(0, min(members - held - kept, int(members * most) - held))


def count_split(members: Sequence[int], val_share: float, fraction: float = 1.0) -> tuple[int, int]:
    sizes = [split_sizes(count, val_share, fraction, MOST_VALIDATED / sum(members)) for count in members]
    return sum(kept for kept, _, _ in sizes), sum(held + more for _, held, more in sizes)


def parse_fraction(text: str | float) -> float:
    """Parse a share of the training data, such as 1/64 or 0.1.

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
    """A share as text: the same for equal shares, however they were typed.

    >>> [fraction_text(parse_fraction(text)) for text in ("0.125", "1/8", "1.0", "0.3")]
    ['1/8', '1/8', '1', '3/10']
    """
    short = Fraction(fraction).limit_denominator(1_000_000)
    return str(short if float(short) == fraction else fraction)


def load_or_decode(folder: Path, name: str, source: object, decode: Callable[[], Dataset]) -> Dataset:
    """Load a decoded set from its file in a folder; decode it and write the file where it is missing.

    `source` are plain values that differ between sources, and between states of their files. A new file replaces an
    older one of the same name.
    """
    key = hashlib.sha256(json.dumps([FILE_FORMAT, source], sort_keys=True).encode()).hexdigest()[:12]
    path = folder / f"{name}-{key}.safetensors"
    time = datetime.now().astimezone().isoformat(timespec="seconds")
    origin = f"decoded by {socket.gethostname()}:{os.getpid()} at {time}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{name}.lock", fallback_to_soft=False):  # others wait until the first has decoded
            if (found := _read_decoded(path)) is not None:
                return found
            try:
                dataset = replace(decode(), origin=origin)
            except DataError:  # a refused request leaves nothing
                (folder / f"{name}.lock").unlink(missing_ok=True)
                raise
            _write_decoded(path, dataset)
            for other in folder.glob(f"{name}-*.safetensors"):
                if other != path:
                    other.unlink(missing_ok=True)
            return dataset
    except DataError:
        with suppress(OSError):
            folder.rmdir()  # unless there are other sets
        raise
    except OSError as problem:
        # Without a file, training goes on, and the log says why each process decodes for itself.
        return replace(decode(), origin=f"{origin}, for itself alone: {problem}")


def _read_decoded(path: Path) -> Dataset | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            values: dict[str, Any] = json.loads(file.metadata()["dataset"])
            for name in ("class_names", "mean", "std"):
                values[name] = tuple(values[name])
            return Dataset(images=file.get_tensor("images"), labels=file.get_tensor("labels"), **values)
    except (SafetensorError, KeyError, TypeError, ValueError):
        return None  # the set is decoded again, which replaces the broken file


def _write_decoded(path: Path, dataset: Dataset) -> None:
    names = ("name", "class_names", "mean", "std", "mirror", "val_share", "origin")
    values = {name: getattr(dataset, name) for name in names}
    tensors = {"images": dataset.images.contiguous(), "labels": dataset.labels}
    try:
        with replacing(path) as temporary:
            save_file(tensors, temporary, {"dataset": json.dumps(values)})
    except SafetensorError as problem:
        raise OSError(str(problem)) from None
