"""Sets of images that are read one by one. Their labels are known at once; their pixels are on disk.

Training images and test images are two sources. The test images are opened only on request.

| name | is |
| --- | --- |
| `folder:DIR` | one folder a class: `DIR/train/<class>/` beside `DIR/test/<class>/`, or `DIR/<class>/` |
| `csv:FILE` | a table of paths and labels, with the columns path, label and split |
| `torch/NAME` | a set of torchvision, as timm names it |
| `hfds/NAME` | a set of the Hugging Face hub or a local copy of it, as timm names it; needs `datasets` |
| `wds:DIR` | the tar files of a webdataset, each image with its `.cls` file beside it |
"""

import hashlib
import io
import json
import logging
import os
import re
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from timm.data.dataset_factory import create_dataset
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from buildup.errors import DataError, counted, some
from buildup.files import recall, remember, user_cache
from buildup.training.dataset import IMAGENET_MEAN, IMAGENET_STD, Contents, Dataset, load_or_decode
from buildup.training.image_files import (
    LEAST_IMAGES,
    ImageFiles,
    open_image,
    read_folder,
    read_table,
    shortened,
    unreadable,
)

log = logging.getLogger("buildup")

IMAGE_SIZE = 224
SMALL = 64
"""Sets of images up to this size keep it; others are scaled to `IMAGE_SIZE`."""
LOOKED_AT = 9
"""Images whose median tells the size of those of a set."""
WEBDATASET_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """Images for training or for the test, opened by their index."""

    name: str
    labels: Tensor
    """int64."""
    class_names: tuple[str, ...]
    open: Callable[[int], Image.Image]
    """Returns RGB. It is pickled for the processes that read ahead."""
    state: object
    """Plain values that differ between sets, and between states of the files of one set."""
    content: object = None
    """What of the state is the same for a copy of the files elsewhere."""
    files: tuple[Path, ...] = ()
    """Where each image is, if it is a file of its own."""
    notes: tuple[str, ...] = ()
    """What of the set is left out, as sentences."""

    def part(self, kept: Sequence[int], notes: Sequence[str]) -> "Source":
        return replace(
            self,
            labels=self.labels[list(kept)],
            open=partial(_open_part, self.open, tuple(kept)),
            state=[self.state, list(kept)],
            content=[self.content, list(kept)] if self.content else None,
            files=tuple(self.files[index] for index in kept) if self.files else (),
            notes=(*self.notes, *notes),
        )

    def unreadable(self) -> dict[int, str]:
        """Which images can't be read, and why.

        For files the result is kept in the user's cache until a file changes, because decoding all takes minutes.
        """
        known = _index_path(self.state).with_suffix(".unreadable.json")
        if not self.files:
            return unreadable(len(self.labels), self.open)
        if isinstance(kept := recall(known), dict):
            return {int(index): problem for index, problem in kept.items()}
        log.info("%s: reading %s to see whether all can be read", self.name, counted(len(self.labels), "image"))
        found = unreadable(len(self.labels), self.open)
        remember(known, found)
        return found


