"""Augmentation: random numbers are drawn on the host for a whole epoch, and batches are changed on their device.

Draws depend on seed, epoch and purpose alone. Each purpose has its own random stream, so a transform that is added to a
recipe does not change the draws of the others. A candidate sees the images of its parent with the same crops, flips and
mixtures in the same order, on any device.

A recipe turns an augmentation on by a setting of its name: `erasing: 0.25`, or below `augmentations:` where `Recipe`
has no such field.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from buildup.training.recipe import AUGMENTATIONS, Recipe

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Change = Callable[[Tensor, slice], Tensor]
"""Takes images and their positions among those that this process sees, and returns the changed images."""

PADDING_SIZE = 32
"""A recipe states its crop padding for images of this size; other sizes are padded in proportion."""
ERASED_AREA = (0.02, 1 / 3)
"""Range of the erased share of an image, as in timm."""
ERASED_ASPECT = (0.3, 1 / 0.3)
ERASING_ATTEMPTS = 10
"""A rectangle that does not fit is drawn again up to this many times; then the image stays whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochImages:
    """The images of one epoch, in the order in which they are trained on."""

    count: int
    size: int
    """Height and width."""
    mean: tuple[float, ...]
    mirror: bool
    """Whether a mirrored image still shows what its label says."""
    device: torch.device
    seed: int
    epoch: int
    positions: Integers | None = None
    """The images that this process sees, where several share a training. Numbers are drawn for all of them."""

    def draws(self, purpose: str) -> np.random.RandomState:
        return random_stream(self.seed, self.epoch, purpose)

    def own(self, drawn: NDArray[Any]) -> NDArray[Any]:
        """From numbers drawn for all images, those for the images that this process sees."""
        return drawn if self.positions is None else drawn[self.positions]

    def send(self, drawn: NDArray[Any]) -> Tensor:
        return send(torch.from_numpy(self.own(drawn)), self.device)


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """A random change of single images."""

    name: str
    draw: Callable[[Any, EpochImages], Change | None]
    """Draws for an epoch by the setting in the recipe; returns None where nothing would change."""
    sees: Literal["pixels", "normalised"] = "normalised"
    """Pixels are uint8. Only sets that lie in memory have them; timm's transforms augment the others."""
    check: Callable[[object], str | None] = lambda setting: None
    """What is wrong with a setting, as in "is -1; a probability is needed."."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """How one batch is mixed with its reverse."""

    own: float
    """The share of each image that remains; 1 for a batch that is not mixed."""
    box: tuple[int, int, int, int] | None = None
    """For cutmix, top, bottom, left and right of the part that comes from the other image; None for mixup."""


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device, unless it is there, without waiting for the device's current work."""
    if tensor.device.type == device.type and device.index in (None, tensor.device.index):
        return tensor
    if device.type == "cuda":
        return (tensor if tensor.is_cuda else tensor.pin_memory()).to(device, non_blocking=True)
    if device.type == "mps" and tensor.is_floating_point():
        tensor = tensor.float()  # MPS has no float64
    return tensor.to(device)


