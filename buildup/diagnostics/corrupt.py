"""Fifteen ways to spoil an image, each in five severities (paper.md 8.9), made here.

They are of the kinds of the published CIFAR-10-C and CIFAR-100-C, and not those images: noise, brightness, contrast,
pixels and JPEG have the published strengths for CIFAR, blurs and weather are drawn otherwise. Lengths are shares of an
image's side, so that a severity looks alike at any size.

What chance decides is the same for all severities of a kind, so that one differs from the next by its strength alone.
"""

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, pi
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.nn import functional as F

Family = Literal["noise", "blur", "weather", "digital"]
Spoil = Callable[[Tensor, float, Generator], Tensor]
"""From pixels from 0 to 1 (images x channels x height x width), an amount and chance to pixels that may lie outside."""

SEVERITIES = (1, 2, 3, 4, 5)
CHUNK = 256
"""Images that draw together: what chance decides for an image does not depend on how many are measured at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corruption:
    """One kind."""

    family: Family
    amounts: tuple[float, float, float, float, float]
    """What each severity means for it."""
    spoil: Spoil


def corrupt(images: Tensor, kind: str, severity: int, seed: int = 0) -> Tensor:
    """Images (uint8, images x channels x height x width) spoiled in one way; severity 0 leaves them as they are."""
    if severity == 0:
        return images
    corruption = CORRUPTIONS[kind]
    parts = []
    for number, part in enumerate(torch.split(images, CHUNK)):
        draws = torch.Generator().manual_seed(_seed(f"{seed}/{kind}/{number}"))
        corrupted_part = corruption.spoil(part.cpu().float() / 255, corruption.amounts[severity - 1], draws)
        parts.append((corrupted_part * 255).round().clamp(0, 255).to(torch.uint8))
    return torch.cat(parts)


def _seed(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) % 2**63


def _gaussian_noise(pixels: Tensor, deviation: float, draws: Generator) -> Tensor:
    return pixels + deviation * torch.randn(pixels.shape, generator=draws)


def _shot_noise(pixels: Tensor, photons: float, draws: Generator) -> Tensor:
    """What a sensor counts that a white pixel sends so many photons to."""
    return torch.poisson(pixels * photons, generator=draws) / photons


def _impulse_noise(pixels: Tensor, share: float, draws: Generator) -> Tensor:
    """A share of all values is black or white, one as often as the other."""
    chance = torch.rand(pixels.shape, generator=draws)
    return torch.where(chance < share, (chance < share / 2).float(), pixels)


def _defocus_blur(pixels: Tensor, radius: float, draws: Generator) -> Tensor:
    """The mean over a disc."""
    reach = radius * min(pixels.shape[2:])
    rows, columns = _around(ceil(reach))
    disc = (reach + 0.5 - (rows.square() + columns.square()).sqrt()).clamp(0, 1)
    return _filtered(pixels, disc.expand(len(pixels), -1, -1))


def _glass_blur(pixels: Tensor, deviation: float, draws: Generator) -> Tensor:
    """Each place shows one that lies a few pixels away."""
    count, channels, height, width = pixels.shape
    away = (torch.randn(2, count, height, width, generator=draws) * deviation * min(height, width)).round().long()
    rows = (torch.arange(height)[:, None] + away[0]).clamp(0, height - 1)
    columns = (torch.arange(width) + away[1]).clamp(0, width - 1)
    places = (rows * width + columns).flatten(1)[:, None].expand(-1, channels, -1)
    return pixels.flatten(2).gather(2, places).view_as(pixels)


def _motion_blur(pixels: Tensor, length: float, draws: Generator) -> Tensor:
    """The mean along a line of any direction."""
    angles = torch.rand(len(pixels), generator=draws) * pi
    return _filtered(pixels, _lines(length * min(pixels.shape[2:]), angles))


def _zoom_blur(pixels: Tensor, zoom: float, draws: Generator) -> Tensor:
    """The mean over zooms from 1 on."""
    steps = 2 + ceil(zoom * max(pixels.shape[2:]) / 2)
    total = torch.zeros_like(pixels)
    for factor in torch.linspace(1, 1 + zoom, steps).tolist():
        matrix = torch.tensor([[1 / factor, 0, 0], [0, 1 / factor, 0]]).expand(len(pixels), -1, -1)
        total += _sampled(pixels, F.affine_grid(matrix, list(pixels.shape), align_corners=False))
    return total / steps


def _snow(pixels: Tensor, amount: float, draws: Generator) -> Tensor:
    """Paler colours, and flakes that fall aslant."""
    count, _, height, width = pixels.shape
    grains = torch.randn(count, 1, *(min(side, 48) for side in (height, width)), generator=draws)
    flakes = ((F.interpolate(grains, size=(height, width), mode="bilinear") - 1).clamp(0, 1) * 2).clamp(max=1)
    angles = pi / 4 + torch.rand(count, generator=draws) * pi / 2
    fallen = _filtered(flakes, _lines(0.09 * min(height, width), angles))
    pale = torch.maximum(pixels, 0.5 + pixels.mean(1, keepdim=True) / 2)
    return pixels.lerp(pale, amount) + amount * 1.5 * fallen


def _frost(pixels: Tensor, amount: float, draws: Generator) -> Tensor:
    """Ridges of ice over a darker image."""
    ridges = (1 - (2 * _clouds(pixels, draws, 1.5) - 1).abs()) ** 3
    tint = torch.tensor([0.88, 0.95, 1.0] if pixels.shape[1] == 3 else [0.95])[:, None, None]
    return (1 - amount / 2) * pixels + amount * ridges * tint


def _fog(pixels: Tensor, amount: float, draws: Generator) -> Tensor:
    """Clouds in front, as bright as the image is at most."""
    top = pixels.amax((1, 2, 3), keepdim=True)
    return (pixels + amount * _clouds(pixels, draws, 2.0)) * top / (top + amount)


def _brightness(pixels: Tensor, amount: float, draws: Generator) -> Tensor:
    """More of the value that HSV has, with the same hue and saturation."""
    value = pixels.amax(1, keepdim=True)
    lit = (value + amount).clamp(max=1)
    return torch.where(value > 0, pixels * lit / value.clamp(min=1e-6), lit)


def _contrast(pixels: Tensor, factor: float, draws: Generator) -> Tensor:
    """Each channel nearer to its mean."""
    mean = pixels.mean((2, 3), keepdim=True)
    return mean + factor * (pixels - mean)


def _elastic_transform(pixels: Tensor, amount: float, draws: Generator) -> Tensor:
    """Places moved by a smooth random field."""
    count, _, height, width = pixels.shape
    frequency = _frequencies(height, width) * min(height, width)
    field = _spectral(2 * count, (height, width), (-0.06 * frequency.square()).exp(), draws)
    field = field / field.square().mean((1, 2), keepdim=True).sqrt()
    away = field.view(count, 2, height, width).permute(0, 2, 3, 1) * 2 * amount
    matrix = torch.eye(2, 3).expand(count, -1, -1)
    return _sampled(pixels, F.affine_grid(matrix, list(pixels.shape), align_corners=False) + away)


def _pixelate(pixels: Tensor, share: float, draws: Generator) -> Tensor:
    """As with a share of the rows and columns: each large pixel is the mean of what it covers."""
    height, width = pixels.shape[2:]
    rows, columns = (_covered(side, max(1, round(side * share))) for side in (height, width))
    return F.interpolate(rows @ pixels @ columns.T, size=(height, width), mode="nearest-exact")


def _covered(side: int, parts: int) -> Tensor:
    """How much of each of some equal parts of a side each of its pixels makes up (parts x side)."""
    starts, pixels = torch.arange(parts)[:, None] * side / parts, torch.arange(side)
    shared = torch.minimum(starts + side / parts, pixels + 1) - torch.maximum(starts, pixels)
    return shared.clamp(min=0) * parts / side


def _jpeg_compression(pixels: Tensor, quality: float, draws: Generator) -> Tensor:
    return torch.stack([_compressed(image, round(quality)) for image in (pixels * 255).round().to(torch.uint8)])


def _compressed(image: Tensor, quality: int) -> Tensor:
    grey = len(image) == 1
    file = io.BytesIO()
    Image.fromarray((image[0] if grey else image.permute(1, 2, 0)).numpy()).save(file, "JPEG", quality=quality)
    read = torch.from_numpy(np.array(Image.open(file))).float() / 255
    return read[None] if grey else read.permute(2, 0, 1)


def _around(reach: int) -> tuple[Tensor, Tensor]:
    """The rows and columns of a square kernel, counted from its middle."""
    places = torch.arange(-reach, reach + 1, dtype=torch.float32)
    return places[:, None], places[None, :]


def _lines(length: float, angles: Tensor) -> Tensor:
    """A kernel for each angle: a line of a length and of one pixel's width."""
    rows, columns = _around(ceil(length / 2))
    sine, cosine = angles.sin()[:, None, None], angles.cos()[:, None, None]
    along = (rows * sine + columns * cosine).clamp(-length / 2, length / 2)
    away = ((rows - along * sine).square() + (columns - along * cosine).square()).sqrt()
    return (1 - away).clamp(min=0)


