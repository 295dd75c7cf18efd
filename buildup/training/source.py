"""Sets of images that are read one by one: their labels are known at once, their pixels lie on disk.

| name | is |
| --- | --- |
| `folder:DIR` | one folder a class |
| `torch/NAME` | a set of torchvision, as timm names it |
| `hfds/NAME` | a set of the Hugging Face hub or a local copy of it, as timm names it; needs `datasets` |
| `wds:DIR` | the tar files of a webdataset, each image with its `.cls` file beside it |
"""

import io
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from timm.data.dataset_factory import create_dataset
from torch import Tensor

from buildup.errors import DataError
from buildup.training import folder

SMALL = 64
"""Sets of images up to this size keep it; others are scaled to `folder.IMAGE_SIZE`."""
IMAGES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """Training images, to be opened by their place."""

    name: str
    labels: Tensor
    """int64."""
    class_names: tuple[str, ...]
    open: Callable[[int], Image.Image]
    """In RGB. It travels to the processes that read ahead."""
    state: object
    """Plain values that differ from those of any other set, and of this one with other files."""


@lru_cache(maxsize=4)
def open_source(name: str, data_dir: str) -> Source:
    """The training images of a set."""
    if name.startswith("folder:"):
        return _folder(name)
    if name.startswith("wds:"):
        return _webdataset(name)
    try:
        found: Any = create_dataset(name, root=data_dir, split="train")
    except (ImportError, RuntimeError, OSError, ValueError, AssertionError) as problem:
        raise DataError(f"{name}: timm can't open this set under {data_dir}: {problem}") from None
    return _huggingface(name, found) if name.startswith("hfds/") else _torchvision(name, found, data_dir)


def size_of(source: Source) -> int:
    """The size that its images are trained at when nobody names another one."""
    width, height = source.open(0).size
    return max(width, height) if max(width, height) <= SMALL else folder.IMAGE_SIZE


def _folder(name: str) -> Source:
    root = Path(name.partition(":")[2]).expanduser()
    files = folder.list_images(root, train=True)
    return Source(
        name=name,
        labels=torch.tensor([label for label, paths in enumerate(files.values()) for _ in paths]),
        class_names=tuple(files),
        open=_Files([path for paths in files.values() for path in paths]),
        state=[str(root.resolve()), folder.state(root, train=True)],
    )


@dataclass(frozen=True)
class _Files:
    paths: Sequence[Path]

    def __call__(self, index: int) -> Image.Image:
        return folder.open_image(self.paths[index])


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


def _huggingface(name: str, found: Any) -> Source:
    reader = found.reader
    labels = torch.tensor(list(reader.dataset[reader.label_key]))
    names = sorted(reader.class_to_idx, key=reader.class_to_idx.__getitem__)
    return Source(
        name=name,
        labels=labels,
        class_names=tuple(map(str, names)) or tuple(map(str, range(int(labels.max()) + 1))),
        open=_Streams(reader),
        state=[name, getattr(reader.dataset, "_fingerprint", ""), len(labels)],
    )


@dataclass(frozen=True)
class _Streams:
    reader: Any

    def __call__(self, index: int) -> Image.Image:
        return folder.open_image(self.reader[index][0])


def _webdataset(name: str) -> Source:
    root = Path(name.partition(":")[2]).expanduser()
    every = sorted(root.glob("*.tar"))
    shards = [path for path in every if "train" in path.name] or every
    if not shards:
        raise DataError(f"{root}: no tar file is there, and a webdataset is made of them.")
    places: list[tuple[Path, int, int]] = []
    labels: list[int] = []
    for shard in shards:
        for place, label in _members(shard):
            places.append(place)
            labels.append(label)
    if not places:
        raise DataError(f"{root}: no image with a .cls file beside it is in {shards[0].name} and its like.")
    return Source(
        name=name,
        labels=torch.tensor(labels),
        class_names=tuple(map(str, range(max(labels) + 1))),
        open=_Members(places),
        state=[str(root.resolve()), [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in shards]],
    )


def _members(shard: Path) -> list[tuple[tuple[Path, int, int], int]]:
    """Where each image of a tar file begins and how long it is, with its label."""
    images: dict[str, tuple[Path, int, int]] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(shard) as tar:
            for member in tar:
                key, _, suffix = member.name.rpartition(".")
                if f".{suffix.lower()}" in IMAGES:
                    images[key] = (shard, member.offset_data, member.size)
                elif suffix == "cls" and (content := tar.extractfile(member)) is not None:
                    labels[key] = int(content.read())
    except (tarfile.TarError, ValueError, OSError) as problem:
        raise DataError(f"{shard} can't be read as a part of a webdataset: {problem}.") from None
    return [(images[key], labels[key]) for key in images if key in labels]


@dataclass(frozen=True)
class _Members:
    """Images inside of tar files: read where they lie, in any order."""

    places: Sequence[tuple[Path, int, int]]

    def __call__(self, index: int) -> Image.Image:
        path, start, length = self.places[index]
        with path.open("rb") as file:
            file.seek(start)
            return folder.open_image(io.BytesIO(file.read(length)), where=f"image {index} of {path}")
