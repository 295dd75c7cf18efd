"""The datasets with a fixed name: scikit-learn's digits, CIFAR-10 and CIFAR-100.

torchvision fetches, verifies and reads the CIFAR sets; this module adds timeouts, clean-up and error messages.
"""

import io
import shutil
import socket
import sys
import tempfile
from contextlib import redirect_stderr
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import calculate_md5, check_integrity, download_and_extract_archive

from buildup.errors import DataError
from buildup.training.dataset import Contents, Dataset, load_or_decode, shared_split

DIGITS_FILE = "datasets/data/digits.csv.gz"
"""In the package of scikit-learn."""
DIGITS_SIZE = 16
"""The image size of the digits where no other one is given."""
DIGITS_TEST_SEED = 20220214
"""Never changed, because it determines the test images of the digits."""
DIGITS_SHARE = 0.2
"""Share of the digits that is held out for the test, and share of the rest for validation."""
TIMEOUT = 30
"""Seconds without an answer after which a server counts as out of reach."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Digits:
    """The 1,797 digits of scikit-learn: 8x8 pixels from 0 to 16, scaled up bilinearly."""

    name: str = "digits"
    usage: str = "digits"

    def size(self, name: str, place: Path, asked: int | None) -> int:
        return asked or DIGITS_SIZE

    def contents(self, name: str, place: Path) -> Contents:
        """Counted after loading, which takes milliseconds."""
        digits = self.load(name, place, 8, train=True)
        members = tuple(digits.labels.bincount().tolist())
        return Contents(members=members, classes=digits.class_names, channels=1, val_share=DIGITS_SHARE)

    def source(self, name: str, place: Path, *, train: bool) -> None:
        """None: the digits are read at once."""

    def load(self, name: str, place: Path, size: int, *, train: bool) -> Dataset:
        rows = _digit_rows()
        pixels = torch.from_numpy(rows[:, :-1].reshape(-1, 1, 8, 8)).float() * (255 / 16)
        if size != pixels.shape[-1]:
            pixels = F.interpolate(pixels, size=(size, size), mode="bilinear", align_corners=False)
        everything = Dataset(
            name="digits",
            images=pixels.round().clamp(0, 255).to(torch.uint8),
            labels=torch.from_numpy(rows[:, -1].astype(np.int64)),
            class_names=tuple("0123456789"),
            mean=(0.306,),
            std=(0.376,),
            mirror=False,
            val_share=DIGITS_SHARE,
        )
        kept, held = shared_split(everything, DIGITS_TEST_SEED)
        return everything.part(kept if train else held)


def _digit_rows() -> NDArray[np.float64]:
    """One row a digit: its 64 pixels, and which digit it is.

    The file of scikit-learn is read without importing that: the import took 2.2 s in each worker, that of torch 2.0 s.
    """
    spec = find_spec("sklearn")
    folder = Path(next(iter(spec.submodule_search_locations or ()), "")) if spec else Path()
    try:
        return np.loadtxt(folder / DIGITS_FILE, delimiter=",")
    except OSError as problem:
        raise DataError(f"digits: the file of scikit-learn can't be read: {problem}. Install it anew.") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cifar:
    """CIFAR-10 or CIFAR-100."""

    name: str
    published: Any
    """torchvision's class, with the address of the archive and the md5 of its files."""
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train_images: int = 50_000
    image_size: int = 32

    @property
    def usage(self) -> str:
        return self.name

    def size(self, name: str, place: Path, asked: int | None) -> int:
        if asked not in (None, self.image_size):
            raise DataError(f"{name} has images of {self.image_size} px, not {asked}. Leave the image size out.")
        return self.image_size

    def contents(self, name: str, place: Path) -> Contents:
        target = place / self.published.base_folder
        return Contents(
            members=(self.train_images // self.num_classes,) * self.num_classes,
            present=all((target / file).is_file() for file in self._files()),
        )

    def source(self, name: str, place: Path, *, train: bool) -> None:
        """None: its images are read at once."""

    def load(self, name: str, place: Path, size: int, *, train: bool) -> Dataset:
        """The training images, or the test images. Missing files are fetched into the data folder."""
        state = dict(self.published.train_list if train else self.published.test_list)
        part = f"{name}-{size}-{'train' if train else 'test'}"
        return load_or_decode(place / "decoded", part, state, lambda: self._read(place, train))

    def fetch(self, place: Path) -> None:
        """Fetch and check the archive. On an error nothing is left in the data folder."""
        published, target = self.published, place / self.published.base_folder
        looked_for = f"{target} lacks {', '.join(name for name in self._files() if not (target / name).is_file())}"
        temporary, made = None, not place.exists()
        timeout = socket.getdefaulttimeout()
        socket.setdefaulttimeout(TIMEOUT)
        try:
            place.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=f".{published.base_folder}-", dir=place))
            # torchvision's progress bar is for terminals.
            with redirect_stderr(sys.stderr if sys.stderr.isatty() else io.StringIO()):
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
            socket.setdefaulttimeout(timeout)
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)
            if made and place.is_dir() and not any(place.iterdir()):
                place.rmdir()

    def unreachable(self) -> str:
        """Why its server can't be reached; empty if it can."""
        try:
            with urlopen(Request(self.published.url, method="HEAD"), timeout=TIMEOUT / 3):
                return ""
        except OSError as problem:
            return f"{self.published.url}: {getattr(problem, 'reason', problem)}"

    def _files(self) -> dict[str, str]:
        """The md5 of every needed file, by its name."""
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


CIFARS = (
    Cifar(
        name="cifar10", published=CIFAR10, num_classes=10, mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010)
    ),
    Cifar(
        name="cifar100",
        published=CIFAR100,
        num_classes=100,
        mean=(0.5071, 0.4867, 0.4408),
        std=(0.2675, 0.2565, 0.2761),
    ),
)
