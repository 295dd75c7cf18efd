"""Datasets by name: `digits`, `cifar10`, `cifar100`, and those that `source.py` reads, such as `folder:DIR`.

`load_data` gives the images that a search may see; the test images are another function, which only `final` calls.
A machine decodes a dataset once, however many candidates are trained on it (`decoded.py`).
"""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

from buildup.cache import user_cache
from buildup.errors import DataError, RecipeError, unknown
from buildup.training import cifar
from buildup.training import image_folder as folder
from buildup.training.dataset import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    DataInfo,
    Dataset,
    count_split,
    fraction_text,
    parse_fraction,
    split,
)
from buildup.training.dataset_sources import Source, open_source, size_of
from buildup.training.decoded_cache import shared
from buildup.training.recipe import Recipe
from buildup.training.stream import Streamed

__all__ = ["DATASETS", "DataInfo", "Dataset", "check_test", "data_folder", "describe_data", "fraction_text"]
__all__ += ["load_data", "load_test", "open_data", "open_test", "parse_fraction", "split"]

DATASETS = ("digits", *cifar.ARCHIVES, "folder:DIR", "torch/NAME", "hfds/NAME", "wds:DIR")
LARGEST_SHARE = 0.25
"""Of the memory, what decoded images may take."""
DIGITS_SIZE = 16
DIGITS_TEST_SEED = 20220214
"""Fixed for good: what it holds out is the test set of the bundled digits."""
DIGITS_SHARE = 0.2
"""Of the digits, for the test; and again of the rest, for validation."""


def load_data(name: str, data_dir: str | None = None, image_size: int | None = None) -> Dataset:
    """The training images of a dataset, validation included."""
    return _load(name, str(data_folder(data_dir)), _checked_size(name, image_size, data_dir), True)


def load_test(name: str, data_dir: str | None = None, image_size: int | None = None) -> Dataset:
    """The test images of a dataset. A search never opens them."""
    return _load(name, str(data_folder(data_dir)), _checked_size(name, image_size, data_dir), False)


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
    if _is_source(name):
        open_source(name, str(data_folder(data_dir)), train=False)


