"""The loss around trained weights, along two random directions that are scaled like the weights.

A direction covers all weights with at least two axes that are longer than one, except position tables. Biases, norms
and gains stay as they are. Each
output filter of a direction has the norm of the same filter of the weights (filter normalisation). The reference code
scales columns in place of filters: the weights of all outputs for one input. The two directions are orthogonal filter
by filter, or column by column.

The loss is the cross-entropy plus the decay. This is half the squared norm of all weights, as an optimiser with weight
decay has it, or the sum of the norms of all tensors, as in the reference code. There it makes most of the surface.

All points use the same augmented images, so they differ by their weights only. Batch norms keep the statistics of the
trained weights, as in the reference code.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil, nan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from buildup.diagnostics.analysis import Batch, Measurement, PaperClaim, Sizes, Subject
from buildup.diagnostics.figures import Figure, Row, Rows, Table
from buildup.diagnostics.hessian import BATCH
from buildup.models.trace import evaluation_mode
from buildup.training.execution import ieee_float32

Direction = Mapping[str, Tensor]

SCALINGS = {"filter": "filter by filter", "column": "column by column"}
DECAYS = {"squares": "½‖w‖²", "norms": "Σ‖w‖", "none": ""}
HIDDEN_ABOVE = 42.0
"""Cross-entropy with a decay of norms is not drawn where it is higher than this above the minimum, as in the paper."""
MAX_PARALLEL = 16
"""The most points that are measured at once."""
POSITION_TABLES = ("pos_embed", "position_bias", "attention_bias", "relative_position", "rel_pos")
"""Parts of the names of position tables, which are not filters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """The loss at one point. The coordinates x and y are multiples of the two directions."""

    x: float
    y: float
    nll: float
    """The cross-entropy with the targets of the batches; inf or nan where the model breaks down."""
    accuracy: float
    """In percent, for the most probable class of each target."""
    decay: float
    """Half the squared norm of all weights, the sum of the norms of all tensors, or zero."""

    def loss(self, weight_decay: float) -> float:
        return self.nll + weight_decay * self.decay


def directions(model: nn.Module, *, seed: int = 0, scaling: str = "filter") -> tuple[Direction, Direction]:
    """Two random directions, scaled like the weights and orthogonal filter by filter, or column by column.

    The random numbers are drawn on the CPU in the order of the weights.
    """
    generator = torch.Generator().manual_seed(seed)
    found: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
    for name, weight in model.named_parameters():
        if sum(side > 1 for side in weight.shape) < 2 or any(table in name for table in POSITION_TABLES):
            continue
        drawn = [torch.randn(weight.shape, generator=generator, dtype=torch.float64) for _ in range(2)]
        filters, one, other = (part.to(weight.device).flatten(1) for part in (weight.detach().double(), *drawn))
        if scaling == "column":
            filters, one, other = filters.T, one.T, other.T
        one = _scaled(one, filters)
        along = (one * other).sum(1, keepdim=True) / one.square().sum(1, keepdim=True).clamp(min=1e-300)
        # A filter of one element has no orthogonal direction.
        other = other - along * one if filters.shape[1] > 1 else torch.zeros_like(other)
        for direction, part in zip(found, (one, _scaled(other, filters)), strict=True):
            direction[name] = (part.T if scaling == "column" else part).reshape(weight.shape).to(weight.dtype)
    return found


def landscape(
    model: nn.Module,
    batches: Sequence[Batch],
    places: Sequence[tuple[float, float]],
    towards: tuple[Direction, Direction],
    *,
    parallel: int = 1,
    decay: str = "squares",
) -> Iterator[Point]:
    """The loss at each place, in order; the coordinates are multiples of the two directions. Weights stay as they are.

    Args:
        parallel: The number of places that are measured at once. Each needs memory for its own weights.
        decay: One of `DECAYS`.
    """
    own, (one, other) = dict(model.named_parameters()), towards
    device = next(model.parameters()).device
    for some in (places[start : start + parallel] for start in range(0, len(places), parallel)):
        with torch.no_grad(), evaluation_mode(model), ieee_float32(device):
            weights = [
                {name: own[name].detach() + x * one[name] + y * other[name] for name in own if name in one}
                for x, y in some
            ]
            measured = list(_measured(model, batches, weights))
        for (x, y), moved, (nll, hits) in zip(some, weights, measured, strict=True):
            yield Point(x=x, y=y, nll=nll, accuracy=100 * hits, decay=_decay([*(own | moved).values()], decay))


