"""Sets of images that are read one by one: their labels are known at once, their pixels lie on disk.

The images for training and those for the test are two sources, and only who asks for the test images opens them.

| name | is |
| --- | --- |
| `folder:DIR` | one folder a class |
| `torch/NAME` | a set of torchvision, as timm names it |
| `hfds/NAME` | a set of the Hugging Face hub or a local copy of it, as timm names it; needs `datasets` |
| `wds:DIR` | the tar files of a webdataset, each image with its `.cls` file beside it |
"""

import hashlib
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data.dataset_factory import create_dataset
from torch import Tensor

from buildup.cache import user_cache
from buildup.errors import DataError
from buildup.training import image_folder as folder
from buildup.training.dataset import IMAGENET_MEAN, IMAGENET_STD, Contents, Dataset
from buildup.training.decoded_cache import shared

SMALL = 64
"""Sets of images up to this size keep it; others are scaled to `folder.IMAGE_SIZE`."""
IMAGES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """Images for training or for the test, to be opened by their place."""

    name: str
    labels: Tensor
    """int64."""
    class_names: tuple[str, ...]
    open: Callable[[int], Image.Image]
    """In RGB. It travels to the processes that read ahead."""
    state: object
    """Plain values that differ from those of any other set, and of this one with other files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceDataset:
    """Sets of one kind that are read image by image, such as all folders."""

    name: str
    usage: str
    """What users type: `folder:DIR` where a folder follows, `torch/NAME` where a word does; otherwise the name."""
    open: Callable[[str, Path, bool], Source]
    """What was typed, the data folder, and whether the training images are wanted, to the images."""
    image_size: int | None = None
    """What images are scaled to when nobody names another size; None to go by the first one."""

    def size(self, name: str, place: Path, asked: int | None) -> int:
        """The size asked for or the usual one."""
        return asked or self.image_size or size_of(self.source(name, place, train=True))

    def contents(self, name: str, place: Path) -> Contents:
        """By the labels."""
        source = self.source(name, place, train=True)
        members = tuple(source.labels.bincount(minlength=len(source.class_names)).tolist())
        classes = source.class_names
        if few := [kind for kind, count in zip(classes, members, strict=True) if count < folder.LEAST_IMAGES]:
            raise DataError(
                f"{name}: {', '.join(few[:5])}{' and more' if len(few) > 5 else ''} have fewer than "
                f"{folder.LEAST_IMAGES} images; each class needs some to train on and some to validate on."
            )
        return Contents(members=members, classes=classes)

    def source(self, name: str, place: Path, *, train: bool) -> Source:
        """The training images, or test images that have the same classes."""
        return open_source(self, name, place, train=train)

    def load(self, name: str, place: Path, size: int, *, train: bool) -> Dataset:
        """The images decoded."""
        source, where = self.source(name, place, train=train), Path(name.partition(":")[2] or name)
        known = f"{where.name}-{hashlib.sha256(f'{place}/{where.absolute()}'.encode()).hexdigest()[:8]}"
        part = f"{known}-{size}-{'train' if train else 'test'}"
        return shared(place / "decoded", part, source.state, lambda: _decoded(source, size))


@lru_cache(maxsize=4)
def open_source(kind: SourceDataset, name: str, place: Path, *, train: bool = True) -> Source:
    """What a kind opens; the next one who asks in this process finds it open."""
    found = kind.open(name, place, train)
    return found if train else _checked(found, open_source(kind, name, place).class_names)


def _checked(test: Source, classes: tuple[str, ...]) -> Source:
    """Test images that can be scored: all classes of the training images are there, and no others."""
    counts = test.labels.bincount(minlength=len(classes))
    if test.class_names[: len(classes)] != classes or len(counts) > len(classes):
        odd = sorted({*test.class_names} ^ {*classes}) or ["their order"]
        raise DataError(
            f"{test.name}: the test images must have the classes of the training images; they differ in "
            f"{', '.join(odd[:5])}{' and more' if len(odd) > 5 else ''}."
        )
    if missing := [kind for kind, count in zip(classes, counts.tolist(), strict=True) if not count]:
        raise DataError(
            f"{test.name}: no test image shows {', '.join(missing[:5])}{' and more' if len(missing) > 5 else ''}, "
            "so a score would leave those classes out. Add some images of each class."
        )
    return test


def size_of(source: Source) -> int:
    """The size that its images are trained at when nobody names another one."""
    width, height = source.open(0).size
    return max(width, height) if max(width, height) <= SMALL else folder.IMAGE_SIZE


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


def _folder(name: str, place: Path, train: bool) -> Source:
    root = Path(name.partition(":")[2]).expanduser()
    files = folder.list_images(root, train=train)
    return Source(
        name=name,
        labels=torch.tensor([label for label, paths in enumerate(files.values()) for _ in paths]),
        class_names=tuple(files),
        open=_Files([path for paths in files.values() for path in paths]),
        state=[str(root.resolve()), folder.state(root, train=train)],
    )


@dataclass(frozen=True)
class _Files:
    paths: Sequence[Path]

    def __call__(self, index: int) -> Image.Image:
        return folder.open_image(self.paths[index])


def _of_timm(name: str, place: Path, train: bool) -> Source:
    """What timm opens. Hubs call the images for the test one way or the other."""
    problems = []
    for split in ("train",) if train else ("test", "validation"):
        try:
            found: Any = create_dataset(name, root=str(place), split=split)
        except (ImportError, RuntimeError, OSError, ValueError, AssertionError) as problem:
            problems.append(str(problem))
            continue
        return _huggingface(name, found, split) if name.startswith("hfds/") else _torchvision(name, found, str(place))
    raise DataError(f"{name}: timm can't open this set under {place}: {problems[0]}")


def _torchvision(name: str, found: Any, data_dir: str) -> Source:
    labels = next((list(getattr(found, key)) for key in ("targets", "labels", "_labels") if hasattr(found, key)), None)
    if labels is None:
        raise DataError(f"{name}: this set of torchvision does not tell its labels. Use folder:DIR for its files.")
    classes = getattr(found, "classes", None) or [str(label) for label in sorted(set(labels))]
    return Source(
        name=name,
        labels=torch.tensor([int(label) for label in labels]),
        class_names=tuple(map(str, classes)),
        open=_Pairs(found),
        state=[name, data_dir, len(labels)],
    )


@dataclass(frozen=True)
class _Pairs:
    found: Any

    def __call__(self, index: int) -> Image.Image:
        image: Image.Image = self.found[index][0]
        return image.convert("RGB")


def _huggingface(name: str, found: Any, split: str) -> Source:
    reader = found.reader
    labels = torch.tensor(list(reader.dataset[reader.label_key]))
    names = sorted(reader.class_to_idx, key=reader.class_to_idx.__getitem__)
    return Source(
        name=name,
        labels=labels,
        class_names=tuple(map(str, names)) or tuple(map(str, range(int(labels.max()) + 1))),
        open=_Streams(reader),
        state=[name, split, getattr(reader.dataset, "_fingerprint", ""), len(labels)],
    )


@dataclass(frozen=True)
class _Streams:
    reader: Any

    def __call__(self, index: int) -> Image.Image:
        return folder.open_image(self.reader[index][0])


def _webdataset(name: str, place: Path, train: bool) -> Source:
    root = Path(name.partition(":")[2]).expanduser()
    shards = _shards(root, train)
    state = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in shards]
    index = _remembered([str(root.resolve()), state], lambda: _index(shards))
    labels = torch.from_numpy(index["label"])
    if not len(labels):
        raise DataError(f"{root}: no image with a .cls file beside it is in {shards[0].name} and its like.")
    return Source(
        name=name,
        labels=labels,
        class_names=tuple(map(str, range(int(labels.max()) + 1))),
        open=_Members(shards, index["shard"], index["start"], index["length"]),
        state=[str(root.resolve()), state],
    )


def _shards(root: Path, train: bool) -> list[Path]:
    """The tar files of a part, by their names; all that is not for the test is for training where nothing says so."""
    every = sorted(root.glob("*.tar"))
    named = {part: [path for path in every if part in path.name] for part in ("train", "test", "val")}
    if train:
        found = named["train"] or [path for path in every if path not in named["test"] + named["val"]]
    else:
        found = named["test"] or named["val"]
    if not found:
        which = "" if train else " with test or val in its name"
        raise DataError(f"{root}: no tar file{which} is there, and a webdataset is made of them.")
    return found


def _index(shards: Sequence[Path]) -> dict[str, np.ndarray[Any, Any]]:
    rows = [(number, *row) for number, shard in enumerate(shards) for row in _members(shard)]
    columns = np.ascontiguousarray(np.array(rows, dtype=np.int64).reshape(-1, 4).T)
    return dict(zip(("shard", "start", "length", "label"), columns, strict=True))


def _remembered(known: object, index: Callable[[], dict[str, np.ndarray[Any, Any]]]) -> dict[str, np.ndarray[Any, Any]]:
    """An index from the user's cache: reading all headers of a large set again in each process takes minutes."""
    key = hashlib.sha256(json.dumps(known).encode()).hexdigest()[:16]
    path = user_cache() / "indexes" / f"{key}.npz"
    try:
        with np.load(path, allow_pickle=False) as kept:
            return {name: kept[name] for name in ("shard", "start", "length", "label")}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        found = index()
    with suppress(OSError):  # without a cache the next process reads them again
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{key}.{os.getpid()}.npz")
        np.savez(temporary, allow_pickle=False, **found)
        temporary.replace(path)
    return found


