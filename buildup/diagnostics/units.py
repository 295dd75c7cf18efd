"""A model as a sequence of units: stem, one unit per residual sum, subsampling layers, head.

    >>> import timm, torch
    >>> model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=1)
    >>> [(unit.name, unit.kind, unit.size) for unit in find_units(model, torch.zeros(1, 3, 32, 32))]
    ... # doctest: +NORMALIZE_WHITESPACE
    [('stem', 'stem', (4, 4)), ('blocks.0.attn', 'msa', (4, 4)), ('blocks.0.mlp', 'mlp', (4, 4)),
     ('head', 'head', None)]

No family of models is known by name. A unit ends at a tensor that all of the computation passes through (`flow.py`), so
the units in sequence are the model: what follows a unit depends on the image only through that unit's output.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import gcd, isqrt, prod
from typing import Literal

import networkx as nx
import torch
from torch import Tensor, nn

from buildup.diagnostics.flow import Flow, UnitEnd, find_unit_ends, spatial_convs, trace_flow
from buildup.diagnostics.hooks import intercept
from buildup.errors import BaseError
from buildup.models.trace import Node, Site, evaluation_mode

UnitKind = Literal["stem", "conv", "msa", "mlp", "smoothing", "other", "subsampling", "head"]

ATTENTION = frozenset(("scaled_dot_product_attention", "multi_head_attention_forward"))
PRODUCTS = frozenset(("matmul", "__matmul__", "bmm", "baddbmm", "einsum"))
LAST_AXIS = frozenset(("linear", "layer_norm", "rms_norm"))
"""Functions that read channels from the last axis."""
NEAR = 0.3
"""How far from a change its largest effect may be, as a share of the image's side."""
MAX_PREFIX = 16
"""The most class, distillation and register tokens that may precede those of the map."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a tensor holds maps."""

    order: Literal["nchw", "nhwc", "tokens", "none"]
    size: tuple[int, int] | None = None
    """Height and width of the maps; None without maps."""
    prefix: int = 0
    """The number of tokens before those of the map."""

    @property
    def pixels(self) -> int:
        """Height times width; 0 without maps."""
        return prod(self.size or (0,))


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A part of a model that ends where all of its computation is one tensor."""

    index: int
    name: str
    """A path in timm's model, or `stem` and `head`."""
    kind: UnitKind
    stage: int
    """0 for the stem, then one more with each lower resolution."""
    subsamples: bool
    """Whether its maps are smaller than those before it."""
    site: Site
    """Where its output is observed."""
    layout: Layout
    channels: int
    join: Site | None = None
    """The sum of its branch and its shortcut; None where it has none."""
    skip: int = 0
    """Which operand of that sum is the shortcut."""
    convs: tuple[str, ...] = ()
    """Its spatial convolutions in the order in which they run."""

    @property
    def size(self) -> tuple[int, int] | None:
        return self.layout.size

    def as_map(self, output: Tensor) -> Tensor | None:
        """A view of its output: images x channels x height x width, no class tokens. None where it holds no maps."""
        match self.layout.order:
            case "nchw":
                return output
            case "nhwc":
                return output.permute(0, 3, 1, 2)
            case "tokens":
                assert self.layout.size is not None
                tokens = output[:, self.layout.prefix :].transpose(1, 2)
                return tokens.view(*tokens.shape[:2], *self.layout.size)
            case "none":
                return None


OnOutput = Callable[[Unit, Tensor], None]
"""Receives a unit and its output, which later units may overwrite. Copy what is to be kept."""


def find_units(model: nn.Module, image: Tensor) -> tuple[Unit, ...]:
    """The units of a model for images like this one (1 x channels x height x width), whose content doesn't matter.

    The model may be any that turns images into one tensor of logits. Its mode and weights stay as they are.
    """
    with evaluation_mode(model):
        # With two images, the axis of images can be told from others of length 1.
        flow = trace_flow(model, image[:1].expand(2, -1, -1, -1))
    size = (image.shape[2], image.shape[3])
    ends = find_unit_ends(flow)
    if not ends:
        raise BaseError(
            f"{type(model).__name__} has no convolution, residual sum or concatenation that all of it goes through."
        )
    units = tuple(_units(flow, ends, size))
    for order in ("tokens", "nhwc"):
        first = next((unit for unit in units if unit.layout.order == order), None)
        if first and not image.is_meta and not _is_in_rows(model, first, image):
            none = Layout(order="none")
            units = tuple(replace(unit, layout=none) if unit.layout.order == order else unit for unit in units)
    return units


