"""Datasets by name: `digits`, `cued-digits`, the CIFAR sets, and those of `dataset_sources.py`, such as `folder:DIR`.

`load_data` loads the images that a search may see. The test images have functions of their own, which only the final
test calls.
"""

import os
import re
import shlex
from functools import lru_cache
from pathlib import Path, PureWindowsPath
from typing import Protocol

from buildup.errors import DataError, RecipeError, counted, unknown
from buildup.files import user_cache
from buildup.registry import Named, Registry
from buildup.training.cued_digits import CuedDigits
from buildup.training.dataset import Contents, DataInfo, Dataset, check_fraction, check_members, count_split, size_note
from buildup.training.dataset_sources import SOURCES, Source, SourceDataset, open_source, refuse_unreadable
from buildup.training.feed import StreamedDataset
from buildup.training.image_files import contradictions, shortened
from buildup.training.recipe import AUGMENTATIONS, Recipe
from buildup.training.standard_datasets import CIFARS, Digits

READABLE = "readable"
"""The kind of `readable:NAME`: another set without the images that can't be read."""
LARGEST_SHARE = 0.25
"""Share of the memory that decoded images may take."""


class DatasetKind(Named, Protocol):
    """A set, or a kind of sets, such as `folder` for `folder:DIR`.

    Its methods take the name as it was typed and the data folder.
    """

    @property
    def usage(self) -> str:
        """What users type."""

    def size(self, name: str, place: Path, asked: int | None) -> int:
        """The image size: the requested one where that is possible."""

    def contents(self, name: str, place: Path) -> Contents:
        """Describe the training images without decoding or fetching them."""

    def source(self, name: str, place: Path, *, train: bool) -> Source | None:
        """The images one by one, for sets that may be read anew in each epoch; None for others."""

    def load(self, name: str, place: Path, size: int, *, train: bool) -> Dataset:
        """Decode all training images, or all test images."""


def _open_readable(name: str, place: Path, train: bool) -> Source:
    inner = name.partition(":")[2]
    source = dataset_kind(inner).source(inner, place, train=train)
    if source is None:
        raise DataError(f"{name}: the images of {inner} are no files of their own; leave --skip-unreadable out.")
    if not (broken := source.unreadable()):
        return source
    shown = ", ".join(str(source.files[index]) if source.files else f"image {index}" for index in list(broken)[:5])
    kept = [index for index in range(len(source.labels)) if index not in broken]
    return source.part(kept, [f"{counted(len(broken), 'unreadable image')} left out: {shown}."])


DATASETS = Registry[DatasetKind]("dataset", group="buildup.datasets", error=DataError)
_READABLE = SourceDataset(name=READABLE, usage=f"{READABLE}:NAME", open=_open_readable)
for _kind in (Digits(), CuedDigits(), *CIFARS, *SOURCES, _READABLE):
    DATASETS.register(_kind)


def dataset_kind(name: str) -> DatasetKind:
    own = re.split("[:/]", name, maxsplit=1)[0]
    if own in DATASETS:
        kind = DATASETS[own]
        mark = kind.usage[len(own) :][:1]
        if name == own if not mark else name.startswith(own + mark) and name != own + mark:
            return kind
    raise DataError(_unknown(name))


def _unknown(name: str) -> str:
    """An error message that guesses what was meant: a folder, a file, a set that is not fetched, or another name."""
    path, said = Path(name).expanduser(), f"unknown dataset {name!r}: "
    own = f"--dataset {shlex.quote(f'folder:{name}')}"
    if path.is_dir():
        return f"{said}for the images of this folder, say {own}."
    if path.suffix.lower() == ".csv":
        return f"{said}for a table of paths and labels, say --dataset {shlex.quote(f'csv:{name}')}."
    if re.fullmatch(r"(imagenet|ilsvrc)[-_]?(1k|2012)?", name.lower()):
        return f"{said}it is not fetched. Unpack it, and say --dataset folder:DIR, where DIR has train/ and val/."
    if name.startswith((".", "~", "/")) or PureWindowsPath(name).drive:
        return f"{said}there is no such folder. For a folder of images, say {own}."
    return unknown("dataset", name, [kind.usage for kind in DATASETS.values()])


def readable_name(name: str, *, skip_unreadable: bool) -> str:
    return f"{READABLE}:{name}" if skip_unreadable and not name.startswith(f"{READABLE}:") else name


def absolute_name(name: str) -> str:
    kind, _, rest = name.partition(":")
    if kind == READABLE:
        return f"{kind}:{absolute_name(rest)}"
    return f"{kind}:{Path(rest).expanduser().absolute()}" if rest else name


def forget_data() -> None:
    """Look at the files again: somebody may have mended or added images since this process read them."""
    open_source.cache_clear()
    _load.cache_clear()


def load_data(name: str, data_dir: str | None = None, image_size: int | None = None) -> Dataset:
    """Load the training images of a dataset, validation images included."""
    return _load(name, data_folder(data_dir), _checked_size(name, image_size, data_dir), True)


def open_data(
    name: str, data_dir: str | None, image_size: int | None, recipe: Recipe, streamed: bool | None = None
) -> Dataset | StreamedDataset:
    """Open the training images as a recipe needs them: decoded, or read anew in each epoch.

    Those are streamed whose whole images a recipe needs for resized crops. Of the others, it is the memory of the
    machine on which a run begins that says whether they are `streamed`: they are cut otherwise then. An early run does
    not know it.
    """
    return _open(name, data_dir, image_size, recipe, streamed, train=True)


