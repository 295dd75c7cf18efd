"""timm's RandAugment and torchvision's colour jitter, drawn for a whole epoch and applied to batches on their device.

An image gets a few operations one after the other. What each gets is a `Layer`: known on the host, so images that get
the same operation are put side by side and treated together, and nothing waits for the device.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from buildup.training import operations
from buildup.training.augmentation import Augmentation, Change, EpochImages, send
from buildup.training.draws import Floats, Whole
from buildup.training.recipe import RandAugment

PROBABILITY = 0.5
"""An operation that was drawn for an image is carried out with this probability."""
LEVELS = 10.0
"""The highest magnitude."""
KEEP = -1
"""What stands for no operation."""

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
"""What changes pixels where they are; moving them comes after, in two interpolations."""
BILINEAR, BICUBIC = len(PIXELS), len(PIXELS) + 1
ARGUMENTS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One operation for each image of an epoch, in the order in which they are trained on."""

    operation: Whole
    """Its place among the operations; `KEEP` for none."""
    arguments: Floats
    """Images x 6: one number for most operations, the matrix for those that move pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One entry of timm's list: what it is called there, and what a magnitude means for it."""

    name: str
    operation: int
    """`BILINEAR` for all that move pixels; half of them become bicubic."""
    arguments: Callable[[Floats, Floats, int], Floats]
    """Levels from 0 to 1, signs and image size to arguments, images x 1 or x 6."""


def rand_augment(draws: np.random.RandomState, images: int, size: int, settings: RandAugment) -> tuple[Layer, ...]:
    """What RandAugment does to each image of an epoch."""
    return tuple(_layer(draws, images, size, settings) for _ in range(settings.layers))


def colour_jitter(draws: np.random.RandomState, images: int, strength: float) -> tuple[Layer, ...]:
    """Brightness, contrast and saturation of each image, in random order, each by a factor within 1 +- strength."""
    kinds = np.array([PIXELS.index(each) for each in (operations.brightness, operations.contrast, operations.color)])
    order = draws.random_sample((images, 3)).argsort(axis=1)
    factors = draws.uniform(max(0.0, 1 - strength), 1 + strength, size=(3, images, 1))
    return tuple(
        Layer(operation=kinds[order[:, index]], arguments=_padded(factors[index])) for index in range(len(kinds))
    )


def operate(images: Tensor, layer: Layer, positions: slice, fill: tuple[int, ...]) -> Tensor:
    """Images of these positions in their epoch, each after its operation."""
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


def _layer(draws: np.random.RandomState, images: int, size: int, settings: RandAugment) -> Layer:
    chosen = draws.randint(len(CHOICES), size=images)
    applied = draws.random_sample(images) <= PROBABILITY
    levels = draws.normal(settings.magnitude, settings.std, size=images).clip(0, LEVELS) / LEVELS
    signs = np.where(draws.random_sample(images) > 0.5, -1.0, 1.0)
    bicubic = draws.randint(2, size=images)
    operation, arguments = np.full(images, KEEP), np.zeros((images, ARGUMENTS))
    for index, choice in enumerate(CHOICES):
        its = np.flatnonzero(applied & (chosen == index))
        moves = choice.operation == BILINEAR
        operation[its] = choice.operation + (bicubic[its] if moves else 0)
        arguments[its] = _padded(choice.arguments(levels[its], signs[its], size))
    return Layer(operation=operation, arguments=arguments)


def _padded(arguments: Floats) -> Floats:
    return np.pad(arguments, ((0, 0), (0, ARGUMENTS - arguments.shape[1])))


def _none(level: Floats, sign: Floats, size: int) -> Floats:
    return np.zeros((len(level), 1))


def _whole(level: Floats, sign: Floats, size: int, *, scale: int, most: int) -> Floats:
    return np.trunc(level * scale).clip(max=most)[:, None]


def _factor(level: Floats, sign: Floats, size: int) -> Floats:
    return (level * 1.8 + 0.1)[:, None]