def _open_part(open_one: Callable[[int], Image.Image], kept: Sequence[int], index: int) -> Image.Image:
    return open_one(kept[index])


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceDataset:
    """A kind of dataset that is read image by image, such as folders."""

    name: str
    usage: str
    """What users type: `folder:DIR` where a folder follows, `torch/NAME` where a word does; otherwise the name."""
    open: Callable[[str, Path, bool], Source]
    """Opens a set by its name, the data folder, and whether the training images are wanted."""

    def size(self, name: str, place: Path, asked: int | None) -> int:
        """The requested size; without one, the images' own if they are small, else `IMAGE_SIZE`."""
        if asked:
            return asked
        source = self.source(name, place, train=True)
        count = len(source.labels)
        sides = []
        for index in range(0, count, -(-count // LOOKED_AT)):
            with suppress(DataError):  # one that can't be read is told of when all are
                sides.append(max(source.open(index).size))
        usual = sorted(sides)[len(sides) // 2] if sides else IMAGE_SIZE
        return usual if usual <= SMALL else IMAGE_SIZE

    def contents(self, name: str, place: Path) -> Contents:
        source = self.source(name, place, train=True)
        members = tuple(source.labels.bincount(minlength=len(source.class_names)).tolist())
        classes = source.class_names
        if few := [label for label, count in zip(classes, members, strict=True) if count < LEAST_IMAGES]:
            raise DataError(
                f"{name}: {some(few)} have fewer than {LEAST_IMAGES} images; each class needs some to train on and "
                "some to validate on."
            )
        return Contents(members=members, classes=classes, notes=source.notes)

    def source(self, name: str, place: Path, *, train: bool) -> Source:
        """The training images, or the test images after a check that they have the same classes."""
        return open_source(self, name, place, train=train)

    def load(self, name: str, place: Path, size: int, *, train: bool) -> Dataset:
        source, where = self.source(name, place, train=train), Path(name.partition(":")[2] or name)
        known = f"{where.name}-{hashlib.sha256(f'{place}/{where.absolute()}'.encode()).hexdigest()[:8]}"
        part = f"{known}-{size}-{'train' if train else 'test'}"
        return load_or_decode(place / "decoded", part, source.state, lambda: _decoded(source, size))


def _misfit(source: Source) -> str | None:
    """What is wrong with the labels of a set, which another package may have made; None if nothing is."""
    labels, classes = source.labels, len(source.class_names)
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.dim() != 1:
        kind = f"{labels.dtype}, {labels.dim()}-dimensional" if isinstance(labels, Tensor) else type(labels).__name__
        return f"its labels must be one row of torch.int64, they are {kind}."
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        return f"its labels must be from 0 to {classes - 1}, they are {int(labels.min())} to {int(labels.max())}."
    return None


@lru_cache(maxsize=4)
def open_source(kind: SourceDataset, name: str, place: Path, *, train: bool = True) -> Source:
    found = kind.open(name, place, train)
    if problem := _misfit(found):
        raise DataError(f"{name}: {problem}")
    if train:
        return found
    # A score counts only if the test images show all classes of the training images and no others.
    classes = open_source(kind, name, place).class_names
    counts = found.labels.bincount(minlength=len(classes))
    if found.class_names[: len(classes)] != classes or len(counts) > len(classes):
        differences = sorted({*found.class_names} ^ {*classes}) or ["their order"]
        raise DataError(
            f"{found.name}: the test images must have the classes of the training images; they differ in "
            f"{some(differences)}."
        )
    if missing := [label for label, count in zip(classes, counts.tolist(), strict=True) if not count]:
        raise DataError(
            f"{found.name}: no test image shows {some(missing)}, so a score would leave those classes out. "
            "Add some images of each class."
        )
    return found


def _decoded(source: Source, image_size: int) -> Dataset:
    # Scaled by the shorter side, and cropped at the centre.
    fit = partial(ImageOps.fit, size=(image_size, image_size), method=Image.Resampling.BILINEAR)

    def decode(index: int) -> Tensor | str:
        try:
            image: Tensor = pil_to_tensor(fit(source.open(index)))
            return image
        except DataError as error:
            return str(error)

    with ThreadPoolExecutor() as pool:
        found = list(pool.map(decode, range(len(source.labels))))
    refuse_unreadable([problem for problem in found if isinstance(problem, str)])
    return Dataset(
        name=source.name,
        images=torch.stack([image for image in found if isinstance(image, Tensor)]),
        labels=source.labels,
        class_names=source.class_names,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


def refuse_unreadable(problems: Sequence[str]) -> None:
    if problems:
        raise DataError(*shortened(problems), "Mend or remove them, or leave them out with --skip-unreadable.")


def _within(path: Path, root: Path) -> str:
    """A path as seen from a folder; on another drive of Windows, as it is."""
    try:
        return os.path.relpath(path, root)
    except ValueError:
        return str(path)


def _open_files(read: Callable[..., ImageFiles], name: str, place: Path, train: bool) -> Source:
    found = read(Path(name.partition(":")[2]).expanduser(), train=train)
    files = [(_within(path, found.root), path.stat()) for path in found.paths]
    labels = [] if read is read_folder else [found.class_names, found.labels]  # a folder's are in its paths
    return Source(
        name=name,
        labels=torch.tensor(found.labels),
        class_names=found.class_names,
        open=partial(_open_item, found.paths),
        state=[str(found.root.resolve()), [(path, one.st_size, one.st_mtime_ns) for path, one in files], *labels],
        content=[(path, one.st_size) for path, one in files],
        files=found.paths,
        notes=found.notes,
    )


def _open_item(items: Any, index: int) -> Image.Image:
    """Open an image of a sequence of files, or of pairs of an image or its file with a label."""
    item = items[index]
    image = item[0] if isinstance(item, tuple) else item
    return image.convert("RGB") if isinstance(image, Image.Image) else open_image(image)


def _open_by_timm(name: str, place: Path, train: bool) -> Source:
    problems = []
    for split in ("train",) if train else ("test", "validation"):
        try:
            found: Any = create_dataset(name, root=str(place), split=split)
            break
        except (ImportError, RuntimeError, OSError, ValueError, AssertionError) as problem:
            problems.append(str(problem))
    else:
        raise DataError(f"{name}: timm can't open this set under {place}: {problems[0]}")
    if name.startswith("hfds/"):
        items = found.reader
        labels = list(items.dataset[items.label_key])
        classes = sorted(items.class_to_idx, key=items.class_to_idx.__getitem__) or range(max(labels) + 1)
        state = [name, split, getattr(items.dataset, "_fingerprint", ""), len(labels)]
    else:
        items = found
        labels = next(
            (list(getattr(found, key)) for key in ("targets", "labels", "_labels") if hasattr(found, key)), []
        )
        if not labels:
            raise DataError(f"{name}: this set of torchvision does not give its labels. Use folder:DIR for its files.")
        classes = getattr(found, "classes", None) or sorted(set(labels))
        state = [name, str(place), len(labels)]
    return Source(
        name=name,
        labels=torch.tensor([int(label) for label in labels]),
        class_names=tuple(map(str, classes)),
        open=partial(_open_item, items),
        state=state,
    )


def _open_webdataset(name: str, place: Path, train: bool) -> Source:
    """Open tar files by the part in their names. Where none has "train", all but test and val are for training."""
    root = Path(name.partition(":")[2]).expanduser()
    every = sorted(root.glob("*.tar"))
    # At the start of a word, so that a contest is no test, and trainA, testing and validation are what they say.
    named = {
        part: [path for path in every if re.search(rf"(?<![a-z]){part}", path.name.lower())]
        for part in ("train", "test", "val")
    }
    if train:
        shards = named["train"] or [path for path in every if path not in named["test"] + named["val"]]
    else:
        shards = named["test"] or named["val"]
    if not shards:
        which = "" if train else " with test or val in its name"
        raise DataError(f"{root}: no tar file{which} is there, and a webdataset is made of them.")
    state = [str(root.resolve()), [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in shards]]
    index = _shard_index(shards, state)
    labels = torch.from_numpy(index["label"])
    if len(labels) and labels.min() < 0:
        raise DataError(f"{root}: a .cls file holds {int(labels.min())}; classes are numbered from 0.")
    if not len(labels):
        raise DataError(f"{root}: no image with a .cls file beside it is in {shards[0].name} and its like.")
    return Source(
        name=name,
        labels=labels,
        class_names=tuple(map(str, range(int(labels.max()) + 1))),
        open=partial(_open_member, shards, index),
        state=state,
    )


def _shard_index(shards: Sequence[Path], state: object) -> dict[str, np.ndarray[Any, Any]]:
    """Where the images of tar files are. It is kept in the user's cache, because reading all headers takes minutes."""
    path = _index_path(state)
    names = ("shard", "start", "length", "label")
    try:
        with np.load(path, allow_pickle=False) as kept:
            return {name: kept[name] for name in names}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        rows = [(number, *row) for number, shard in enumerate(shards) for row in _members(shard)]
    columns = np.ascontiguousarray(np.array(rows, dtype=np.int64).reshape(-1, 4).T)
    index = dict(zip(names, columns, strict=True))
    with suppress(OSError):  # without a cache, the next process reads the headers again
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.stem}.{os.getpid()}.npz")
        np.savez(temporary, allow_pickle=False, **index)
        temporary.replace(path)
    return index


def _index_path(state: object) -> Path:
    key = hashlib.sha256(json.dumps(state).encode()).hexdigest()[:16]
    return user_cache() / "indexes" / f"{key}.npz"


def _members(shard: Path) -> list[tuple[int, int, int]]:
    """Where each image of a tar file begins, how long it is, and its label."""
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(shard) as tar:
            for member in tar:
                key, _, suffix = member.name.rpartition(".")
                if f".{suffix.lower()}" in WEBDATASET_SUFFIXES:
                    images[key] = (member.offset_data, member.size)
                elif suffix == "cls" and (content := tar.extractfile(member)) is not None:
                    labels[key] = int(content.read())
    except (tarfile.TarError, ValueError, OSError) as problem:
        raise DataError(f"{shard} can't be read as a part of a webdataset: {problem}.") from None
    return [(*images[key], labels[key]) for key in images if key in labels]


def _open_member(shards: Sequence[Path], places: dict[str, np.ndarray[Any, Any]], index: int) -> Image.Image:
    path = shards[places["shard"][index]]
    with path.open("rb") as file:
        file.seek(places["start"][index])
        content = file.read(places["length"][index])
    return open_image(io.BytesIO(content), where=f"image {index} of {path}")


SOURCES = (
    SourceDataset(name="folder", usage="folder:DIR", open=partial(_open_files, read_folder)),
    SourceDataset(name="csv", usage="csv:FILE", open=partial(_open_files, read_table)),
    SourceDataset(name="torch", usage="torch/NAME", open=_open_by_timm),
    SourceDataset(name="hfds", usage="hfds/NAME", open=_open_by_timm),
    SourceDataset(name="wds", usage="wds:DIR", open=_open_webdataset),
)
