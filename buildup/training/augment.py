"""Augmentation of whole batches on their device, by draws that depend on seed and epoch and never on the network.

One function a transform; `augmentation` picks those that a recipe asks for. A candidate and its parent therefore see
the same images with the same crops, flips and mixtures, in the same order.
"""

import hashlib
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import rand_augment_transform
from torch import Tensor
from torch.nn import functional as F

from buildup.training.dataset import Dataset
from buildup.training.recipe import RandAugment, Recipe

PADDING_SIZE = 32
"""The image size that a recipe's crop padding is meant for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """The random numbers of one epoch."""

    host: random.Random
    """For what is drawn once a batch, and for Pillow."""
    device: torch.Generator
    """For what is drawn for every image; on the images' device, so that drawing never waits for it."""


Transform = Callable[[Tensor, Draws], Tensor]


def epoch_seed(seed: int, epoch: int, purpose: str) -> int:
    """A seed for one purpose in one epoch of a training, far from all others."""
    digest = hashlib.sha256(f"{seed}/{epoch}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8]) >> 1


def epoch_draws(seed: int, epoch: int, device: torch.device) -> Draws:
    """The draws of an epoch, from their beginning."""
    own = epoch_seed(seed, epoch, "augmentation")
    return Draws(host=random.Random(own), device=torch.Generator(device).manual_seed(own))


def data_order(seed: int, epoch: int, images: int) -> Tensor:
    """The order in which an epoch goes through the training images."""
    generator = torch.Generator().manual_seed(epoch_seed(seed, epoch, "order"))
    return torch.randperm(images, generator=generator)


def augmentation(recipe: Recipe, dataset: Dataset) -> Callable[[Tensor, Draws], Tensor]:
    """All that a recipe does to the images of a batch but mixing them: uint8 in, normalised floats out."""
    pixels: list[Transform] = []
    padding = round(recipe.crop_padding * dataset.image_size / PADDING_SIZE)
    if padding:
        pixels.append(lambda images, draws: crop(images, draws, padding))
    if recipe.flip and dataset.mirror:
        pixels.append(flip)
    if (settings := recipe.randaugment) is not None:
        pixels.append(lambda images, draws: rand_augment(images, draws, settings, dataset.mean))

    def apply(images: Tensor, draws: Draws) -> Tensor:
        for transform in pixels:
            images = transform(images, draws)
        images = normalise(images, dataset.mean, dataset.std)
        return erase(images, draws, recipe.erasing) if recipe.erasing else images

    return apply


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 pixels as floats with mean 0 and deviation 1."""
    # full() and not tensor(): a copy from the host would make every step wait for the device.
    scaled = images.float().mul_(1 / 255)
    for channel, (centre, spread) in enumerate(zip(mean, std, strict=True)):
        scaled[:, channel].sub_(centre).div_(spread)
    return scaled


def crop(images: Tensor, draws: Draws, padding: int) -> Tensor:
    """A window of the old size at a random place of each image, which got a black border before."""
    count, _, height, width = images.shape
    device = images.device
    padded = F.pad(images, (padding,) * 4)
    shift = torch.randint(2 * padding + 1, (2, count), generator=draws.device, device=device)
    rows = shift[0, :, None, None] + torch.arange(height, device=device)[:, None]
    columns = shift[1, :, None, None] + torch.arange(width, device=device)
    which = torch.arange(count, device=device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[which, rows, columns].permute(0, 3, 1, 2)


def flip(images: Tensor, draws: Draws) -> Tensor:
    """Each image mirrored with probability 0.5."""
    mirrored = torch.rand(len(images), generator=draws.device, device=images.device) < 0.5
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)


def rand_augment(images: Tensor, draws: Draws, settings: RandAugment, mean: tuple[float, ...]) -> Tensor:
    """timm's RandAugment, image by image through Pillow on the CPU: exact, and slow beside a fast device."""
    grey = images.shape[1] == 1
    colours = [min(255, round(255 * value)) for value in (mean * 3 if grey else mean)]
    config = f"rand-m{settings.magnitude:g}-n{settings.layers}-mstd{settings.std:g}"
    # As timm's own training transform sets them up; the interpolation is drawn for each operation.
    hints = {"translate_const": int(images.shape[-1] * 0.45), "img_mean": tuple(colours)}
    operate = rand_augment_transform(config, hints)
    pixels = images.permute(0, 2, 3, 1).cpu().numpy()
    changed = np.empty_like(pixels)
    with _global_draws(draws.host):
        for index, image in enumerate(pixels):
            picture = operate(Image.fromarray(image.repeat(3, axis=2) if grey else np.ascontiguousarray(image)))
            changed[index] = np.asarray(picture.convert("L"))[:, :, None] if grey else np.asarray(picture)
    return torch.from_numpy(changed).permute(0, 3, 1, 2).to(images.device)


def erase(images: Tensor, draws: Draws, probability: float) -> Tensor:
    """A rectangle of 2 to 33 % of the area set to the mean, in so large a share of the images."""
    count, _, height, width = images.shape
    u = torch.rand(5, count, generator=draws.device, device=images.device)
    area = (0.02 + (1 / 3 - 0.02) * u[0]) * height * width
    aspect = torch.exp((2 * u[1] - 1) * math.log(10 / 3))
    tall = (area * aspect).sqrt().round().clamp(1, height - 1)
    wide = (area / aspect).sqrt().round().clamp(1, width - 1)
    top = (u[2] * (height - tall + 1)).floor()
    left = (u[3] * (width - wide + 1)).floor()
    rows = torch.arange(height, device=images.device)[None, :]
    columns = torch.arange(width, device=images.device)[None, :]
    inside_rows = (rows >= top[:, None]) & (rows < (top + tall)[:, None])
    inside_columns = (columns >= left[:, None]) & (columns < (left + wide)[:, None])
    box = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
    return images.masked_fill(box & (u[4] < probability)[:, None, None, None], 0.0)


def soft_targets(labels: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """Labels as distributions, with a share of their weight spread over all classes."""
    return F.one_hot(labels, num_classes).float().mul_(1 - smoothing).add_(smoothing / num_classes)


def mix(images: Tensor, targets: Tensor, draws: Draws, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Mixup or cutmix of a whole batch with its reverse, as timm does in batch mode; odd batches are fine too."""
    if not (recipe.mixup or recipe.cutmix):
        return images, targets
    # All drawn every time, so that one batch's luck does not shift the draws of the next.
    mixes, switches = draws.host.random() < recipe.mix_prob, draws.host.random() < recipe.mix_switch_prob
    cuts = bool(recipe.cutmix) and (switches or not recipe.mixup)
    strength = recipe.cutmix if cuts else recipe.mixup
    own = draws.host.betavariate(strength, strength)
    centre = draws.host.random(), draws.host.random()
    if not mixes:
        return images, targets
    if cuts:
        images, own = _cutmix(images, own, centre)
    else:
        images = images * own + images.flip(0) * (1 - own)
    return images, targets * own + targets.flip(0) * (1 - own)


def _cutmix(images: Tensor, own: float, centre: tuple[float, float]) -> tuple[Tensor, float]:
    """A box from the reversed batch put in, and the share that is left of each image's own pixels."""
    height, width = images.shape[2:]
    spans = []
    for size, middle in zip((height, width), centre, strict=True):
        half, place = int(size * math.sqrt(1 - own)) // 2, int(middle * size)
        spans.append((max(0, place - half), min(size, place + half)))
    (top, bottom), (left, right) = spans
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images.flip(0)[:, :, top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)


@contextmanager
def _global_draws(source: random.Random) -> Iterator[None]:
    """timm's operations draw from the global generators of Python and numpy: lend them ours, and put theirs back."""
    python, numpy = random.getstate(), np.random.get_state()
    random.seed(source.getrandbits(64))
    np.random.seed(source.getrandbits(32))
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
