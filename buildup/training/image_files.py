"""Labelled image files: one folder a class, or a table of paths and labels. Everything wrong with them is said at once.

Transparent pixels are shown on white, grey images become RGB, and 16-bit ones are scaled to 8 bits.
"""

import csv
import errno
import hashlib
import os
import shlex
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from buildup.errors import DataError, counted

LEAST_IMAGES = 5
"""A class needs images to train on and images to validate on."""
PASSING = frozenset({
    errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ETIMEDOUT, errno.EAGAIN,
})  # fmt: skip
"""Errors of disks, rights and systems, after which an image may be readable again."""
MOST_NAMED = 20
"""Files that one message names; `doctor` names all."""
SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
LAYOUT = "One folder a class is needed: DIR/train/<class>/ or DIR/<class>/, with the images inside."
COLUMNS = {
    "path": ("path", "file", "filename", "image"),
    "label": ("label", "class"),
    "split": ("split", "part"),
}
"""The columns of a table, with the names that each may have."""
SPLITS = {
    **dict.fromkeys(("", "train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
}
"""The part that a word of a table or the name of a folder means, in any case."""
SURE = frozenset({"train", "test", "val", "validation"})
"""Folders of these names are parts, also if they hold no class folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFiles:
    """The files for training, or those for the test."""

    root: Path
    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """What is left out, as sentences."""


def read_folder(root: Path, *, train: bool) -> ImageFiles:
    """The files of a folder of class folders, classes and files in the order of their names."""
    if not root.is_dir():
        raise DataError(f"{root} is not a folder. {LAYOUT}")
    parts = _parts(root)
    chosen = parts.get("train", []) if train else parts.get("test", []) + parts.get("val", [])
    if not train and not chosen:
        raise DataError(
            f"{root / 'test'} is not there, so there are no test images. Put them into {root}/test/<class>/."
        )
    part, skipped = (chosen[0], ()) if chosen else (root, tuple(chain.from_iterable(parts.values())))
    every = {
        folder.name: [path for path in sorted(folder.rglob("*")) if path.is_file() and not _is_hidden(path, folder)]
        for folder in sorted(part.iterdir())
        if folder.is_dir() and folder not in skipped and not folder.name.startswith(".")
    }
    classes = {name: [path for path in files if path.suffix.lower() in SUFFIXES] for name, files in every.items()}
    problems = []
    if len(classes) < 2:
        which = f"only the class folder {next(iter(classes))!r}" if classes else "no class folder"
        problems.append(f"{part}: {which} is there; at least two are needed. {LAYOUT}{_deeper(part)}")
    counts = {str(part / name): len(members) for name, members in classes.items()}
    problems += _too_few(counts, train=train)
    if problems:
        raise DataError(*problems)
    return ImageFiles(
        root=root,
        paths=tuple(path for members in classes.values() for path in members),
        labels=tuple(label for label, members in enumerate(classes.values()) for _ in members),
        class_names=tuple(classes),
        notes=tuple(_left_out(parts, part, every)),
    )


def _parts(root: Path) -> dict[str, list[Path]]:
    """The folders for training, test and validation, in the order in which they are taken.

    Names outside of `SURE` may be those of classes. They are parts if they hold class folders, and beside them are
    only parts, or the same class folders.
    """
    folders = sorted(_folders(root), key=lambda path: (path.name not in SURE, path.name))
    beside = {folder.name for folder in folders if folder.name.lower() not in SPLITS}
    found: dict[str, list[Path]] = {}
    for folder in folders:
        inner = {one.name for one in _folders(folder)}
        if (part := SPLITS.get(folder.name.lower())) and (folder.name in SURE or (inner and beside <= inner)):
            found.setdefault(part, []).append(folder)
    return found


def _folders(place: Path) -> list[Path]:
    """The folders in a folder, without hidden ones."""
    return [path for path in place.iterdir() if path.is_dir() and not path.name.startswith(".")]


def _is_hidden(path: Path, folder: Path) -> bool:
    """Whether a file, or a folder that it is in, is hidden, as the copies that notebooks make."""
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def read_table(path: Path, *, train: bool) -> ImageFiles:
    """The files of a CSV with the columns `path`, `label` and, for test images, `split`.

    Paths are relative to the folder of the table. Without a column `split`, all images are for training.
    """
    rows = list(_rows(path))
    has_test = any(split == "test" for *_, split in rows)
    chosen = "train" if train else "test" if has_test else "val"
    if not train and all(split == "train" for *_, split in rows):
        raise DataError(f"{path} has no test images. Mark them in a column split, by test.")
    if not rows:
        raise DataError(f"{path} has no row after its first line.")
    classes = sorted({label for _, label, _ in rows}, key=lambda text: (int(text) if text.isdecimal() else 0, text))
    own = [(file, classes.index(label)) for file, label, split in rows if split == chosen]
    counts = Counter(label for _, label in own)
    if problems := _too_few(
        {f"{path}: class {name}": counts[label] for label, name in enumerate(classes)}, train=train
    ):
        raise DataError(*problems)
    unused = sum(split == "val" for *_, split in rows) if has_test else 0
    return ImageFiles(
        root=path.parent,
        paths=tuple(file for file, _ in own),
        labels=tuple(label for _, label in own),
        class_names=tuple(classes),
        notes=(f"{counted(unused, 'row')} of split val {VAL_UNUSED}",) if unused else (),
    )


VAL_UNUSED = "beside test are left out: a search validates on folds of the training images, a final on the test images."


def _rows(path: Path) -> Iterator[tuple[Path, str, str]]:
    """Path, label and split of each row, after a check of all rows."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as table:
            lines = list(csv.reader(table))
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        raise DataError(f"{path} can't be read as a table: {problem}.") from None
    head = [name.strip().lower() for name in lines[0]] if lines else []
    where = {
        column: next((head.index(name) for name in names if name in head), None) for column, names in COLUMNS.items()
    }
    if where["path"] is None or where["label"] is None:
        raise DataError(f"{path}: its first line is {','.join(head)!r}; path,label or path,label,split is needed.")
    problems, seen = [], dict[str, tuple[int, str]]()
    found = []
    for number, line in enumerate(lines[1:], start=2):
        if not any(line):
            continue
        name, label, split = (
            line[index].strip() if (index := where[column]) is not None and index < len(line) else ""
            for column in COLUMNS
        )
        file = _file(path.parent, name)
        own = (number, label)
        line_before, label_before = seen.setdefault(os.path.normpath(file), own) if name else own
        if not label:
            problems.append(f"{path}, line {number}: {name} has no label.")
        elif split.lower() not in SPLITS:
            problems.append(f"{path}, line {number}: split is {split!r}; train, val or test is needed.")
        elif label_before != label:
            problems.append(f"{path}, line {number}: {name} is labelled {label!r}, and {label_before!r} before.")
        elif line_before != number:
            problems.append(
                f"{path}, line {number}: {name} is in line {line_before} already. An image that is there twice could "
                f"be trained on and validated on."
            )
        elif not name or not _is_there(file):
            problems.append(f"{path}, line {number}: {name or 'the path'} is not there.")
        found.append((file, label, SPLITS.get(split.lower(), "train")))
    if problems:
        raise DataError(*shortened(problems))
    yield from found


def _file(folder: Path, name: str) -> Path:
    try:
        return folder / Path(name).expanduser()
    except RuntimeError:  # a name that begins with ~, and no user's
        return folder / name


def _is_there(file: Path) -> bool:
    try:
        return file.is_file()
    except OSError:  # a name that is too long
        return False


def _too_few(members: Mapping[str, int], *, train: bool) -> list[str]:
    least = LEAST_IMAGES if train else 1
    return [
        f"{name}: {counted(count, 'image')}; a class needs at least {least}."
        for name, count in members.items()
        if count < least
    ]


def _deeper(folder: Path) -> str:
    """A hint at the folder that is meant where the classes are one level deeper; empty if there is none."""
    for inner in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if (inner / "train").is_dir() or sum(path.is_dir() for path in inner.iterdir()) > 1:
            return f" Or did you mean {shlex.quote(f'folder:{inner}')}?"
    return ""


def _left_out(parts: Mapping[str, Sequence[Path]], part: Path, every: Mapping[str, Sequence[Path]]) -> Iterator[str]:
    others = Counter(
        path.suffix.lower() or "none"
        for files in every.values()
        for path in files
        if path.suffix.lower() not in SUFFIXES
    )
    if others:
        kinds = ", ".join(f"{suffix} ({count})" for suffix, count in others.most_common(5))
        yield f"{counted(others.total(), 'file')} in {part} left out, which is no image by its suffix: {kinds}."
    stray = sorted(path.name for path in part.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if stray:
        yield f"{counted(len(stray), 'image')} in {part} left out, in no class folder: {', '.join(stray[:5])}."
    if "test" in parts and "val" in parts:
        yield f"the images of {parts['val'][0]} {VAL_UNUSED}"
    inner = [{path.name for path in _folders(part / name)} for name in every]
    if len(inner) > 1 and len(inner[0]) > 1 and all(one == inner[0] for one in inner):
        yield (
            f"each class folder of {part} holds {', '.join(sorted(inner[0])[:5])}, whose images are those of the class "
            f"above. If these are the classes, give the folder that holds them alone."
        )


def shortened(problems: Sequence[str]) -> list[str]:
    more = len(problems) - MOST_NAMED
    rest = f"... and {more} more; `buildup doctor --dataset` names all."
    return [*problems[:MOST_NAMED], rest] if more > 0 else list(problems)


def unreadable(count: int, open_one: Callable[[int], Image.Image]) -> dict[int, str]:
    """The images that can't be read, by index, each with the reason. All are decoded."""

    def problem(index: int) -> str | None:
        try:
            open_one(index)
        except DataError as error:
            return str(error)
        return None

    with ThreadPoolExecutor() as pool:
        return {index: found for index, found in enumerate(pool.map(problem, range(count))) if found}


def contradictions(paths: Sequence[Path], labels: Sequence[int]) -> list[str]:
    """Files of equal contents in different classes: one of each is mislabelled. Only files of one size are read."""
    by_size: dict[int, list[int]] = defaultdict(list)
    for index, path in enumerate(paths):
        by_size[path.stat().st_size].append(index)
    same: dict[str, list[int]] = defaultdict(list)
    for members in by_size.values():
        if len({labels[index] for index in members}) > 1:
            for index in members:
                same[hashlib.sha256(paths[index].read_bytes()).hexdigest()].append(index)
    return [
        f"the same image has several labels: {', '.join(str(paths[index]) for index in members)}."
        for members in same.values()
        if len({labels[index] for index in members}) > 1
    ]


def open_image(file: Path | IO[bytes], *, where: str = "") -> Image.Image:
    try:
        with Image.open(file) as opened:
            return _as_rgb(ImageOps.exif_transpose(opened))
    except UnidentifiedImageError:
        raise DataError(f"{where or file} can't be read as an image: its contents are none.") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as problem:
        if isinstance(problem, OSError) and problem.errno in PASSING:
            raise
        raise DataError(f"{where or file} can't be read as an image: {problem}.") from None


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # Pillow would clip all above 255 to white
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in {"I", "F"}:
        raise ValueError(f"its pixels are of mode {image.mode}; save it with 8 or 16 bits")
    if not image.has_transparency_data:
        return image.convert("RGB")
    # What is under transparent pixels is often black, and would hide a black drawing.
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