def describe_data(
    name: str, data_dir: str | None = None, image_size: int | None = None, fraction: float = 1.0
) -> DataInfo:
    """Sizes of a dataset without decoding its images, and without fetching it."""
    size = _checked_size(name, image_size, data_dir)
    if name == "digits":
        digits = load_data(name, data_dir, size)
        members, classes, share, present = digits.labels.bincount().tolist(), digits.class_names, DIGITS_SHARE, True
    elif name in cifar.ARCHIVES:
        archive = cifar.ARCHIVES[name]
        members, classes, share = [cifar.TRAIN_IMAGES // archive.num_classes] * archive.num_classes, (), 0.1
        present = archive.is_present(data_folder(data_dir))
    else:
        source = open_source(name, str(data_folder(data_dir)))
        members = source.labels.bincount(minlength=len(source.class_names)).tolist()
        classes, share, present = source.class_names, 0.1, True
        if few := [kind for kind, count in zip(classes, members, strict=True) if count < folder.LEAST_IMAGES]:
            raise DataError(
                f"{name}: {', '.join(few[:5])}{' and more' if len(few) > 5 else ''} have fewer than "
                f"{folder.LEAST_IMAGES} images; each class needs some to train on and some to validate on."
            )
    train_images, val_images = count_split(members, share, fraction)
    return DataInfo(
        image_size=size,
        channels=1 if name == "digits" else 3,
        num_classes=len(members),
        train_images=train_images,
        val_images=val_images,
        present=present,
        classes=classes,
    )


def data_folder(data_dir: str | None = None) -> Path:
    """Where datasets lie: the folder given, else `BUILDUP_DATA`, else the user's cache."""
    if chosen := data_dir or os.environ.get("BUILDUP_DATA"):
        return Path(chosen).expanduser().resolve()
    return user_cache() / "data"


def _streamed(name: str, data_dir: str | None, size: int, recipe: Recipe, *, train: bool) -> Streamed | None:
    """What is read from its files in each epoch; None for what is decoded once."""
    if not _is_source(name):
        if recipe.resized_crop is not None:
            raise RecipeError(
                f"recipe {recipe.name} cuts resized crops out of large images, and {name} has none. "
                "Use one with crop_padding, such as paper."
            )
        return None
    source = open_source(name, str(data_folder(data_dir)), train=train)
    fills = len(source.labels) * 3 * size * size > LARGEST_SHARE * _memory()
    return Streamed(source=source, image_size=size) if fills or recipe.resized_crop is not None else None


def _is_source(name: str) -> bool:
    """Whether a set is read by `source.py`."""
    kind, mark, rest = name.partition(":")
    if mark:
        known = kind in {"folder", "wds"} and bool(rest)
    else:
        kind, mark, rest = name.partition("/")
        known = kind in {"torch", "hfds"} and bool(rest)
    if not known and name != "digits" and name not in cifar.ARCHIVES:
        raise DataError(unknown("dataset", name, DATASETS))
    return known


def _checked_size(name: str, image_size: int | None, data_dir: str | None) -> int:
    if name in cifar.ARCHIVES:
        if image_size not in (None, cifar.IMAGE_SIZE):
            raise DataError(f"{name} has images of {cifar.IMAGE_SIZE} px, not {image_size}. Leave the image size out.")
        return cifar.IMAGE_SIZE
    size = image_size
    if _is_source(name) and size is None:
        large = name.startswith("folder:")
        size = folder.IMAGE_SIZE if large else size_of(open_source(name, str(data_folder(data_dir))))
    size = size or DIGITS_SIZE
    if not 8 <= size <= 4096:
        raise DataError(f"image size is {image_size}; 8 to 4096 px are possible.")
    return size


def _memory() -> float:
    """Bytes of memory here; without an end where the system tells it another way."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else float("inf")


@lru_cache(maxsize=4)
def _load(name: str, data_dir: str, image_size: int, train: bool) -> Dataset:
    if name == "digits":
        return _digits(image_size, train)
    part = "train" if train else "test"
    decoded = Path(data_dir) / "decoded"
    if name in cifar.ARCHIVES:
        archive = cifar.ARCHIVES[name]
        return shared(
            decoded,
            f"{name}-{image_size}-{part}",
            archive.train if train else archive.test,
            lambda: cifar.load(name, Path(data_dir), train=train),
        )
    place = Path(name.partition(":")[2] or name)
    known = f"{place.name}-{hashlib.sha256(f'{data_dir}/{place.absolute()}'.encode()).hexdigest()[:8]}"
    source = open_source(name, data_dir, train=train)
    return shared(decoded, f"{known}-{image_size}-{part}", source.state, lambda: _decoded(source, image_size))


def _decoded(source: Source, image_size: int) -> Dataset:
    with ThreadPoolExecutor() as pool:
        images = pool.map(lambda index: folder.fit(source.open(index), image_size), range(len(source.labels)))
        return Dataset(
            name=source.name,
            images=torch.stack(list(images)),
            labels=source.labels,
            class_names=source.class_names,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        )


def _digits(image_size: int, train: bool) -> Dataset:
    """The 1,797 digits that come with scikit-learn: 8x8 pixels from 0 to 16, scaled up bilinearly."""
    bunch = load_digits()
    pixels = torch.from_numpy(bunch.images).float()[:, None] * (255 / 16)
    if image_size != pixels.shape[-1]:
        pixels = F.interpolate(pixels, size=(image_size, image_size), mode="bilinear", align_corners=False)
    everything = Dataset(
        name="digits",
        images=pixels.round().clamp(0, 255).to(torch.uint8),
        labels=torch.from_numpy(np.asarray(bunch.target, dtype=np.int64)),
        class_names=tuple(str(name) for name in bunch.target_names),
        mean=(0.306,),
        std=(0.376,),
        mirror=False,
        val_share=DIGITS_SHARE,
    )
    kept, held = split(everything, DIGITS_TEST_SEED)
    return everything.part(kept if train else held)
