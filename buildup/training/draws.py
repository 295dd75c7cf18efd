"""What chance decides in a training: drawn on the host, by seed, epoch and purpose, and by nothing else.

Each purpose has a stream of its own, so a recipe that gains a transform keeps the draws of the others, and a candidate
sees the images of its parent with the same crops, flips, operations and mixtures in the same order, on any device.
"""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]

ERASED_AREA = (0.02, 1 / 3)
"""As timm has it: the share of an image that is erased."""
ERASED_ASPECT = (0.3, 1 / 0.3)
ATTEMPTS = 10
"""A rectangle that does not fit is drawn anew so often; then the image stays whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """How one batch is mixed with its reverse."""

    own: float
    """The share that is left of each image; 1 for a batch that is not mixed."""
    box: tuple[int, int, int, int] | None = None
    """Top, bottom, left and right of what cutmix takes from the other image; None for mixup."""


def epoch_seed(seed: int, epoch: int, purpose: str) -> int:
    """A seed for one purpose in one epoch of a training, far from all others."""
    digest = hashlib.sha256(f"{seed}/{epoch}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8]) >> 1


def stream(seed: int, epoch: int, purpose: str) -> np.random.RandomState:
    """The draws of one purpose in one epoch. numpy promises that RandomState never changes them."""
    own = epoch_seed(seed, epoch, purpose)
    return np.random.RandomState([own >> 32, own & 0xFFFFFFFF])


def data_order(draws: np.random.RandomState, images: int) -> Whole:
    """The order in which an epoch goes through the training images."""
    return draws.permutation(images).astype(np.int64)


def crop_shifts(draws: np.random.RandomState, images: int, padding: int) -> Whole:
    """Row and column of each image's window in the padded image."""
    return draws.randint(2 * padding + 1, size=(images, 2)).astype(np.int64)


def flips(draws: np.random.RandomState, images: int) -> NDArray[np.bool_]:
    """Which images are mirrored: half of them."""
    return draws.random_sample(images) < 0.5


def erased_boxes(draws: np.random.RandomState, images: int, size: tuple[int, int], probability: float) -> Whole:
    """Top, bottom, left and right of what is erased of each image; an empty box for those that stay whole."""
    height, width = size
    chosen = draws.random_sample(images) <= probability
    low, high = ERASED_ASPECT
    area = draws.uniform(*ERASED_AREA, size=(ATTEMPTS, images)) * height * width
    aspect = np.exp(draws.uniform(math.log(low), math.log(high), size=(ATTEMPTS, images)))
    tall, wide = np.rint(np.sqrt(area * aspect)).astype(np.int64), np.rint(np.sqrt(area / aspect)).astype(np.int64)
    fits = (tall < height) & (wide < width)
    first, every = fits.argmax(0), np.arange(images)
    tall, wide = tall[first, every], wide[first, every]
    places = draws.random_sample((2, images))
    top, left = (places[0] * (height - tall + 1)).astype(np.int64), (places[1] * (width - wide + 1)).astype(np.int64)
    boxes = np.stack([top, top + tall, left, left + wide], axis=1)
    return np.where((chosen & fits.any(0))[:, None], boxes, 0)


def mixture(
    draws: np.random.RandomState,
    size: tuple[int, int],
    *,
    mixup: float,
    cutmix: float,
    mix_prob: float,
    mix_switch_prob: float,
) -> Mixture:
    """How timm's `Mixup` in batch mode would mix a batch of images of this size."""
    # All is drawn every time, so that one batch's luck does not shift the draws of the next.
    mixes, switches = draws.random_sample() < mix_prob, draws.random_sample() < mix_switch_prob
    cuts = bool(cutmix) and (switches or not mixup)
    strength = cutmix if cuts else mixup
    own = float(draws.beta(strength, strength))
    centre = draws.random_sample(2)
    if not mixes:
        return Mixture(own=1.0)
    return cut(size, own, (int(centre[0] * size[0]), int(centre[1] * size[1]))) if cuts else Mixture(own=own)


def cut(size: tuple[int, int], own: float, centre: tuple[int, int]) -> Mixture:
    """A box around a place, cut off at the borders; what is left of the image is counted afterwards.

    >>> cut((32, 32), 0.75, (0, 16))
    Mixture(own=0.875, box=(0, 8, 8, 24))
    """
    top, bottom, left, right = (
        end
        for length, middle in zip(size, centre, strict=True)
        for side in [int(length * math.sqrt(1 - own))]
        for end in (max(0, middle - side // 2), min(length, middle + (side + 1) // 2))
    )
    return Mixture(own=1 - (bottom - top) * (right - left) / (size[0] * size[1]), box=(top, bottom, left, right))
