"""The loss around trained weights, along two random directions that are scaled like the weights (paper.md 8.2).

A direction has the shape of every weight with at least two axes; biases and norms stay, and so do tables of positions.
In the published normalisation each output filter of a direction has the length of the same filter of the weights. The
two directions are orthogonal filter by filter, so both have these lengths exactly.

Every point sees the same images with the same augmentation, so points differ by their weights alone. Batch norms keep
the statistics of the trained weights, as in the reference code, or get those of the point's own weights.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import ceil, nan
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from buildup.diagnostics.analysis import Batch, Measurement, Sizes, Subject
from buildup.diagnostics.figures import Figure, Row, Rows, Table
from buildup.diagnostics.hessian import BATCH
from buildup.diagnostics.hooks import evaluating
from buildup.diagnostics.memory import free_memory

Scaling = Literal["filter", "column"]
Decay = Literal["square", "norms"]
Direction = Mapping[str, Tensor]

HIDDEN_ABOVE = 42.0
"""Above its minimum, a landscape is not drawn any more, as in the paper."""

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


class LossLandscape(Measurement):
    """The loss on a grid around the weights."""

    name = "landscape"
    title = "Loss around the weights"
    words = "Cross-entropy on augmented training images along two random directions that are scaled like the filters."

    def train_batches(self, sizes: Sizes) -> int:
        """Those that every place is measured on."""
        return ceil(sizes.landscape_images / BATCH)

    def work(self, subject: Subject) -> tuple[int, int]:
        """A part a place."""
        return subject.sizes.landscape_side**2, sum(len(images) for images, _ in _shown(subject))

    def measure(self, subject: Subject, done: Rows) -> Iterator[Rows]:
        """One row a place."""
        left = grid(subject.sizes.landscape_side)[len(done) :]
        towards = directions(subject.model, seed=subject.seed)
        device = next(subject.model.parameters()).device
        # On a CPU one after the other is faster: side by side, convolutions become grouped ones.
        together = room(subject.model, towards, free_memory(device)) if device.type == "cuda" else 1
        batches, restate = _shown(subject), subject.restate
        for point in landscape(subject.model, batches, left, towards, together=together, restate=restate):
            yield [{**asdict(point), "loss": point.loss(subject.weight_decay)}]

    def summary(self, rows: Rows) -> Row:
        """The loss of the weights themselves."""
        centre = min(rows, key=lambda row: row["x"] ** 2 + row["y"] ** 2)
        return {"centre_nll": centre["nll"], "centre_loss": centre["loss"], "points": len(rows)}

    def figure(self, tables: Sequence[Table]) -> Figure:
        figure = Figure(figsize=(4.8 * len(tables), 7.8))
        for number, table in enumerate(tables):
            xs, ys = (sorted({row[axis] for row in table.rows}) for axis in "xy")
            values = np.full((len(ys), len(xs)), nan)
            for row in table.rows:
                values[ys.index(row["y"]), xs.index(row["x"])] = nan if row["nll"] is None else row["nll"]
            values = values - np.nanmin(values)
            values[values > HIDDEN_ABOVE] = nan
            surface: Any = figure.add_subplot(2, len(tables), number + 1, projection="3d")
            surface.plot_surface(*np.meshgrid(xs, ys), values, cmap="viridis", lw=0, antialiased=True)
            surface.set(xlabel="direction 1", ylabel="direction 2", zlabel="NLL above its minimum", title=table.label)
            surface.set_box_aspect(None, zoom=0.85)  # or the label of the third axis is cut off
            flat = figure.add_subplot(2, len(tables), len(tables) + number + 1)
            lines = flat.contour(xs, ys, values, levels=10, cmap="viridis", linewidths=1.1)
            flat.clabel(lines, list(lines.levels)[::2], fontsize=7)
            flat.plot(0, 0, "+", color="black")
            flat.set(xlabel="multiple of direction 1", ylabel="multiple of direction 2", aspect="equal")
        return figure


LANDSCAPE = LossLandscape()


def _shown(subject: Subject) -> tuple[Batch, ...]:
    return subject.train_batches[: LANDSCAPE.train_batches(subject.sizes)]


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
