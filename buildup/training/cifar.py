"""CIFAR-10 and CIFAR-100, which torchvision fetches, verifies and reads; here is what it leaves unsaid."""

import io
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import calculate_md5, check_integrity, download_and_extract_archive

from buildup.errors import DataError
from buildup.training.dataset import Contents, Dataset
from buildup.training.decoded_cache import shared

TIMEOUT = 30
"""Seconds without an answer before a server counts as out of reach."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cifar:
    """One of the two sets."""

    name: str
    published: Any
    """torchvision's class: where the archive is, and the md5 of all that counts in it."""
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train_images: int = 50_000
    image_size: int = 32

    @property
    def usage(self) -> str:
        """What users type."""
        return self.name

    def size(self, name: str, place: Path, asked: int | None) -> int:
        """The one that its images have."""
        if asked not in (None, self.image_size):
            raise DataError(f"{name} has images of {self.image_size} px, not {asked}. Leave the image size out.")
        return self.image_size

    def contents(self, name: str, place: Path) -> Contents:
        """As published, so nothing is read."""
        target = place / self.published.base_folder
        return Contents(
            members=(self.train_images // self.num_classes,) * self.num_classes,
            present=all((target / file).is_file() for file in self._files()),
        )

    def source(self, name: str, place: Path, *, train: bool) -> None:
        """None: its images are decoded as they are read."""

    def load(self, name: str, place: Path, size: int, *, train: bool) -> Dataset:
        """The images, fetched into the data folder when it lacks them."""
        state = dict(self.published.train_list if train else self.published.test_list)
        part = f"{name}-{size}-{'train' if train else 'test'}"
        return shared(place / "decoded", part, state, lambda: self._read(place, train))

    def fetch(self, place: Path) -> None:
        """Bring the archive into a data folder: all of it, checked, or nothing."""
        published, target = self.published, place / self.published.base_folder
        looked_for = f"{target} lacks {', '.join(name for name in self._files() if not (target / name).is_file())}"
        temporary, made = None, not place.exists()
        try:
            place.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=f".{published.base_folder}-", dir=place))
            with _download():
                archive = published.filename
                download_and_extract_archive(published.url, str(temporary), filename=archive, md5=published.tgz_md5)
            target.mkdir(exist_ok=True)
            # File by file, because another process may be doing the same; either one's files are right.
            for name in self._files():
                (temporary / published.base_folder / name).replace(target / name)
        except (OSError, RecursionError) as problem:
            raise DataError(
                f"{looked_for}, and {published.url} can't be fetched: {getattr(problem, 'reason', problem)}. Put those "
                f"files there yourself, or name the folder above {published.base_folder}: --data-dir or BUILDUP_DATA."
            ) from None
        except RuntimeError as problem:
            packed = temporary and temporary / published.filename
            found = f"the md5 of what came is {calculate_md5(packed)}" if packed and packed.is_file() else problem
            raise DataError(
                f"{published.url}: {found}, it should be {published.tgz_md5}. Try again, or put the files of "
                f"{published.base_folder} into {target} yourself."
            ) from None
        finally:
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)
            if made and place.is_dir() and not any(place.iterdir()):
                place.rmdir()

    def _files(self) -> dict[str, str]:
        """Every file that is needed, to its md5."""
        meta = self.published.meta
        return {**dict(self.published.train_list), **dict(self.published.test_list), meta["filename"]: meta["md5"]}

    def _read(self, place: Path, train: bool) -> Dataset:
        if not self.contents(self.name, place).present:
            self.fetch(place)
        target = place / self.published.base_folder
        try:
            found = self.published(place, train=train)
        except OSError as problem:
            raise DataError(f"{problem.filename or target} can't be read: {problem.strerror}.") from None
        except RuntimeError:  # before anything was unpickled, which would run what a changed file says
            path, md5 = next(
                (target / name, md5) for name, md5 in self._files().items() if not check_integrity(target / name, md5)
            )
            raise DataError(
                f"{path} is not the published file: its md5 is {calculate_md5(path)}, it should be {md5}. "
                f"Delete {target} to have it fetched again."
            ) from None
        return Dataset(
            name=self.name,
            images=torch.from_numpy(np.ascontiguousarray(found.data.transpose(0, 3, 1, 2))),
            labels=torch.tensor(found.targets),
            class_names=tuple(found.classes),
            mean=self.mean,
            std=self.std,
        )


@contextmanager
def _download() -> Iterator[None]:
    """Give up on a silent server, and keep torchvision's bar to where someone can see it."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        with redirect_stderr(sys.stderr if sys.stderr.isatty() else io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(before)


CIFARS = (
    Cifar(
        name="cifar10",
        published=CIFAR10,
        num_classes=10,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2023, 0.1994, 0.2010),
    ),
    Cifar(
        name="cifar100",
        published=CIFAR100,
        num_classes=100,
        mean=(0.5071, 0.4867, 0.4408),
        std=(0.2675, 0.2565, 0.2761),
    ),
)