def epoch_seed(seed: int, epoch: int, purpose: str) -> int:
    digest = hashlib.sha256(f"{seed}/{epoch}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8]) >> 1


def random_stream(seed: int, epoch: int, purpose: str) -> np.random.RandomState:
    """A RandomState for one purpose in one epoch. numpy guarantees that its draws never change."""
    own = epoch_seed(seed, epoch, purpose)
    return np.random.RandomState([own >> 32, own & 0xFFFFFFFF])


def mixture(rng: np.random.RandomState, size: int, recipe: Recipe) -> Mixture:
    """Draw how a batch of images of this size is mixed, as timm's `Mixup` does in batch mode."""
    if not (recipe.mixup or recipe.cutmix):
        return Mixture(own=1.0)
    # Always draw everything, so that the draws of the next batch do not depend on this one's.
    mixes, switches = rng.random_sample() < recipe.mix_prob, rng.random_sample() < recipe.mix_switch_prob
    cuts = bool(recipe.cutmix) and (switches or not recipe.mixup)
    strength = recipe.cutmix if cuts else recipe.mixup
    own = float(rng.beta(strength, strength))
    centre = rng.random_sample(2)
    if not mixes:
        return Mixture(own=1.0)
    return cut((size, size), own, (int(centre[0] * size), int(centre[1] * size))) if cuts else Mixture(own=own)


def cut(size: tuple[int, int], own: float, centre: tuple[int, int]) -> Mixture:
    """A box around a centre, clipped at the borders. `own` is recomputed from the clipped box.

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


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 pixels as floats with mean 0 and standard deviation 1."""
    # By Python numbers: a tensor copied from the host would make every step wait for the device.
    scaled = images.float().mul_(1 / 255)
    for channel, (centre, spread) in enumerate(zip(mean, std, strict=True)):
        scaled[:, channel].sub_(centre).div_(spread)
    return scaled


def soft_targets(labels: Tensor, num_classes: int, smoothing: float) -> Tensor:
    return F.one_hot(labels, num_classes).float().mul_(1 - smoothing).add_(smoothing / num_classes)


def mix(images: Tensor, targets: Tensor, how: Mixture) -> tuple[Tensor, Tensor]:
    """Mix a batch with its reverse. In a batch of odd size the middle image stays as it is."""
    if how.own == 1:
        return images, targets
    if how.box is None:
        images = images * how.own + images.flip(0) * (1 - how.own)
    else:
        top, bottom, left, right = how.box
        other, images = images.flip(0), images.clone()
        images[:, :, top:bottom, left:right] = other[:, :, top:bottom, left:right]
    return images, targets * how.own + targets.flip(0) * (1 - how.own)


def _draw_crop(padding: int, epoch: EpochImages) -> Change | None:
    padding = round(padding * epoch.size / PADDING_SIZE)
    if not padding:
        return None
    shifts = epoch.send(epoch.draws("crop").randint(2 * padding + 1, size=(epoch.count, 2)).astype(np.int64))

    def crop(images: Tensor, positions: slice) -> Tensor:
        count, _, height, width = images.shape
        device = images.device
        top, left = shifts[positions, :, None, None].unbind(1)
        padded = F.pad(images, (padding,) * 4).permute(0, 2, 3, 1)
        rows = top + torch.arange(height, device=device)[:, None]
        columns = left + torch.arange(width, device=device)
        return padded[torch.arange(count, device=device)[:, None, None], rows, columns].permute(0, 3, 1, 2)

    return crop


def _draw_flip(setting: bool, epoch: EpochImages) -> Change | None:
    if not epoch.mirror:
        return None
    mirrored = epoch.send(epoch.draws("flip").random_sample(epoch.count) < 0.5)
    return lambda images, positions: torch.where(mirrored[positions, None, None, None], images.flip(3), images)


def _draw_erasing(probability: float, epoch: EpochImages) -> Change:
    """Set a box of each chosen image to the mean; images that stay whole get an empty box."""
    rng, images, size = epoch.draws("erase"), epoch.count, epoch.size
    chosen = rng.random_sample(images) <= probability
    low, high = ERASED_ASPECT
    area = rng.uniform(*ERASED_AREA, size=(ERASING_ATTEMPTS, images)) * size * size
    aspect = np.exp(rng.uniform(math.log(low), math.log(high), size=(ERASING_ATTEMPTS, images)))
    tall, wide = np.rint(np.sqrt(area * aspect)).astype(np.int64), np.rint(np.sqrt(area / aspect)).astype(np.int64)
    fits = (tall < size) & (wide < size)
    first, every = fits.argmax(0), np.arange(images)
    tall, wide = tall[first, every], wide[first, every]
    places = rng.random_sample((2, images))
    top, left = (places[0] * (size - tall + 1)).astype(np.int64), (places[1] * (size - wide + 1)).astype(np.int64)
    corners = np.stack([top, top + tall, left, left + wide], axis=1)
    boxes = epoch.send(np.where((chosen & fits.any(0))[:, None], corners, 0))

    def erase(images: Tensor, positions: slice) -> Tensor:
        height, width = images.shape[2:]
        top, bottom, left, right = boxes[positions, :, None].unbind(1)
        rows, columns = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
        inside = ((rows >= top) & (rows < bottom))[:, :, None] & ((columns >= left) & (columns < right))[:, None, :]
        return images.masked_fill(inside[:, None], 0.0)

    return erase


# Images go through the augmentations in the order of their registration.
AUGMENTATIONS.register(Augmentation(name="crop_padding", draw=_draw_crop, sees="pixels"))
AUGMENTATIONS.register(Augmentation(name="flip", draw=_draw_flip, sees="pixels"))
AUGMENTATIONS.register(Augmentation(name="erasing", draw=_draw_erasing))
