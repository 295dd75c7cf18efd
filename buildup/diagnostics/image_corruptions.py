"""Fifteen kinds of image corruption, each in five severities.

The kinds are those of CIFAR-10-C and CIFAR-100-C. Noise, brightness, contrast, pixelation and JPEG have the published
strengths for CIFAR; blurs and weather are implemented differently. Lengths are shares of the side of an image, so a
severity looks alike at any size. All severities of a kind use the same random numbers and differ by strength only.
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

SEVERITIES = (1, 2, 3, 4, 5)
CHUNK = 256
"""Images per random generator, so that the random numbers of an image do not depend on the batch size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corruption:
    family: Literal["noise", "blur", "weather", "digital"]
    amounts: tuple[float, float, float, float, float]
    """The strength at each severity."""
    apply: Callable[[Tensor, float, Generator], Tensor]
    """Receives pixels from 0 to 1, an amount and a generator. The result may lie outside of 0 to 1."""


def corrupt(images: Tensor, kind: str, severity: int, seed: int = 0) -> Tensor:
    """Corrupted images (uint8, images x channels x height x width). Severity 0 leaves them as they are."""
    if severity == 0:
        return images
    corruption = CORRUPTIONS[kind]
    parts = []
    for number, part in enumerate(torch.split(images, CHUNK)):
        digest = hashlib.sha256(f"{seed}/{kind}/{number}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8]) % 2**63)
        corrupted_part = corruption.apply(part.cpu().float() / 255, corruption.amounts[severity - 1], generator)
        parts.append((corrupted_part * 255).round().clamp(0, 255).to(torch.uint8))
    return torch.cat(parts)


def _gaussian_noise(pixels: Tensor, deviation: float, generator: Generator) -> Tensor:
    return pixels + deviation * torch.randn(pixels.shape, generator=generator)


def _shot_noise(pixels: Tensor, photons: float, generator: Generator) -> Tensor:
    """Photon counts of a sensor that gets `photons` of them from a white pixel."""
    return torch.poisson(pixels * photons, generator=generator) / photons


def _impulse_noise(pixels: Tensor, share: float, generator: Generator) -> Tensor:
    """A share of all values becomes black or white, with equal probability."""
    chance = torch.rand(pixels.shape, generator=generator)
    return torch.where(chance < share, (chance < share / 2).float(), pixels)


def _defocus_blur(pixels: Tensor, radius: float, generator: Generator) -> Tensor:
    reach = radius * min(pixels.shape[2:])
    rows, columns = _around(ceil(reach))
    disc = (reach + 0.5 - (rows.square() + columns.square()).sqrt()).clamp(0, 1)
    return _filtered(pixels, disc.expand(len(pixels), -1, -1))


def _glass_blur(pixels: Tensor, deviation: float, generator: Generator) -> Tensor:
    """Each pixel is replaced by one a few pixels away."""
    count, channels, height, width = pixels.shape
    away = (torch.randn(2, count, height, width, generator=generator) * deviation * min(height, width)).round().long()
    rows = (torch.arange(height)[:, None] + away[0]).clamp(0, height - 1)
    columns = (torch.arange(width) + away[1]).clamp(0, width - 1)
    places = (rows * width + columns).flatten(1)[:, None].expand(-1, channels, -1)
    return pixels.flatten(2).gather(2, places).view_as(pixels)


def _motion_blur(pixels: Tensor, length: float, generator: Generator) -> Tensor:
    angles = torch.rand(len(pixels), generator=generator) * pi
    return _filtered(pixels, _lines(length * min(pixels.shape[2:]), angles))


def _zoom_blur(pixels: Tensor, zoom: float, generator: Generator) -> Tensor:
    steps = 2 + ceil(zoom * max(pixels.shape[2:]) / 2)
    total = torch.zeros_like(pixels)
    for factor in torch.linspace(1, 1 + zoom, steps).tolist():
        total += _warped(pixels, torch.tensor([[1 / factor, 0, 0], [0, 1 / factor, 0]]))
    return total / steps


def _snow(pixels: Tensor, amount: float, generator: Generator) -> Tensor:
    count, _, height, width = pixels.shape
    grains = torch.randn(count, 1, *(min(side, 48) for side in (height, width)), generator=generator)
    flakes = ((F.interpolate(grains, size=(height, width), mode="bilinear") - 1).clamp(0, 1) * 2).clamp(max=1)
    angles = pi / 4 + torch.rand(count, generator=generator) * pi / 2
    fallen = _filtered(flakes, _lines(0.09 * min(height, width), angles))
    pale = torch.maximum(pixels, 0.5 + pixels.mean(1, keepdim=True) / 2)
    return pixels.lerp(pale, amount) + amount * 1.5 * fallen


def _frost(pixels: Tensor, amount: float, generator: Generator) -> Tensor:
    ridges = (1 - (2 * _clouds(pixels, generator, 1.5) - 1).abs()) ** 3
    tint = torch.tensor([0.88, 0.95, 1.0] if pixels.shape[1] == 3 else [0.95])[:, None, None]
    return (1 - amount / 2) * pixels + amount * ridges * tint


def _fog(pixels: Tensor, amount: float, generator: Generator) -> Tensor:
    """Clouds as bright as the brightest pixel."""
    top = pixels.amax((1, 2, 3), keepdim=True)
    return (pixels + amount * _clouds(pixels, generator, 2.0)) * top / (top + amount)


def _brightness(pixels: Tensor, amount: float, generator: Generator) -> Tensor:
    """A higher value in HSV, with the same hue and saturation."""
    value = pixels.amax(1, keepdim=True)
    lit = (value + amount).clamp(max=1)
    return torch.where(value > 0, pixels * lit / value.clamp(min=1e-6), lit)


def _contrast(pixels: Tensor, factor: float, generator: Generator) -> Tensor:
    mean = pixels.mean((2, 3), keepdim=True)
    return mean + factor * (pixels - mean)


def _elastic_transform(pixels: Tensor, amount: float, generator: Generator) -> Tensor:
    count, _, height, width = pixels.shape
    frequency = _frequencies(height, width) * min(height, width)
    field = _spectral(2 * count, (height, width), (-0.06 * frequency.square()).exp(), generator)
    field = field / field.square().mean((1, 2), keepdim=True).sqrt()
    return _warped(pixels, torch.eye(2, 3), field.view(count, 2, height, width).permute(0, 2, 3, 1) * 2 * amount)


def _pixelate(pixels: Tensor, share: float, generator: Generator) -> Tensor:
    def pixelated(image: Image.Image) -> Image.Image:
        smaller = [max(1, int(side * share)) for side in image.size]
        return image.resize((smaller[0], smaller[1]), Image.Resampling.BOX).resize(image.size, Image.Resampling.BOX)

    return _by_pillow(pixels, pixelated)


def _jpeg_compression(pixels: Tensor, quality: float, generator: Generator) -> Tensor:
    def compressed(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=round(quality))
        return Image.open(file)

    return _by_pillow(pixels, compressed)


def _by_pillow(pixels: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    """Each image changed as one of Pillow."""
    changed, height, width = [], *pixels.shape[2:]
    # Pillow takes grey images without an axis of channels.
    for image in (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1).squeeze(3):
        read = torch.from_numpy(np.array(change(Image.fromarray(image.numpy()))))
        changed.append(read.view(height, width, -1).permute(2, 0, 1).float() / 255)
    return torch.stack(changed)


def _around(reach: int) -> tuple[Tensor, Tensor]:
    """The row and column offsets of a square kernel from its centre."""
    places = torch.arange(-reach, reach + 1, dtype=torch.float32)
    return places[:, None], places[None, :]


def _lines(length: float, angles: Tensor) -> Tensor:
    """A kernel for each angle: a line one pixel wide."""
    rows, columns = _around(ceil(length / 2))
    sine, cosine = angles.sin()[:, None, None], angles.cos()[:, None, None]
    along = (rows * sine + columns * cosine).clamp(-length / 2, length / 2)
    away = ((rows - along * sine).square() + (columns - along * cosine).square()).sqrt()
    return (1 - away).clamp(min=0)


def _filtered(pixels: Tensor, kernels: Tensor) -> Tensor:
    """Each image filtered with its own kernel; borders are repeated."""
    count, channels, height, _ = pixels.shape
    reach = kernels.shape[-1] // 2
    padded = F.pad(pixels, [reach] * 4, mode="replicate").view(1, count * channels, height + 2 * reach, -1)
    weights = (kernels / kernels.sum((1, 2), keepdim=True)).repeat_interleave(channels, 0)[:, None]
    return F.conv2d(padded, weights, groups=count * channels).view_as(pixels)


def _warped(pixels: Tensor, matrix: Tensor, away: Tensor | float = 0) -> Tensor:
    """Each image sampled at the places of an affine map, displaced further by `away`."""
    matrices = matrix.expand(len(pixels), -1, -1)
    places = F.affine_grid(matrices, list(pixels.shape), align_corners=False) + away
    return F.grid_sample(pixels, places, mode="bilinear", padding_mode="reflection", align_corners=False)


def _clouds(pixels: Tensor, generator: Generator, steepness: float) -> Tensor:
    """A random field from 0 to 1 for each image, with a power law spectrum."""
    count, _, height, width = pixels.shape
    frequency = _frequencies(height, width)
    fading = torch.where(frequency > 0, frequency.clamp(min=1e-6) ** -steepness, 0)
    field = _spectral(count, (height, width), fading, generator)[:, None]
    low, high = field.amin((2, 3), keepdim=True), field.amax((2, 3), keepdim=True)
    scaled: Tensor = (field - low) / (high - low)
    return scaled


def _frequencies(height: int, width: int) -> Tensor:
    """Cycles per pixel of each bin of `rfft2`."""
    rows, columns = torch.fft.fftfreq(height), torch.fft.rfftfreq(width)
    frequency: Tensor = (rows[:, None].square() + columns.square()).sqrt()
    return frequency


def _spectral(count: int, size: tuple[int, int], transfer: Tensor, generator: Generator) -> Tensor:
    noise = torch.randn(count, *size, generator=generator)
    field: Tensor = torch.fft.irfft2(torch.fft.rfft2(noise) * transfer, s=size)
    return field


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": Corruption(family="noise", amounts=(0.04, 0.06, 0.08, 0.09, 0.10), apply=_gaussian_noise),
    "shot_noise": Corruption(family="noise", amounts=(500, 250, 100, 75, 50), apply=_shot_noise),
    "impulse_noise": Corruption(family="noise", amounts=(0.01, 0.02, 0.03, 0.05, 0.07), apply=_impulse_noise),
    "defocus_blur": Corruption(family="blur", amounts=(0.024, 0.030, 0.037, 0.046, 0.058), apply=_defocus_blur),
    "glass_blur": Corruption(family="blur", amounts=(0.010, 0.013, 0.016, 0.020, 0.025), apply=_glass_blur),
    "motion_blur": Corruption(family="blur", amounts=(0.07, 0.10, 0.13, 0.17, 0.22), apply=_motion_blur),
    "zoom_blur": Corruption(family="blur", amounts=(0.08, 0.12, 0.17, 0.23, 0.30), apply=_zoom_blur),
    "snow": Corruption(family="weather", amounts=(0.15, 0.23, 0.31, 0.40, 0.50), apply=_snow),
    "frost": Corruption(family="weather", amounts=(0.25, 0.35, 0.45, 0.55, 0.65), apply=_frost),
    "fog": Corruption(family="weather", amounts=(0.2, 0.5, 0.8, 1.2, 1.8), apply=_fog),
    "brightness": Corruption(family="weather", amounts=(0.05, 0.10, 0.15, 0.20, 0.30), apply=_brightness),
    "contrast": Corruption(family="digital", amounts=(0.75, 0.50, 0.40, 0.30, 0.15), apply=_contrast),
    "elastic_transform": Corruption(
        family="digital", amounts=(0.012, 0.02, 0.03, 0.042, 0.056), apply=_elastic_transform
    ),
    "pixelate": Corruption(family="digital", amounts=(0.95, 0.90, 0.85, 0.75, 0.65), apply=_pixelate),
    "jpeg_compression": Corruption(family="digital", amounts=(80, 65, 58, 50, 40), apply=_jpeg_compression),
}
"""By the names of the published files, in the order of the published tables."""
