"""timm's RandAugment and torchvision's colour jitter, drawn for a whole epoch and applied to batches on their device.

Each image gets a few operations one after the other. A `Layer` has one operation for each image. It is drawn on the
host, so images with the same operation are grouped without waiting for the device.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from buildup.training import operations
from buildup.training.augmentation import Augmentation, Change, EpochImages, Floats, Integers, send
from buildup.training.recipe import RandAugment

PROBABILITY = 0.5
"""A drawn operation is applied with this probability."""
LEVELS = 10.0
"""The highest magnitude."""
KEEP = -1
"""The operation number of images that stay as they are."""

PIXELS = (
    operations.auto_contrast,
    operations.equalize,
    operations.invert,
    operations.posterize,
    operations.solarize,
    operations.solarize_add,
    operations.color,
    operations.contrast,
    operations.brightness,
    operations.sharpness,
)
"""The operations that change pixels in place. Affine operations follow, in two interpolations."""
BILINEAR, BICUBIC = len(PIXELS), len(PIXELS) + 1
ARGUMENTS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One operation for each image of an epoch, in the order in which they are trained on."""

    operation: Integers
    """The number of the operation; `KEEP` for none."""
    arguments: Floats
    """Images x 6: one number for most operations, the matrix for affine ones."""


def rand_augment(rng: np.random.RandomState, images: int, size: int, settings: RandAugment) -> tuple[Layer, ...]:
    layers = []
    for _ in range(settings.layers):
        chosen = rng.randint(len(CHOICES), size=images)
        applied = rng.random_sample(images) <= PROBABILITY
        levels = rng.normal(settings.magnitude, settings.std, size=images).clip(0, LEVELS) / LEVELS
        signs = np.where(rng.random_sample(images) > 0.5, -1.0, 1.0)
        bicubic = rng.randint(2, size=images)
        operation, arguments = np.full(images, KEEP), np.zeros((images, ARGUMENTS))
        for index, choice in enumerate(CHOICES):
            its = np.flatnonzero(applied & (chosen == index))
            operation[its] = choice.operation + (bicubic[its] if choice.operation == BILINEAR else 0)
            arguments[its] = _padded(choice.arguments(levels[its], signs[its], size))
        layers.append(Layer(operation=operation, arguments=arguments))
    return tuple(layers)


def colour_jitter(rng: np.random.RandomState, images: int, strength: float) -> tuple[Layer, ...]:
    """Draw changes of brightness, contrast and saturation, in random order, by factors within 1 +- strength."""
    kinds = np.array([PIXELS.index(each) for each in (operations.brightness, operations.contrast, operations.color)])
    order = rng.random_sample((images, 3)).argsort(axis=1)
    factors = rng.uniform(max(0.0, 1 - strength), 1 + strength, size=(3, images, 1))
    return tuple(
        Layer(operation=kinds[order[:, index]], arguments=_padded(factors[index])) for index in range(len(kinds))
    )


def operate(images: Tensor, layer: Layer, positions: slice, fill: tuple[int, ...]) -> Tensor:
    chosen = layer.operation[positions]
    order = chosen.argsort(kind="stable")
    counts = np.bincount(chosen - KEEP, minlength=len(PIXELS) + 3).tolist()
    arguments = send(torch.from_numpy(layer.arguments[positions][order]), images.device)
    parts = torch.split(images[send(torch.from_numpy(order), images.device)], counts)
    moves = [partial(operations.affine, bicubic=bicubic, fill=fill) for bicubic in (False, True)]
    every: list[operations.Operation] = [*PIXELS, *moves]
    done = [
        operation(part, numbers)
        for operation, part, numbers in zip(every, parts[1:], torch.split(arguments, counts)[1:], strict=True)
        if len(part)
    ]
    return torch.cat([parts[0], *done])[send(torch.from_numpy(order.argsort()), images.device)]


def _padded(arguments: Floats) -> Floats:
    return np.pad(arguments, ((0, 0), (0, ARGUMENTS - arguments.shape[1])))


