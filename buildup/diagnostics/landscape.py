"""The loss around trained weights, along two random directions that are scaled like the weights (paper.md 8.2).

A direction has the shape of every weight with at least two axes; biases and norms stay, and so do tables of positions.
In the published normalisation each output filter of a direction has the length of the same filter of the weights. The
two directions are orthogonal filter by filter, so both have these lengths exactly.

Every point sees the same images with the same augmentation, so points differ by their weights alone. Batch norms keep
the statistics of the trained weights, as in the reference code, or get those of the point's own weights.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from buildup.diagnostics.hooks import evaluating

Scaling = Literal["filter", "column"]
Decay = Literal["square", "norms"]
Direction = Mapping[str, Tensor]
Batch = tuple[Tensor, Tensor]

TOGETHER = 16
"""Places that run side by side at most."""

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
    together: int = 1,
    restate: bool = False,
) -> Iterator[Point]:
    """The loss at each place, in their order; what was measured before need not be among them.

    Args:
        model: It runs in evaluation mode; its weights stay as they are.
        batches: Images and soft targets on the model's device, the same for every place.
        places: multiples of the two directions.
        towards: what `directions` gave.
        decay: `square` is half the square of all weights, as weight decay has it. `norms` is the sum over tensors of
            their norms without a square, as in the reference code.
        together: How many places run side by side, which takes their weights' memory as often.
        restate: Whether batch norms get the statistics of each place's own weights on these batches, one place at a
            time.
    """
    size = 1 if restate else together
    with torch.no_grad(), evaluating(model):
        forms = _quadratics(model, towards)
        for some in (places[start : start + size] for start in range(0, len(places), size)):
            weights = [_moved(model, towards, x, y) for x, y in some]
            if restate:
                weights[0] |= _restated(model, batches, weights[0])
            found = _measured(model, batches, weights)
            for (x, y), (nll, hits) in zip(some, found, strict=True):
                yield Point(x=x, y=y, nll=nll, accuracy=100 * hits, decay=_decay(forms, x, y, decay))


def room(model: nn.Module, towards: tuple[Direction, Direction], free: float) -> int:
    """How many places may run side by side, so that their weights take a quarter of the free memory at most."""
    moved = sum(weight.numel() * weight.element_size() for weight in towards[0].values())
    return max(1, int(min(TOGETHER, free / 4 / max(1, moved))))


def grid(side: int = 21, reach: float = 1.0) -> tuple[tuple[float, float], ...]:
    """The places of a square grid around the weights, x runs fastest; 21 x 21 up to 1 are the paper's."""
    steps = [0.0] if side == 1 else [round(-reach + 2 * reach * index / (side - 1), 12) for index in range(side)]
    return tuple((x, y) for y in steps for x in steps)


def _measured(
    model: nn.Module, batches: Sequence[Batch], weights: Sequence[dict[str, Tensor]]
) -> list[tuple[float, float]]:
    """Cross-entropy and share of hits with other weights, for each set of them."""
    losses, hits, images = torch.zeros(len(weights)), torch.zeros(len(weights)), 0
    stacked = {name: torch.stack([each[name] for each in weights]) for name in weights[0]} if len(weights) > 1 else {}

    def run(inputs: Tensor) -> Tensor:
        if not stacked:
            alone: Tensor = functional_call(model, weights[0], (inputs,))
            return alone[None]
        # torch's fused attention has no rule for several weights at once.
        with sdpa_kernel(SDPBackend.MATH):
            together: Tensor = torch.vmap(lambda moved: functional_call(model, moved, (inputs,)))(stacked)
        return together

    for inputs, targets in batches:
        # In float64, so that what is large at the border of the picture is not lost in the sum.
        logits = run(inputs).to("cpu", torch.float64)
        wanted = targets.to("cpu", torch.float64)
        losses = losses + torch.stack([F.cross_entropy(each, wanted, reduction="sum") for each in logits])
        hits = hits + (logits.argmax(2) == wanted.argmax(1)).sum(1)
        images += len(inputs)
    return list(zip((losses / images).tolist(), (hits / images).tolist(), strict=True))


def _restated(model: nn.Module, batches: Sequence[Batch], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The statistics of all batch norms with other weights: the mean over batches."""
    norms = dict(_batch_norms(model))
    fresh = {
        f"{path}.{name}": torch.zeros_like(buffer)
        for path, norm in norms.items()
        for name, buffer in norm.named_buffers()
    }
    with _counting(norms.values()):
        for inputs, _ in batches:
            functional_call(model, dict(weights) | fresh, (inputs,))
    return fresh


def _batch_norms(model: nn.Module) -> Iterator[tuple[str, _BatchNorm]]:
    return (
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    )


@contextmanager
def _counting(norms: Iterable[_BatchNorm]) -> Iterator[None]:
    """Inside, batch norms use a batch's own statistics, and keep the mean of those of all batches."""
    before = [(norm, norm.training, norm.momentum) for norm in norms]
    for norm, _, _ in before:
        norm.training, norm.momentum = True, None
    try:
        yield
    finally:
        for norm, training, momentum in before:
            norm.training, norm.momentum = training, momentum


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