def max_parallel_points(towards: tuple[Direction, Direction], free: float) -> int:
    """The number of points whose weights take at most a quarter of the free memory, in bytes."""
    moved = sum(weight.numel() * weight.element_size() for weight in towards[0].values())
    return max(1, int(min(MAX_PARALLEL, free / 4 / max(1, moved))))


def runs_in_parallel(model: nn.Module, image: Tensor) -> bool:
    """Whether a model runs under vmap. Layers that ask for memory formats, such as our attention, can't."""
    weights = {name: torch.stack([weight.detach()] * 2) for name, weight in model.named_parameters()}
    try:
        with torch.no_grad(), evaluation_mode(model), sdpa_kernel(SDPBackend.MATH):
            torch.vmap(lambda moved: functional_call(model, moved, (image,)))(weights)
    except RuntimeError:
        return False
    return True


def free_memory(device: torch.device) -> float:
    """The free memory in bytes; infinite where the system does not report it."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    table = Path("/proc/meminfo")
    lines = table.read_text(encoding="utf-8").splitlines() if table.is_file() else []
    known = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return 1024 * float(known[0]) if known else float("inf")


def grid(side: int) -> tuple[tuple[float, float], ...]:
    """The places of a square grid from -1 to 1 around the weights; x runs fastest. The paper uses 21 x 21."""
    steps = [0.0] if side == 1 else [round(2 * index / (side - 1) - 1, 12) for index in range(side)]
    return tuple((x, y) for y in steps for x in steps)


class LossLandscape(Measurement):
    """The loss on a grid around the weights. One row per place."""

    name = "landscape"
    title = "Loss around the weights"
    caption = (
        "The loss on augmented training images along two random directions that are scaled like the weights. All "
        "models have one scale. border_rise: the median rise over the minimum at the border; less is flatter."
    )

    claims = (PaperClaim(column="border_rise", words="the rise of the loss at the border", sign=-1),)

    def train_batches(self, sizes: Sizes) -> int:
        return ceil(sizes.landscape_images / BATCH)

    def settings(self, subject: Subject) -> Row:
        return {"scaling": subject.scaling, "decay": subject.decay}

    def work(self, subject: Subject) -> tuple[int, int]:
        batches = subject.train_batches[: self.train_batches(subject.sizes)]
        return subject.sizes.landscape_side**2, sum(len(images) for images, _ in batches)

    def measure(self, subject: Subject, done: Rows) -> Iterator[Rows]:
        left = grid(subject.sizes.landscape_side)[len(done) :]
        towards = directions(subject.model, seed=subject.seed, scaling=subject.scaling)
        # In parallel, convolutions become grouped ones, which are slower on a CPU.
        parallel = max_parallel_points(towards, free_memory(subject.device)) if subject.device.type == "cuda" else 1
        batches = subject.train_batches[: self.train_batches(subject.sizes)]
        if parallel > 1 and not runs_in_parallel(subject.model, batches[0][0][:1]):
            parallel = 1
        made = {"weight_decay": subject.weight_decay, "decay_kind": subject.decay, "scaling": subject.scaling}
        for point in landscape(subject.model, batches, left, towards, parallel=parallel, decay=subject.decay):
            yield [{**asdict(point), "loss": point.loss(subject.weight_decay), **made}]

    def summary(self, rows: Rows) -> Row:
        centre = min(rows, key=lambda row: row["x"] ** 2 + row["y"] ** 2)
        rise = {"border_rise": _border_rise(rows)} if len(rows) > 1 else {}
        return {"centre_nll": centre["nll"], "centre_loss": centre["loss"], **rise, "points": len(rows)}

    def figure(self, tables: Sequence[Table]) -> Figure:
        figure = Figure(figsize=(4.8 * len(tables), 8.2))
        highest = _highest_drawn(tables)
        scale: Any = {"cmap": "viridis", "vmin": 0, "vmax": highest}
        for number, table in enumerate(tables):
            xs, ys, values = _surface(table.rows)
            drawn = np.where(values > highest, nan, values)
            surface: Any = figure.add_subplot(2, len(tables), number + 1, projection="3d")
            surface.plot_surface(*np.meshgrid(xs, ys), drawn, lw=0, antialiased=True, **scale)
            surface.set(xlabel="direction 1", ylabel="direction 2", zlabel="loss above its minimum", title=table.label)
            surface.set_zlim(0, highest)
            surface.set_box_aspect(None, zoom=0.85)  # the default cuts off the label of the third axis
            flat = figure.add_subplot(2, len(tables), len(tables) + number + 1)
            lines = flat.contour(xs, ys, values, levels=np.linspace(0, highest, 11), linewidths=1.1, **scale)
            flat.clabel(lines, list(lines.levels)[::2], fontsize=7, fmt="%.2g")
            flat.plot(0, 0, "+", color="black")
            flat.set(xlabel="multiple of direction 1", ylabel="multiple of direction 2", aspect="equal")
        figure.suptitle(_described(tables, highest), fontsize=8)
        return figure


def _surface(rows: Rows) -> tuple[list[float], list[float], Any]:
    """The coordinates, and the loss above its minimum at each; nan where the model breaks down."""
    xs, ys = (sorted({row[axis] for row in rows}) for axis in "xy")
    values = np.full((len(ys), len(xs)), nan)
    for row in rows:
        values[ys.index(row["y"]), xs.index(row["x"])] = nan if row["loss"] is None else row["loss"]
    values[~np.isfinite(values)] = nan
    return xs, ys, values - (np.nanmin(values) if np.isfinite(values).any() else 0)


def _border_rise(rows: Rows) -> float | None:
    """The median of the loss above its minimum over the border, where it is finite."""
    _, _, values = _surface(rows)
    border = np.concatenate([values[0], values[-1], values[1:-1, 0], values[1:-1, -1]])
    return float(np.nanmedian(border)) if np.isfinite(border).any() else None


def _highest_drawn(tables: Sequence[Table]) -> float:
    """The end of the scale that all models share: twice the rise of the flattest, or the limit of the paper."""
    surfaces = [_surface(table.rows)[2] for table in tables]
    top = max((float(values[np.isfinite(values)].max(initial=0)) for values in surfaces), default=0.0)
    if any(row["decay_kind"] == "norms" for table in tables for row in table.rows):
        limit = HIDDEN_ABOVE
    else:
        limit = 2 * min((rise for table in tables if (rise := _border_rise(table.rows))), default=top)
    return min(top, limit) or 1.0


def _described(tables: Sequence[Table], highest: float) -> str:
    row = tables[0].rows[0]
    rates = ", ".join(dict.fromkeys(f"{row['weight_decay']:g}" for table in tables for row in table.rows[:1]))
    decay = f" + {rates} · {DECAYS[row['decay_kind']]}" if row["decay_kind"] != "none" else ", without decay"
    return (
        f"loss = cross-entropy{decay}; directions scaled like the weights, {SCALINGS[row['scaling']]}\n"
        f"one scale for all; what is more than {highest:.3g} above the minimum is not drawn"
    )


def _measured(
    model: nn.Module, batches: Sequence[Batch], weights: Sequence[dict[str, Tensor]]
) -> list[tuple[float, float]]:
    losses, hits, images = torch.zeros(len(weights)), torch.zeros(len(weights)), 0
    stacked = {name: torch.stack([each[name] for each in weights]) for name in weights[0]} if len(weights) > 1 else {}

    def run(inputs: Tensor) -> Tensor:
        if not stacked:
            alone: Tensor = functional_call(model, weights[0], (inputs,))
            return alone[None]
        # torch's fused attention has no batching rule for vmap.
        with sdpa_kernel(SDPBackend.MATH):
            together: Tensor = torch.vmap(lambda moved: functional_call(model, moved, (inputs,)))(stacked)
        return together

    for inputs, targets in batches:
        # In float64, because losses at the border can be very large.
        logits = run(inputs).to("cpu", torch.float64)
        wanted = targets.to("cpu", torch.float64)
        losses = losses + torch.stack([F.cross_entropy(each, wanted, reduction="sum") for each in logits])
        hits = hits + (logits.argmax(2) == wanted.argmax(1)).sum(1)
        images += len(inputs)
    return list(zip((losses / images).tolist(), (hits / images).tolist(), strict=True))


def _decay(weights: Sequence[Tensor], kind: str) -> float:
    norms = torch.stack([torch.linalg.vector_norm(weight.detach(), dtype=torch.float64) for weight in weights])
    return {"squares": norms.square().sum() / 2, "norms": norms.sum(), "none": torch.zeros(())}[kind].item()


def _scaled(rows: Tensor, like: Tensor) -> Tensor:
    lengths = rows.norm(dim=1, keepdim=True)
    return torch.where(lengths > 0, rows * like.norm(dim=1, keepdim=True) / lengths.clamp(min=1e-300), 0)
