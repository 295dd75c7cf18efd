"""What an augmentation is: drawn for an epoch on the host, carried out on batches where they lie.

A recipe turns one on by a setting of its name: `erasing: 0.25`, or below `augmentations:` where `Recipe` has no such
field.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from buildup.errors import RecipeError
from buildup.registry import Registry
from buildup.training.draws import stream

Change = Callable[[Tensor, slice], Tensor]
"""Images with their positions in the epoch to the same images changed."""


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

    def draws(self, purpose: str) -> np.random.RandomState:
        """The stream of one purpose, the same whatever else is drawn."""
        return stream(self.seed, self.epoch, purpose)

    def send(self, drawn: NDArray[Any]) -> Tensor:
        """What was drawn, on the device of the images."""
        return send(torch.from_numpy(drawn), self.device)


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """A change of single images."""

    name: str
    draw: Callable[[Any, EpochImages], Change | None]
    """From its setting in the recipe; None where nothing would change."""
    sees: Literal["pixels", "normalised"] = "normalised"
    """Pixels are uint8, and only sets that lie in memory have them: others are changed by timm's transforms."""
    check: Callable[[object], str | None] = lambda setting: None
    """What is wrong with a setting, as in "is -1; a probability is needed."."""


AUGMENTATIONS = Registry[Augmentation]("augmentation", group="buildup.augmentations", error=RecipeError)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device, without waiting for what the device does now."""
    if device.type != "cuda":
        # MPS has no float64.
        return tensor.float().to(device) if device.type == "mps" and tensor.is_floating_point() else tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