def _is_in_rows(model: nn.Module, unit: Unit, image: Tensor) -> bool:
    """Whether the maps of a unit are in the order of the pixels, row by row: a change is seen where it was made."""
    height, width = image.shape[2:]
    places = [(y, x) for y in (0.2, 0.8) for x in (0.2, 0.8)]
    changed = torch.zeros_like(image[:1]).repeat(1 + len(places), 1, 1, 1)
    reach = max(1, min(height, width) // 16)
    for number, (y, x) in enumerate(places, 1):
        row, column = int(y * height), int(x * width)
        changed[number, :, max(0, row - reach) : row + reach, max(0, column - reach) : column + reach] = 1
    maps = unit.as_map(unit_outputs(model, [unit], changed)[0])
    assert maps is not None
    seen = (maps[1:] - maps[:1]).square().sum(1).flatten(1).argmax(1)
    found = [(int(at) // maps.shape[3] / maps.shape[2], int(at) % maps.shape[3] / maps.shape[3]) for at in seen]
    near = [abs(y - row) < NEAR and abs(x - column) < NEAR for (y, x), (row, column) in zip(places, found, strict=True)]
    return sum(near) > len(places) / 2


def watch_units(model: nn.Module, units: Sequence[Unit], images: Tensor, on_output: OnOutput) -> None:
    """Run a model in evaluation mode and call `on_output` with the output of each unit."""

    def action(unit: Unit) -> Callable[[Tensor, object], None]:
        return lambda output, _: on_output(unit, output)

    actions = {unit.site: action(unit) for unit in units}
    with torch.no_grad(), evaluation_mode(model), intercept(model, actions):
        model(images)


def unit_outputs(model: nn.Module, units: Sequence[Unit], images: Tensor) -> tuple[Tensor, ...]:
    """Copies of the outputs of units for images, in evaluation mode."""
    found: dict[int, Tensor] = {}

    def keep(unit: Unit, output: Tensor) -> None:
        found[unit.index] = output.clone()

    watch_units(model, units, images, keep)
    return tuple(found[unit.index] for unit in units)


def _units(flow: Flow, ends: list[UnitEnd], image: tuple[int, int]) -> Iterator[Unit]:
    # For each node that modules return, the path of the outermost of them that runs once.
    called, modules = Counter(run.path for run in flow.runs), dict[int, str]()
    for run in sorted(flow.runs, key=lambda run: (run.path.count("."), run.path)):
        is_named = run.path and called[run.path] == 1 and not isinstance(run.module, nn.Identity)
        if run.output_node is not None and is_named:
            modules.setdefault(run.output_node, run.path)

    def site_of(node: Node) -> Site:
        """Inside of a module that runs several times, only the calls of the whole model tell them apart."""
        return Site(path="", call=node.before) if called[node.site.path] > 1 else node.site

    several = Counter(end.owner for end in ends)
    last, area, stage = 0, image[0] * image[1], 0
    layout = Layout(order="none")
    for index, (number, kind, end) in enumerate(_plan(flow, ends, image)):
        nodes, node = flow.between(last, number), flow.nodes[number]
        layout = find_layout(flow, number, image, layout)
        pixels = layout.pixels or area
        subsamples = kind not in ("stem", "head") and pixels < area
        stage += 1 if subsamples or stage == 0 < index else 0
        shape = node.shape or ()
        join = end.join if end and end.join and flow.is_sum(end.join) else None
        skip = 0
        if join is not None:
            # The shortcut is the operand that fewer calls of this unit contribute to.
            first, second = (
                sum(call > last for call in {operand} | nx.ancestors(flow.graph, operand))
                for operand in flow.nodes[join].parents
            )
            skip = 0 if first <= second else 1
        yield Unit(
            index=index,
            name=kind if kind in ("stem", "head") else _name(nodes, end, several),
            kind=kind or _kind(nodes),
            stage=stage,
            subsamples=subsamples,
            site=Site(path=modules[number]) if number in modules else site_of(node),
            layout=layout,
            channels=shape[1] if layout.order == "nchw" else shape[-1] if shape else 0,
            join=site_of(flow.nodes[join]) if join is not None else None,
            skip=skip,
            convs=spatial_convs(nodes),
        )
        last, area = number, pixels


def _plan(flow: Flow, ends: list[UnitEnd], image: tuple[int, int]) -> list[tuple[int, UnitKind | None, UnitEnd | None]]:
    """The node at which each unit ends, its kind where that is known, and its end unless it lies between two blocks."""
    planned: list[tuple[int, UnitKind | None, UnitEnd | None]] = []
    at = 0
    for end in ends:
        if end.at <= at:
            continue
        if end.start > at:
            if not planned:
                planned.append((end.start, "stem", None))
            elif find_layout(flow, end.start, image).pixels < find_layout(flow, at, image).pixels:
                planned.append((end.start, "subsampling", None))
        planned.append((end.at, None, end))
        at = end.at
    if at != flow.end:
        planned.append((flow.end, "head", None))
    return planned


def _name(nodes: tuple[Node, ...], end: UnitEnd | None, several: Counter[str]) -> str:
    """The path of a block; for a part of a block, the path of the module with most of its calls."""
    if end is None:
        # Between blocks: the module around the first convolution or linear layer.
        for node in nodes:
            if node.function == "linear" or node.function.startswith("conv"):
                return node.modules[-1].rpartition(".")[0] or node.modules[-1]
        return nodes[0].modules[-1]
    if several[end.owner] == 1 and end.owner:
        return end.owner
    depth = end.owner.count(".") + 2 if end.owner else 1
    children = Counter(".".join(node.modules[-1].split(".")[:depth]) for node in nodes if node.modules[-1] != end.owner)
    return children.most_common(1)[0][0] if children else end.owner


def _kind(nodes: tuple[Node, ...]) -> UnitKind:
    names = [node.function for node in nodes]
    if ATTENTION.intersection(names):
        return "msa"
    if "softmax" in names and PRODUCTS.intersection(names[names.index("softmax") :]):
        return "msa"
    if spatial_convs(nodes):
        return "conv"
    has_weights = any(name == "linear" or name.startswith("conv") for name in names) or PRODUCTS.intersection(names)
    if has_weights:
        return "mlp"
    return "smoothing" if "avg_pool2d" in names else "other"


def find_layout(flow: Flow, number: int, image: tuple[int, int], before: Layout | None = None) -> Layout:
    """The layout of a call's result. Where both orders fit, it is that of the unit before, if that has one."""
    shape = flow.nodes[number].shape or ()
    if len(shape) not in (3, 4) or shape[0] != (flow.nodes[0].shape or ())[0]:
        return Layout(order="none")
    if len(shape) == 3:
        return _token_layout(flow, number, shape[1], image)
    first, last = shape[1:3], shape[2:4]
    # Whether a function that reads channels from the last axis uses the result or made it.
    related = [flow.nodes[number], *(flow.nodes[parent] for parent in flow.nodes[number].parents)]
    related += [node for node in flow.nodes if number in node.parents]
    is_last = any(node.function in LAST_AXIS for node in related)
    if before is not None and before.order in ("nchw", "nhwc"):
        is_last = before.order == "nhwc"
    if _has_ratio(first, image) and (not _has_ratio(last, image) or is_last):
        return Layout(order="nhwc", size=(first[0], first[1]))
    # Neither fits images x windows x tokens x channels.
    return Layout(order="nchw", size=(last[0], last[1])) if _has_ratio(last, image) else Layout(order="none")


def _token_layout(flow: Flow, number: int, tokens: int, image: tuple[int, int]) -> Layout:
    """Tokens of the last map before them, or of the largest map in the proportions of the image."""
    sizes = []
    for node in flow.nodes[number::-1]:
        if len(node.shape or ()) == 4 and (node.function.startswith("conv") or "pool" in node.function):
            assert node.shape is not None
            sizes.append((node.shape[2], node.shape[3]))
            break
    factor = gcd(*image)
    high, wide = image[0] // factor, image[1] // factor
    times = isqrt(tokens // (high * wide))
    sizes.append((high * times, wide * times))
    for size in sizes:
        prefix = tokens - prod(size)
        if size[0] and 0 <= prefix <= min(MAX_PREFIX, prod(size)):
            return Layout(order="tokens", size=size, prefix=prefix)
    return Layout(order="none")


def _has_ratio(sides: tuple[int, ...], image: tuple[int, int]) -> bool:
    """Whether two sides are those of a smaller image of the same proportions, each rounded by up to a pixel."""
    (high, wide), (tall, broad) = sides, image
    return high <= tall and wide <= broad and abs(high * broad - wide * tall) <= max(tall, broad) // 2