def _rotate(level: Floats, sign: Floats, size: int) -> Floats:
    angle = -np.radians(level * 30.0 * sign)
    cosine, sine = np.cos(angle), np.sin(angle)
    middle = size / 2
    return _matrix(
        cosine, sine, middle - middle * cosine - middle * sine, -sine, cosine, middle + middle * sine - middle * cosine
    )


def _shear_x(level: Floats, sign: Floats, size: int) -> Floats:
    return _matrix(1, level * 0.3 * sign, 0, 0, 1, 0)


def _shear_y(level: Floats, sign: Floats, size: int) -> Floats:
    return _matrix(1, 0, 0, level * 0.3 * sign, 1, 0)


def _translate_x(level: Floats, sign: Floats, size: int) -> Floats:
    return _matrix(1, 0, level * 0.45 * sign * size, 0, 1, 0)


def _translate_y(level: Floats, sign: Floats, size: int) -> Floats:
    return _matrix(1, 0, 0, 0, 1, level * 0.45 * sign * size)


def _matrix(*entries: Floats | int) -> Floats:
    return np.stack(np.broadcast_arrays(*entries), axis=-1).astype(np.float64)


CHOICES = (
    Choice(name="AutoContrast", operation=PIXELS.index(operations.auto_contrast), arguments=_none),
    Choice(name="Equalize", operation=PIXELS.index(operations.equalize), arguments=_none),
    Choice(name="Invert", operation=PIXELS.index(operations.invert), arguments=_none),
    Choice(name="Rotate", operation=BILINEAR, arguments=_rotate),
    Choice(
        name="Posterize",
        operation=PIXELS.index(operations.posterize),
        arguments=partial(_whole, scale=4, most=4),
    ),
    Choice(
        name="Solarize",
        operation=PIXELS.index(operations.solarize),
        arguments=partial(_whole, scale=256, most=256),
    ),
    Choice(
        name="SolarizeAdd",
        operation=PIXELS.index(operations.solarize_add),
        arguments=partial(_whole, scale=110, most=128),
    ),
    Choice(name="Color", operation=PIXELS.index(operations.color), arguments=_factor),
    Choice(name="Contrast", operation=PIXELS.index(operations.contrast), arguments=_factor),
    Choice(name="Brightness", operation=PIXELS.index(operations.brightness), arguments=_factor),
    Choice(name="Sharpness", operation=PIXELS.index(operations.sharpness), arguments=_factor),
    Choice(name="ShearX", operation=BILINEAR, arguments=_shear_x),
    Choice(name="ShearY", operation=BILINEAR, arguments=_shear_y),
    Choice(name="TranslateXRel", operation=BILINEAR, arguments=_translate_x),
    Choice(name="TranslateYRel", operation=BILINEAR, arguments=_translate_y),
)
"""timm's list for `rand-...` without `inc1`: most get stronger with the magnitude, posterize and solarize weaker."""


def _operations(layers: tuple[Layer, ...], seen: EpochImages) -> Change:
    # As timm's own training transform has it: what comes in from outside has the mean colour.
    fill = tuple(min(255, round(255 * value)) for value in seen.mean)

    def change(images: Tensor, here: slice) -> Tensor:
        for layer in layers:
            images = operate(images, layer, here, fill)
        return images

    return change


def _rand_augment(setting: RandAugment, seen: EpochImages) -> Change:
    return _operations(rand_augment(seen.draws("randaugment"), seen.count, seen.size, setting), seen)


def _colour_jitter(strength: float, seen: EpochImages) -> Change:
    return _operations(colour_jitter(seen.draws("jitter"), seen.count, strength), seen)


RANDAUGMENT = Augmentation(name="randaugment", draw=_rand_augment, sees="pixels")
COLOUR_JITTER = Augmentation(name="colour_jitter", draw=_colour_jitter, sees="pixels")