def _members(shard: Path) -> list[tuple[int, int, int]]:
    """Where each image of a tar file begins, how long it is, and its label."""
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(shard) as tar:
            for member in tar:
                key, _, suffix = member.name.rpartition(".")
                if f".{suffix.lower()}" in IMAGES:
                    images[key] = (member.offset_data, member.size)
                elif suffix == "cls" and (content := tar.extractfile(member)) is not None:
                    labels[key] = int(content.read())
    except (tarfile.TarError, ValueError, OSError) as problem:
        raise DataError(f"{shard} can't be read as a part of a webdataset: {problem}.") from None
    return [(*images[key], labels[key]) for key in images if key in labels]


@dataclass(frozen=True)
class _Members:
    """Images inside of tar files: read where they lie, in any order."""

    shards: Sequence[Path]
    shard: np.ndarray[Any, Any]
    start: np.ndarray[Any, Any]
    length: np.ndarray[Any, Any]

    def __call__(self, index: int) -> Image.Image:
        path = self.shards[self.shard[index]]
        with path.open("rb") as file:
            file.seek(self.start[index])
            content = file.read(self.length[index])
        return folder.open_image(io.BytesIO(content), where=f"image {index} of {path}")


SOURCES = (
    SourceDataset(name="folder", usage="folder:DIR", open=_folder, image_size=folder.IMAGE_SIZE),
    SourceDataset(name="torch", usage="torch/NAME", open=_of_timm),
    SourceDataset(name="hfds", usage="hfds/NAME", open=_of_timm),
    SourceDataset(name="wds", usage="wds:DIR", open=_webdataset),
)
