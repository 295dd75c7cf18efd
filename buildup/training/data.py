"""Datasets by name: `digits`, `cifar10`, `cifar100`, and those that `source.py` reads, such as `folder:DIR`.

`load_data` gives the images that a search may see; the test images are another function, which only `final` calls.
A machine decodes a dataset once, however many candidates are trained on it (`decoded.py`).
"""

import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from buildup.cache import user_cache
from buildup.errors import DataError, RecipeError, unknown
from buildup.registry import Registry
from buildup.training.augmentation import AUGMENTATIONS
from buildup.training.cifar import CIFARS
from buildup.training.dataset import Contents, DataInfo, Dataset, count_split, fraction_text, parse_fraction, split
from buildup.training.dataset_sources import SOURCES, Source
from buildup.training.digits import Digits
from buildup.training.recipe import Recipe
from buildup.training.stream import Streamed

__all__ = ["DATASETS", "DataInfo", "Dataset", "DatasetKind", "check_test", "data_folder", "describe_data"]
__all__ += ["fraction_text", "kind_of", "load_data", "load_test", "open_data", "open_test", "parse_fraction", "split"]

LARGEST_SHARE = 0.25
"""Of the memory, what decoded images may take."""


class DatasetKind(Protocol):
    """A set, or all sets of a kind. Its methods get the name as it was typed, and the data folder."""

    @property
    def name(self) -> str:
        """Of the kind: `folder` of `folder:DIR`."""
        ...

    @property
    def usage(self) -> str:
        """What users type."""
        ...

    def size(self, name: str, place: Path, asked: int | None) -> int:
        """The image size: the one asked for where that is possible."""
        ...

    def contents(self, name: str, place: Path) -> Contents:
        """What is known without decoding or fetching anything."""
        ...

    def source(self, name: str, place: Path, *, train: bool) -> Source | None:
        """The images one by one, of sets that may be read anew in each epoch."""
        ...

    def load(self, name: str, place: Path, size: int, *, train: bool) -> Dataset:
        """All images decoded; those for the test otherwise."""
        ...


DATASETS = Registry[DatasetKind]("dataset", group="buildup.datasets", error=DataError)
for _kind in (Digits(), *CIFARS, *SOURCES):
    DATASETS.register(_kind)


def kind_of(name: str) -> DatasetKind:
    """The kind of a set, by what users type."""
    own = re.split("[:/]", name, maxsplit=1)[0]
    if own in DATASETS:
        kind = DATASETS[own]
        mark = kind.usage[len(own) :][:1]
        if name == own if not mark else name.startswith(own + mark) and name != own + mark:
            return kind
    raise DataError(unknown("dataset", name, [kind.usage for kind in DATASETS.values()]))


def load_data(name: str, data_dir: str | None = None, image_size: int | None = None) -> Dataset:
    """The training images of a dataset, validation included."""
    return _load(name, data_folder(data_dir), _checked_size(name, image_size, data_dir), True)


def load_test(name: str, data_dir: str | None = None, image_size: int | None = None) -> Dataset:
    """The test images of a dataset. A search never opens them."""
    return _load(name, data_folder(data_dir), _checked_size(name, image_size, data_dir), False)


def open_data(name: str, data_dir: str | None, image_size: int | None, recipe: Recipe) -> Dataset | Streamed:
    """The training images as a recipe needs them: decoded, or read anew in each epoch.

    Read anew are sets that would fill the memory, and those of whose whole images a recipe cuts resized crops.
    """
    size = _checked_size(name, image_size, data_dir)
    return _streamed(name, data_dir, size, recipe, train=True) or load_data(name, data_dir, size)


def open_test(name: str, data_dir: str | None, image_size: int | None, recipe: Recipe) -> Dataset | Streamed:
    """The test images, cut as the validation images of a training by this recipe are. A search never opens them."""
    size = _checked_size(name, image_size, data_dir)
    return _streamed(name, data_dir, size, recipe, train=False) or load_test(name, data_dir, size)


def check_test(name: str, data_dir: str | None = None) -> None:
    """Refuse a dataset without usable test images, by their names and labels alone."""
    kind_of(name).source(name, data_folder(data_dir), train=False)


def describe_data(
    name: str, data_dir: str | None = None, image_size: int | None = None, fraction: float = 1.0
) -> DataInfo:
    """Sizes of a dataset without decoding its images, and without fetching it."""
    size = _checked_size(name, image_size, data_dir)
    contents = kind_of(name).contents(name, data_folder(data_dir))
    train_images, val_images = count_split(contents.members, contents.val_share, fraction)
    return DataInfo(
        image_size=size,
        channels=contents.channels,
        num_classes=len(contents.members),
        train_images=train_images,
        val_images=val_images,
        present=contents.present,
        classes=contents.classes,
    )


def data_folder(data_dir: str | None = None) -> Path:
    """Where datasets lie: the folder given, else `BUILDUP_DATA`, else the user's cache."""
    if chosen := data_dir or os.environ.get("BUILDUP_DATA"):
        return Path(chosen).expanduser().resolve()
    return user_cache() / "data"


def _streamed(name: str, data_dir: str | None, size: int, recipe: Recipe, *, train: bool) -> Streamed | None:
    """What is read from its files in each epoch; None for what is decoded once."""
    source = kind_of(name).source(name, data_folder(data_dir), train=train)
    if source is None:
        if recipe.resized_crop is not None:
            raise RecipeError(
                f"recipe {recipe.name} cuts resized crops out of large images, and {name} has none. "
                "Use one with crop_padding, such as paper."
            )
        return None
    fills = len(source.labels) * 3 * size * size > LARGEST_SHARE * _memory()
    if not fills and recipe.resized_crop is None:
        return None
    if pixels := [name for name in recipe.augmentations if AUGMENTATIONS[name].sees == "pixels"]:
        raise RecipeError(
            f"recipe {recipe.name}: {', '.join(pixels)} of augmentations can't be applied to {name}, which is read "
            "from its files in each epoch. Leave it out."
        )
    return Streamed(source=source, image_size=size)


def _checked_size(name: str, image_size: int | None, data_dir: str | None) -> int:
    size = kind_of(name).size(name, data_folder(data_dir), image_size)
    if not 8 <= size <= 4096:
        raise DataError(f"image size is {image_size}; 8 to 4096 px are possible.")
    return size


def _memory() -> float:
    """Bytes of memory here; without an end where the system tells it another way."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else float("inf")


@lru_cache(maxsize=4)
def _load(name: str, place: Path, image_size: int, train: bool) -> Dataset:
    return kind_of(name).load(name, place, image_size, train=train)
