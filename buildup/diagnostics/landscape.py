"""The loss around trained weights, along two random directions that are scaled like the weights (paper.md 8.2).

A direction has the shape of every weight with at least two axes; biases and norms stay, and so do tables of positions.
In the published normalisation each output filter of a direction has the length of the same filter of the weights. The
two directions are orthogonal filter by filter, so both have these lengths exactly.

Every point sees the same images with the same augmentation, so points differ by their weights alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from buildup.diagnostics.hooks import evaluating

Scaling = Literal["filter", "column"]
Decay = Literal["square", "norms"]
Direction = Mapping[str, Tensor]
Batch = tuple[Tensor, Tensor]

TABLES = ("pos_embed", "position_bias", "relative_position", "rel_pos")
"""Parts of the names of tables of positions, which are no filters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """The loss at one place; x and y are multiples of the two directions, and not weights."""

    x: float
    y: float
    nll: float
    """The cross-entropy with the targets that the images came with; inf or nan where the model breaks down."""
    accuracy: float
    """In percent, by the likeliest class of each target."""
    decay: float
    """What weight decay adds, for a factor of 1."""

    def loss(self, weight_decay: float) -> float:
        """The objective: cross-entropy and weight decay."""
        return self.nll + weight_decay * self.decay


def directions(
    model: nn.Module, *, seed: int = 0, scaling: Scaling = "filter", orthogonal: bool = True
) -> tuple[Direction, Direction]:
    """Two random directions.

    Args:
        model: whose weights they are scaled like.
        seed: Of the draws, which are made on the CPU in the order of the weights.
        scaling: `filter` as published. In the reference code's `column`, what has the length of the weights is not an
            output filter but what all filters have at one place of their input.
        orthogonal: Otherwise they are nearly so, as in the reference code.
    """
    generator = torch.Generator().manual_seed(seed)
    found: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
    for name, weight in model.named_parameters():
        if weight.ndim < 2 or any(table in name for table in TABLES):
            continue
        rows = _rows(weight.detach().double(), scaling)
        one, other = (
            _rows(torch.randn(weight.shape, generator=generator, dtype=torch.float64).to(weight.device), scaling)
            for _ in range(2)
        )
        one = _scaled(one, rows)
        if orthogonal:
            along = (one * other).sum(1, keepdim=True) / one.square().sum(1, keepdim=True).clamp(min=1e-300)
            # What has one element has no direction beside its own.
            other = other - along * one if rows.shape[1] > 1 else torch.zeros_like(other)
        other = _scaled(other, rows)
        for direction, part in zip(found, (one, other), strict=True):
            direction[name] = _back(part, weight, scaling).to(weight.dtype)
    return found


def landscape(
    model: nn.Module,
    batches: Sequence[Batch],
    places: Sequence[tuple[float, float]],
    towards: tuple[Direction, Direction],
    *,
    decay: Decay = "square",
) -> Iterator[Point]:
    """The loss at each place, in their order; what was measured before need not be among them.

    Args:
        model: It runs in evaluation mode; its weights stay as they are.
        batches: Images and soft targets on the model's device, the same for every place.
        places: multiples of the two directions.
        towards: what `directions` gave.
        decay: `square` is half the square of all weights, as weight decay has it. `norms` is the sum over tensors of
            their norms without a square, as in the reference code.
    """
    with torch.no_grad(), evaluating(model):
        forms = _quadratics(model, towards)
        for x, y in places:
            nll, hits = _measured(model, batches, _moved(model, towards, x, y))
            yield Point(x=x, y=y, nll=nll, accuracy=100 * hits, decay=_decay(forms, x, y, decay))


def grid(side: int = 21, reach: float = 1.0) -> tuple[tuple[float, float], ...]:
    """The places of a square grid around the weights, x runs fastest; 21 x 21 up to 1 are the paper's."""
    steps = [0.0] if side == 1 else [round(-reach + 2 * reach * index / (side - 1), 12) for index in range(side)]
    return tuple((x, y) for y in steps for x in steps)


def _measured(model: nn.Module, batches: Sequence[Batch], weights: Mapping[str, Tensor]) -> tuple[float, float]:
    """Cross-entropy and share of hits with other weights."""
    loss, hits, images = 0.0, 0.0, 0
    for inputs, targets in batches:
        # In float64, so that what is large at the border of the picture is not lost in the sum.
        logits = functional_call(model, dict(weights), (inputs,)).double()
        loss += F.cross_entropy(logits, targets.double(), reduction="sum").item()
        hits += (logits.argmax(1) == targets.argmax(1)).sum().item()
        images += len(inputs)
    return loss / images, hits / images


def _moved(model: nn.Module, towards: tuple[Direction, Direction], x: float, y: float) -> dict[str, Tensor]:
    one, other = towards
    return {
        name: weight.detach() + x * one[name] + y * other[name]
        for name, weight in model.named_parameters()
        if name in one
    }


def _quadratics(model: nn.Module, towards: tuple[Direction, Direction]) -> Tensor:
    """For each tensor the coefficients of its squared norm: 1, x, y, xx, xy, yy."""
    one, other = towards
    rows = []
    for name, weight in model.named_parameters():
        w = weight.detach().double()
        a, b = (direction[name].double() if name in direction else torch.zeros_like(w) for direction in (one, other))
        products = (w * w, 2 * w * a, 2 * w * b, a * a, 2 * a * b, b * b)
        rows.append(torch.stack([product.sum() for product in products]).cpu())
    return torch.stack(rows)


def _decay(forms: Tensor, x: float, y: float, decay: Decay) -> float:
    squares = (forms @ torch.tensor([1, x, y, x * x, x * y, y * y], dtype=torch.float64)).clamp(min=0)
    return (squares.sum() / 2 if decay == "square" else squares.sqrt().sum()).item()


def _rows(tensor: Tensor, scaling: Scaling) -> Tensor:
    """What is scaled as one, as the rows of a matrix."""
    flat = tensor.flatten(1)
    return flat if scaling == "filter" else flat.T


def _back(rows: Tensor, like: Tensor, scaling: Scaling) -> Tensor:
    return (rows if scaling == "filter" else rows.T).reshape(like.shape)


def _scaled(rows: Tensor, like: Tensor) -> Tensor:
    lengths = rows.norm(dim=1, keepdim=True)
    return torch.where(lengths > 0, rows * like.norm(dim=1, keepdim=True) / lengths.clamp(min=1e-300), 0)
