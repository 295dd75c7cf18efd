"""Images of one's own, one folder a class: `DIR/train/<class>/` beside `DIR/test/<class>/`, or `DIR/<class>/`."""

from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from buildup.errors import DataError

IMAGE_SIZE = 224
LEAST_IMAGES = 5
"""A class needs some to train on and some to validate on."""
TESTS = ("test", "val", "validation")
"""Where test images may be; the first of them that is there."""
SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
LAYOUT = "One folder a class is needed: DIR/train/<class>/ or DIR/<class>/, with the images inside."


def list_images(root: Path, *, train: bool) -> dict[str, list[Path]]:
    """The image files of each class, classes and files in the order of their names."""
    place = _place(root, train)
    classes = _classes(place, skipped=set(TESTS) if place == root else set())
    problems = []
    if len(classes) < 2:
        found = f"only the class folder {next(iter(classes))!r}" if classes else "no class folder"
        problems.append(f"{place}: {found} is there; at least two are needed. {LAYOUT}")
    least = LEAST_IMAGES if train else 1
    problems += [
        f"{place / name}: {len(paths)} images; a class needs at least {least}."
        for name, paths in classes.items()
        if len(paths) < least
    ]
    if problems:
        raise DataError(*problems)
    return classes


def state(root: Path, *, train: bool) -> list[tuple[str, int, int]]:
    """Each image file with its size and time: other than before when anything was changed."""
    paths = [path for members in list_images(root, train=train).values() for path in members]
    found = [(path, path.stat()) for path in paths]
    return [(str(path.relative_to(root)), known.st_size, known.st_mtime_ns) for path, known in found]


def _place(root: Path, train: bool) -> Path:
    if not root.is_dir():
        raise DataError(f"{root} is not a folder. {LAYOUT}")
    if train:
        return root / "train" if (root / "train").is_dir() else root
    for name in TESTS:
        if (root / name).is_dir():
            return root / name
    raise DataError(f"{root / 'test'} is not there, so there are no test images. Put them into {root}/test/<class>/.")


def _classes(place: Path, skipped: set[str]) -> dict[str, list[Path]]:
    folders = [entry for entry in sorted(place.iterdir()) if entry.is_dir() and entry.name not in skipped]
    return {
        folder.name: [path for path in sorted(folder.rglob("*")) if _is_image(path)]
        for folder in folders
        if folder.name[0] != "."
    }


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def open_image(file: Path | IO[bytes], *, where: str = "") -> Image.Image:
    """An image file in RGB, as its camera held it."""
    try:
        with Image.open(file) as opened:
            image = ImageOps.exif_transpose(opened)
            # By way of RGBA, because a palette may hold transparency that RGB can't take over.
            return image.convert("RGBA").convert("RGB") if image.mode == "P" else image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as problem:
        raise DataError(f"{where or file} can't be read as an image: {problem}. Remove or replace it.") from None


def fit(image: Image.Image, size: int) -> Tensor:
    """The shorter side scaled to a size, the centre cut out."""
    fitted = ImageOps.fit(image, (size, size), method=Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(fitted)).permute(2, 0, 1).contiguous()
