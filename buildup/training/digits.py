"""The 1,797 digits that come with scikit-learn: 8x8 pixels from 0 to 16, scaled up bilinearly."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

from buildup.training.dataset import Contents, Dataset, split

SIZE = 16
"""What they are scaled to when nobody names another size."""
TEST_SEED = 20220214
"""Fixed for good: what it holds out is the test set of the bundled digits."""
SHARE = 0.2
"""Of the digits, for the test; and again of the rest, for validation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Digits:
    """The set."""

    name: str = "digits"
    usage: str = "digits"

    def size(self, name: str, place: Path, asked: int | None) -> int:
        """Any."""
        return asked or SIZE

    def contents(self, name: str, place: Path) -> Contents:
        """By reading them: they are few."""
        digits = self.load(name, place, 8, train=True)
        members = tuple(digits.labels.bincount().tolist())
        return Contents(members=members, classes=digits.class_names, channels=1, val_share=SHARE)

    def source(self, name: str, place: Path, *, train: bool) -> None:
        """None: they are read at once."""

    def load(self, name: str, place: Path, size: int, *, train: bool) -> Dataset:
        """The images."""
        bunch = load_digits()
        pixels = torch.from_numpy(bunch.images).float()[:, None] * (255 / 16)
        if size != pixels.shape[-1]:
            pixels = F.interpolate(pixels, size=(size, size), mode="bilinear", align_corners=False)
        everything = Dataset(
            name="digits",
            images=pixels.round().clamp(0, 255).to(torch.uint8),
            labels=torch.from_numpy(np.asarray(bunch.target, dtype=np.int64)),
            class_names=tuple(str(name) for name in bunch.target_names),
            mean=(0.306,),
            std=(0.376,),
            mirror=False,
            val_share=SHARE,
        )
        kept, held = split(everything, TEST_SEED)
        return everything.part(kept if train else held)