def open_first(
    name: str, data_dir: str | None, image_size: int | None, recipe: Recipe
) -> tuple[Dataset | StreamedDataset, bool]:
    """Open the training images for what begins on this machine, and say whether they are streamed."""
    streamed = isinstance(open_data(name, data_dir, image_size, recipe), StreamedDataset)
    return open_data(name, data_dir, image_size, recipe, streamed), streamed


def streamed_hashes(name: str, data_dir: str | None, image_size: int | None) -> set[str]:
    """The hashes that runs know the training images by if they are streamed; empty if they can't be."""
    source = dataset_kind(name).source(name, data_folder(data_dir), train=True)
    if source is None:
        return set()
    size = _checked_size(name, image_size, data_dir)
    return {StreamedDataset(source=source, image_size=size, dated=dated).hash for dated in (False, True)}


def open_test(
    name: str, data_dir: str | None, image_size: int | None, recipe: Recipe, streamed: bool | None = None
) -> Dataset | StreamedDataset:
    """Open the test images, cut as a training by this recipe cuts its validation images. A search never opens them."""
    return _open(name, data_dir, image_size, recipe, streamed, train=False)


def open_unchanged(
    name: str, data_dir: str | None, image_size: int | None, recipe: Recipe, streamed: bool | None, known: str
) -> Dataset | StreamedDataset:
    """Open the training images of a run; raise if their hash is not the one that it began with."""
    found = open_data(name, data_dir, image_size, recipe, streamed)
    if found.hash != known:
        raise DataError(
            f"{name}: this dataset is not the one that the run began with ({len(found.labels)} images, hash "
            f"{found.hash[:12]}, then {known[:12]}). Give back the files of then, or start a new run."
        )
    return found


def check_test(name: str, data_dir: str | None = None) -> None:
    """Refuse a dataset without usable test images. Files are decoded, to see whether they can be read."""
    source = dataset_kind(name).source(name, data_folder(data_dir), train=False)
    if source is not None and source.files and (broken := source.unreadable()):
        raise DataError(*shortened(list(broken.values())), "These are test images. Mend or remove them.")


def check_images(name: str, data_dir: str | None = None, *, decoded: bool = False) -> list[str]:
    """Return sentences on training images with several labels; raise if some can't be read, unless all are decoded."""
    source = dataset_kind(name).source(name, data_folder(data_dir), train=True)
    if source is None:
        return []
    if source.files and not decoded:
        refuse_unreadable(list(source.unreadable().values()))
    return contradictions(source.files, source.labels.tolist())


def describe_data(
    name: str, data_dir: str | None = None, image_size: int | None = None, fraction: float = 1.0
) -> DataInfo:
    """Describe a dataset without fetching it or decoding its images."""
    size = _checked_size(name, image_size, data_dir)
    contents = dataset_kind(name).contents(name, data_folder(data_dir))
    try:
        check_members(contents.members, contents.classes)
        check_fraction(contents.members, contents.val_share, fraction)
    except DataError as error:
        raise DataError(*(f"{name}: {problem}" for problem in error.problems)) from None
    uneven = size_note(contents.members, contents.classes)
    train_images, val_images = count_split(contents.members, contents.val_share, fraction)
    return DataInfo(
        image_size=size,
        channels=contents.channels,
        num_classes=len(contents.members),
        train_images=train_images,
        val_images=val_images,
        present=contents.present,
        notes=(*contents.notes, *([uneven] if uneven else [])),
    )


def check_folds(name: str, data_dir: str | None = None) -> None:
    contents = dataset_kind(name).contents(name, data_folder(data_dir))
    images, classes, folds = sum(contents.members), len(contents.members), round(1 / contents.val_share)
    if images < folds * classes:
        raise DataError(
            f"{name}: {images} images in {classes} classes are too few for a search. Each seed validates on one of "
            f"{folds} parts, so at least {folds * classes} images are needed."
        )


def data_folder(data_dir: str | None = None) -> Path:
    if chosen := data_dir or os.environ.get("BUILDUP_DATA"):
        return Path(chosen).expanduser().resolve()
    return user_cache() / "data"


def _open(
    name: str, data_dir: str | None, image_size: int | None, recipe: Recipe, streamed: bool | None, *, train: bool
) -> Dataset | StreamedDataset:
    size, place = _checked_size(name, image_size, data_dir), data_folder(data_dir)
    source = dataset_kind(name).source(name, place, train=train)
    if source is None and recipe.resized_crop is not None:
        raise RecipeError(
            f"recipe {recipe.name} cuts resized crops out of large images, and {name} has none. "
            "Use one with crop_padding, such as paper."
        )
    dated = streamed is None
    if source is not None and streamed is None:
        known = dataset_kind(name).source(name, place, train=True) or source  # the test images are cut alike
        streamed = len(known.labels) * 3 * size * size > LARGEST_SHARE * _memory()
    if source is None or not (streamed or recipe.resized_crop):
        return _load(name, place, size, train)
    if pixels := [name for name in recipe.augmentations if AUGMENTATIONS[name].sees == "pixels"]:
        raise RecipeError(
            f"recipe {recipe.name}: {', '.join(pixels)} of augmentations can't be applied to {name}, which is read "
            "from its files in each epoch. Leave it out."
        )
    return StreamedDataset(source=source, image_size=size, dated=dated)


def _checked_size(name: str, image_size: int | None, data_dir: str | None) -> int:
    size = dataset_kind(name).size(name, data_folder(data_dir), image_size)
    if not 8 <= size <= 4096:
        raise DataError(f"{name}: image size is {size}; 8 to 4096 px are possible.")
    return size


def _memory() -> float:
    """Bytes of memory; infinite where `os.sysconf` does not tell."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else float("inf")


@lru_cache(maxsize=4)
def _load(name: str, place: Path, image_size: int, train: bool) -> Dataset:
    return dataset_kind(name).load(name, place, image_size, train=train)
