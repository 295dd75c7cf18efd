"""Spatial smoothing: a bounded activation, then a small blur (paper.md 9)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Smoothing2d(nn.Module):
    """ReLU(t * tanh(x / t)), blurred by a binomial filter: the mean of 2 x 2 places, (1, 2, 1) twice for 3 x 3.

    The map keeps its size: its borders are repeated, one place more at the bottom and right where the kernel is even.
    With `borders="grow"` it is surrounded by kernel // 2 zeros, as in the reference code: an even kernel then makes it
    one larger, and its borders darken.

    There is nothing to learn and nothing to store.
    """

    def __init__(self, kernel: int, temperature: float, borders: str) -> None:
        super().__init__()
        self.kernel = kernel
        self.temperature = temperature
        self.grow = borders == "grow"

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape, or one larger."""
        x = F.relu(self.temperature * torch.tanh(x / self.temperature))
        before, after = (self.kernel - 1) // 2, self.kernel // 2
        if self.grow:
            x = F.pad(x, [after, after, after, after])
        else:
            x = F.pad(x, [before, after, before, after], mode="replicate")
        # A binomial filter is the mean of two neighbours, again and again.
        for _ in range(self.kernel - 1):
            x = F.avg_pool2d(x, 2, stride=1)
        return x

    def extra_repr(self) -> str:
        """What `print` shows of it."""
        return f"kernel={self.kernel}, temperature={self.temperature}, borders={'grow' if self.grow else 'replicate'}"
