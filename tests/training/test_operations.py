"""Each operation gives the pixels that timm gives by way of Pillow: equal in every one."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment
from torch import Tensor

from buildup.training import operations
from buildup.training.randaugment import BILINEAR, CHOICES, PIXELS, Choice

FILL = (129, 124, 112)
SIZE = 24


def pictures() -> Tensor:
    """Noise, smooth shades, few colours, and one colour alone: what makes histograms odd."""
    draws = np.random.RandomState(0)
    noise = draws.randint(0, 256, (12, 3, SIZE, SIZE))
    shades = np.cumsum(draws.randint(-3, 4, (12, 3, SIZE, SIZE)), axis=3) + 128
    few = draws.choice([3, 90, 200], (4, 3, SIZE, SIZE))
    flat = np.broadcast_to(draws.randint(0, 256, (4, 3, 1, 1)), (4, 3, SIZE, SIZE))
    return torch.from_numpy(np.concatenate([noise, shades, few, flat]).clip(0, 255).astype(np.uint8))


def by_timm(image: Tensor, name: str, arguments: list[float], resample: Image.Resampling) -> Tensor:
    given = Image.fromarray(image.permute(1, 2, 0).numpy())
    operate: Any = auto_augment.NAME_TO_OP[name]
    changed: Image.Image = operate(given, *arguments, fillcolor=FILL, resample=resample)
    return torch.from_numpy(np.array(changed)).permute(2, 0, 1)


def levels_of(choice: Choice, count: int) -> Any:
    # Below a quarter, posterize leaves no bit, and Pillow refuses that.
    return np.random.RandomState(1).uniform(0.25, 1, count)


def timm_arguments(choice: Choice, level: float, sign: float, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    monkeypatch.setattr(auto_augment, "_randomly_negate", lambda value: value * sign)
    made: Callable[..., tuple[float]] | None = auto_augment.LEVEL_TO_ARG[choice.name]
    return list(made(10 * level, {})) if made else []


@pytest.mark.parametrize("bicubic", [False, True])
@pytest.mark.parametrize("choice", CHOICES, ids=[choice.name for choice in CHOICES])
def test_pixels_equal_those_of_timm(choice: Choice, bicubic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    images = pictures()
    levels = levels_of(choice, len(images))
    signs = np.where(np.arange(len(images)) % 2, 1.0, -1.0)
    arguments = torch.from_numpy(np.asarray(choice.arguments(levels, signs, SIZE)))
    if choice.operation == BILINEAR:
        found = operations.affine(images, arguments, bicubic=bicubic, fill=FILL)
    else:
        found = PIXELS[choice.operation](images, arguments)
    resample = Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR
    expected = torch.stack([
        by_timm(image, choice.name, timm_arguments(choice, level, sign, monkeypatch), resample)
        for image, level, sign in zip(images, levels, signs, strict=True)
    ])  # fmt: skip
    assert torch.equal(found, expected)


def test_a_grey_image_is_treated_as_the_grey_of_a_coloured_one() -> None:
    grey = pictures()[:, :1]
    arguments = torch.full((len(grey), 1), 0.7, dtype=torch.float64)
    for operation in (operations.color, operations.contrast, operations.equalize, operations.sharpness):
        coloured = operation(grey.expand(-1, 3, -1, -1), arguments)
        assert torch.equal(operation(grey, arguments), coloured[:, :1])