def _filtered(pixels: Tensor, kernels: Tensor) -> Tensor:
    """Each image's mean with the weights of its own kernel; borders are repeated."""
    count, channels, height, _ = pixels.shape
    reach = kernels.shape[-1] // 2
    padded = F.pad(pixels, [reach] * 4, mode="replicate").view(1, count * channels, height + 2 * reach, -1)
    weights = (kernels / kernels.sum((1, 2), keepdim=True)).repeat_interleave(channels, 0)[:, None]
    return F.conv2d(padded, weights, groups=count * channels).view_as(pixels)


def _sampled(pixels: Tensor, places: Tensor) -> Tensor:
    return F.grid_sample(pixels, places, mode="bilinear", padding_mode="reflection", align_corners=False)


def _clouds(pixels: Tensor, draws: Generator, steepness: float) -> Tensor:
    """A random field from 0 to 1 for each image, whose frequencies fade by a power."""
    count, _, height, width = pixels.shape
    frequency = _frequencies(height, width)
    fading = torch.where(frequency > 0, frequency.clamp(min=1e-6) ** -steepness, 0)
    field = _spectral(count, (height, width), fading, draws)[:, None]
    low, high = field.amin((2, 3), keepdim=True), field.amax((2, 3), keepdim=True)
    scaled: Tensor = (field - low) / (high - low)
    return scaled


