"""CIFAR-10 and CIFAR-100 as published: fetched once, checked by md5, and read from the folders torchvision uses."""

import hashlib
import pickle
import shutil
import sys
import tarfile
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from buildup.errors import DataError
from buildup.training.dataset import Dataset

IMAGE_SIZE = 32
TRAIN_IMAGES = 50_000
CHUNK = 1 << 18
TIMEOUT = 30
"""Seconds without an answer before a server counts as out of reach."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """A published archive: where it is, and the md5 of all that counts in it."""

    url: str
    md5: str
    folder: str
    """Inside the archive, and so inside the data folder."""
    train: dict[str, str]
    """File name to md5."""
    test: dict[str, str]
    meta: dict[str, str]
    labels_key: str
    names_key: str
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def files(self) -> dict[str, str]:
        """Every file that is needed."""
        return self.train | self.test | self.meta

    def is_present(self, root: Path) -> bool:
        """Whether its files lie in a data folder; their content is checked when they are read."""
        return all((root / self.folder / name).is_file() for name in self.files)


ARCHIVES = {
    "cifar10": Archive(
        url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        md5="c58f30108f718f92721af3b95e74349a",
        folder="cifar-10-batches-py",
        train={
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        },
        test={"test_batch": "40351d587109b95175f43aff81a1287e"},
        meta={"batches.meta": "5ff9c542aee3614f3951f8cda6e48888"},
        labels_key="labels",
        names_key="label_names",
        num_classes=10,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2023, 0.1994, 0.2010),
    ),
    "cifar100": Archive(
        url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        md5="eb9058c3a382ffc7106e4002c42a8d85",
        folder="cifar-100-python",
        train={"train": "16019d7e3df5f24257cddd939b257f8d"},
        test={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        meta={"meta": "7973b15100ade9c7d40fb424638fde48"},
        labels_key="fine_labels",
        names_key="fine_label_names",
        num_classes=100,
        mean=(0.5071, 0.4867, 0.4408),
        std=(0.2675, 0.2565, 0.2761),
    ),
}


def load(name: str, root: Path, *, train: bool) -> Dataset:
    """The training or the test images, fetched into the data folder when it lacks them."""
    archive = ARCHIVES[name]
    if not archive.is_present(root):
        fetch(archive, root)
    (meta_name,) = archive.meta
    names = _read(archive, root, meta_name)[archive.names_key]
    batches = [_read(archive, root, file) for file in (archive.train if train else archive.test)]
    pixels = np.concatenate([batch["data"] for batch in batches])
    labels = np.concatenate([np.asarray(batch[archive.labels_key], dtype=np.int64) for batch in batches])
    return Dataset(
        name=name,
        images=torch.from_numpy(pixels.reshape(-1, 3, IMAGE_SIZE, IMAGE_SIZE)),
        labels=torch.from_numpy(labels),
        class_names=tuple(names),
        mean=archive.mean,
        std=archive.std,
    )


def fetch(archive: Archive, root: Path) -> None:
    """Bring an archive into a data folder: all of it, checked, or nothing."""
    target = root / archive.folder
    looked_for = f"{target} lacks {', '.join(name for name in archive.files if not (target / name).is_file())}"
    temporary = None
    made = not root.exists()
    try:
        root.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{archive.folder}-", dir=root))
        packed = temporary / "archive.tar.gz"
        digest = _download(archive.url, packed)
        if digest != archive.md5:
            raise DataError(
                f"{archive.url}: the md5 of what came is {digest}, it should be {archive.md5}. Try again, "
                f"or put the files of {archive.folder} into {target} yourself."
            )
        unpacked = temporary / archive.folder
        unpacked.mkdir()
        with tarfile.open(packed) as tar:
            for name in archive.files:
                member = tar.extractfile(f"{archive.folder}/{name}")
                assert member is not None
                with (unpacked / name).open("wb") as file:
                    shutil.copyfileobj(member, file)
        target.mkdir(exist_ok=True)
        # File by file, because another process may be doing the same; either one's files are right.
        for name in archive.files:
            (unpacked / name).replace(target / name)
    except (URLError, OSError) as problem:
        raise DataError(
            f"{looked_for}, and {archive.url} can't be fetched: {getattr(problem, 'reason', problem)}. "
            f"Put those files there yourself, or name the folder above {archive.folder}: --data-dir or BUILDUP_DATA."
        ) from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        if made and root.is_dir() and not any(root.iterdir()):
            root.rmdir()


def _download(url: str, path: Path) -> str:
    """Save a file, with a bar where someone can see it, and give back its md5."""
    digest = hashlib.md5(usedforsecurity=False)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    bar = Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True)
    with urllib.request.urlopen(url, timeout=TIMEOUT) as source, path.open("wb") as file, bar:
        length = source.headers.get("Content-Length")
        task = bar.add_task(url.rpartition("/")[2], total=int(length) if length else None)
        while chunk := source.read(CHUNK):
            digest.update(chunk)
            file.write(chunk)
            bar.advance(task, len(chunk))
    return digest.hexdigest()


def _read(archive: Archive, root: Path, name: str) -> dict[str, Any]:
    """A pickled batch. Unpickling runs what a file says, so only the published bytes get that far."""
    path = root / archive.folder / name
    try:
        content = path.read_bytes()
    except OSError as problem:
        raise DataError(f"{path} can't be read: {problem.strerror}.") from None
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if digest != archive.files[name]:
        raise DataError(
            f"{path} is not the published file: its md5 is {digest}, it should be {archive.files[name]}. "
            f"Delete {path.parent} to have it fetched again."
        )
    batch: dict[str, Any] = pickle.loads(content, encoding="latin1")
    return batch