def _factor(levels: Floats, signs: Floats, size: int) -> Floats:
    return (levels * 1.8 + 0.1)[:, None]


def _integer(levels: Floats, signs: Floats, size: int, *, scale: int, most: int) -> Floats:
    return np.trunc(levels * scale).clip(max=most)[:, None]


def _matrix(*entries: Floats | int) -> Floats:
    return np.stack(np.broadcast_arrays(*entries), axis=-1).astype(np.float64)


def _rotation(levels: Floats, signs: Floats, size: int) -> Floats:
    angle = -np.radians(levels * 30.0 * signs)
    cosine, sine = np.cos(angle), np.sin(angle)
    middle = size / 2
    return _matrix(
        cosine, sine, middle - middle * cosine - middle * sine, -sine, cosine, middle + middle * sine - middle * cosine
    )


@dataclass(frozen=True, slots=True)
class Choice:
    """One entry of timm's list: its name there, and the meaning of a magnitude."""

    name: str
    operation: int
    """`BILINEAR` for affine ones; half of them become bicubic."""
    arguments: Callable[[Floats, Floats, int], Floats] = _factor
    """Computes arguments, images x 1 or x 6, from levels from 0 to 1, signs and the image size."""


CHOICES = (
    Choice("AutoContrast", PIXELS.index(operations.auto_contrast)),
    Choice("Equalize", PIXELS.index(operations.equalize)),
    Choice("Invert", PIXELS.index(operations.invert)),
    Choice("Rotate", BILINEAR, _rotation),
    Choice("Posterize", PIXELS.index(operations.posterize), partial(_integer, scale=4, most=4)),
    Choice("Solarize", PIXELS.index(operations.solarize), partial(_integer, scale=256, most=256)),
    Choice("SolarizeAdd", PIXELS.index(operations.solarize_add), partial(_integer, scale=110, most=128)),
    Choice("Color", PIXELS.index(operations.color)),
    Choice("Contrast", PIXELS.index(operations.contrast)),
    Choice("Brightness", PIXELS.index(operations.brightness)),
    Choice("Sharpness", PIXELS.index(operations.sharpness)),
    Choice("ShearX", BILINEAR, lambda levels, signs, size: _matrix(1, levels * 0.3 * signs, 0, 0, 1, 0)),
    Choice("ShearY", BILINEAR, lambda levels, signs, size: _matrix(1, 0, 0, levels * 0.3 * signs, 1, 0)),
    Choice("TranslateXRel", BILINEAR, lambda levels, signs, size: _matrix(1, 0, levels * 0.45 * signs * size, 0, 1, 0)),
    Choice("TranslateYRel", BILINEAR, lambda levels, signs, size: _matrix(1, 0, 0, 0, 1, levels * 0.45 * signs * size)),
)
"""timm's list for `rand-...` without `inc1`: with the magnitude most get stronger, posterize and solarize weaker."""


def _apply_layers(layers: tuple[Layer, ...], epoch: EpochImages) -> Change:
    # As in timm's training transform, pixels from outside of the image get the mean colour.
    fill = tuple(min(255, round(255 * value)) for value in epoch.mean)
    layers = tuple(
        Layer(operation=epoch.own(layer.operation), arguments=epoch.own(layer.arguments)) for layer in layers
    )

    def change(images: Tensor, positions: slice) -> Tensor:
        for layer in layers:
            images = operate(images, layer, positions, fill)
        return images

    return change


RANDAUGMENT = Augmentation(
    name="randaugment",
    draw=lambda setting, epoch: _apply_layers(
        rand_augment(epoch.draws("randaugment"), epoch.count, epoch.size, setting), epoch
    ),
    sees="pixels",
)
COLOUR_JITTER = Augmentation(
    name="colour_jitter",
    draw=lambda strength, epoch: _apply_layers(colour_jitter(epoch.draws("jitter"), epoch.count, strength), epoch),
    sees="pixels",
)