def _frequencies(height: int, width: int) -> Tensor:
    """Cycles a pixel of each bin of `rfft2`."""
    rows, columns = torch.fft.fftfreq(height), torch.fft.rfftfreq(width)
    frequency: Tensor = (rows[:, None].square() + columns.square()).sqrt()
    return frequency


def _spectral(count: int, size: tuple[int, int], transfer: Tensor, draws: Generator) -> Tensor:
    """White noise whose frequencies are weighted."""
    noise = torch.randn(count, *size, generator=draws)
    field: Tensor = torch.fft.irfft2(torch.fft.rfft2(noise) * transfer, s=size)
    return field


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": Corruption(family="noise", amounts=(0.04, 0.06, 0.08, 0.09, 0.10), spoil=_gaussian_noise),
    "shot_noise": Corruption(family="noise", amounts=(500, 250, 100, 75, 50), spoil=_shot_noise),
    "impulse_noise": Corruption(family="noise", amounts=(0.01, 0.02, 0.03, 0.05, 0.07), spoil=_impulse_noise),
    "defocus_blur": Corruption(family="blur", amounts=(0.024, 0.030, 0.037, 0.046, 0.058), spoil=_defocus_blur),
    "glass_blur": Corruption(family="blur", amounts=(0.010, 0.013, 0.016, 0.020, 0.025), spoil=_glass_blur),
    "motion_blur": Corruption(family="blur", amounts=(0.07, 0.10, 0.13, 0.17, 0.22), spoil=_motion_blur),
    "zoom_blur": Corruption(family="blur", amounts=(0.08, 0.12, 0.17, 0.23, 0.30), spoil=_zoom_blur),
    "snow": Corruption(family="weather", amounts=(0.15, 0.23, 0.31, 0.40, 0.50), spoil=_snow),
    "frost": Corruption(family="weather", amounts=(0.25, 0.35, 0.45, 0.55, 0.65), spoil=_frost),
    "fog": Corruption(family="weather", amounts=(0.2, 0.5, 0.8, 1.2, 1.8), spoil=_fog),
    "brightness": Corruption(family="digital", amounts=(0.05, 0.10, 0.15, 0.20, 0.30), spoil=_brightness),
    "contrast": Corruption(family="digital", amounts=(0.75, 0.50, 0.40, 0.30, 0.15), spoil=_contrast),
    "elastic_transform": Corruption(
        family="digital", amounts=(0.012, 0.02, 0.03, 0.042, 0.056), spoil=_elastic_transform
    ),
    "pixelate": Corruption(family="digital", amounts=(0.95, 0.90, 0.85, 0.75, 0.65), spoil=_pixelate),
    "jpeg_compression": Corruption(family="digital", amounts=(80, 65, 58, 50, 40), spoil=_jpeg_compression),
}
"""By the names of the published files, in the order of the published tables."""
