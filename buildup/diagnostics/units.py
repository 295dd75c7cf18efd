"""A model as a row of observed units (paper.md 7): stem, one unit a residual sum, what lowers the resolution, head.

    >>> import timm, torch
    >>> model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=1)
    >>> [(unit.name, unit.kind, unit.size) for unit in find_units(model, torch.zeros(1, 3, 32, 32))]
    ... # doctest: +NORMALIZE_WHITESPACE
    [('stem', 'stem', (4, 4)), ('blocks.0.attn', 'msa', (4, 4)), ('blocks.0.mlp', 'mlp', (4, 4)),
     ('head', 'head', None)]

No family of models is known by name. A unit ends at a tensor that all of the computation goes through (`flow.py`), so
the units compose to the model: what follows a unit depends on the image by that unit's output alone.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from buildup.diagnostics.ends import End, convs, find_ends
from buildup.diagnostics.flow import Flow, trace
from buildup.diagnostics.hooks import evaluating
from buildup.diagnostics.tensor_layout import Layout, find_layout, to_map
from buildup.errors import BaseError
from buildup.models.trace import Call, Node, Site

UnitKind = Literal["stem", "conv", "msa", "mlp", "smoothing", "subsampling", "head"]

ATTENTION = frozenset(("scaled_dot_product_attention", "multi_head_attention_forward"))
PRODUCTS = frozenset(("matmul", "__matmul__", "bmm", "baddbmm", "einsum"))


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
    """Where it adds its branch to what goes around it; None where it is a chain."""
    skip: int = 0
    """Which operand of that sum goes around the branch."""
    convs: tuple[str, ...] = ()
    """Its convolutions that look around, in the order in which they run."""

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of its maps; None where it gives out none."""
        return self.layout.size

    def as_map(self, output: Tensor) -> Tensor | None:
        """Its output as images x channels x height x width, class tokens dropped."""
        return to_map(output, self.layout)


def find_units(model: nn.Module, image: Tensor) -> tuple[Unit, ...]:
    """The units of a model for images of a shape; mode and weights stay as they are.

    Args:
        model: Any that turns images into one tensor of logits.
        image: One image as the model takes it (1 x channels x height x width), of any content.

    Raises:
        BaseError: Nothing in it is a unit.
    """
    with evaluating(model):
        # Two, so that what mixes images into one another is told from what does not.
        flow = trace(model, image[:1].expand(2, -1, -1, -1))
    size = (image.shape[2], image.shape[3])
    ends = find_ends(flow)
    if not ends:
        raise BaseError(
            f"{type(model).__name__} has no convolution, residual sum or concatenation that all of it goes through."
        )
    return tuple(_units(flow, ends, size))


def _units(flow: Flow, ends: list[End], size: tuple[int, int]) -> Iterator[Unit]:
    called = Counter(run.path for run in flow.runs)
    outputs: dict[int, list[Call]] = {}
    for run in flow.runs:
        if (
            run.output_node is not None
            and called[run.path] == 1
            and run.path
            and not isinstance(run.module, nn.Identity)
        ):
            outputs.setdefault(run.output_node, []).append(run)
    several = Counter(end.owner for end in ends)
    planned: list[tuple[int, UnitKind | None, End | None]] = []
    at = 0
    for end in ends:
        if end.at <= at:
            continue
        if end.start > at:
            layout, before = find_layout(flow, end.start, size), find_layout(flow, at, size)
            lower = _pixels(layout) < _pixels(before)
            if not planned:
                planned.append((end.start, "stem", None))
            elif lower:
                planned.append((end.start, "subsampling", None))
        planned.append((end.at, None, end))
        at = end.at
    if at != flow.end:
        planned.append((flow.end, "head", None))
    last, area, stage = 0, size[0] * size[1], 0
    layout = Layout(order="none")
    for index, (number, kind, made) in enumerate(planned):
        nodes = flow.between(last, number)
        layout = find_layout(flow, number, size, layout)
        pixels = _pixels(layout) if layout.size else area
        lower = kind not in ("stem", "head") and pixels < area
        stage += 1 if lower or stage == 0 < index else 0
        shape = flow.nodes[number].shape or ()
        join = made.join if made and made.join and flow.is_sum(made.join) else None
        yield Unit(
            index=index,
            name=kind if kind in ("stem", "head") else _name(flow, nodes, made, several),
            kind=kind or _kind(nodes),
            stage=stage,
            subsamples=lower,
            site=_site(flow.nodes[number], outputs),
            layout=layout,
            channels=layout.channels(shape),
            join=flow.nodes[join].site if join is not None else None,
            skip=_skip(flow, join, last) if join is not None else 0,
            convs=convs(nodes),
        )
        last, area = number, pixels


def _pixels(layout: Layout) -> int:
    return layout.size[0] * layout.size[1] if layout.size else 0


def _site(node: Node, outputs: dict[int, list[Call]]) -> Site:
    """The module that gives the result out, the largest of them; else the call itself."""
    modules = sorted((run.path.count("."), run.path) for run in outputs.get(node.number, []))
    return Site(path=modules[0][1]) if modules else node.site


def _skip(flow: Flow, join: int, since: int) -> int:
    first, second = flow.nodes[join].parents
    return 0 if flow.weight(first, since) <= flow.weight(second, since) else 1


def _name(flow: Flow, nodes: tuple[Node, ...], end: End | None, several: Counter[str]) -> str:
    """The path of a block; of a part of one, that of the module which does most of it."""
    if end is not None and several[end.owner] == 1 and end.owner:
        return end.owner
    if end is None:
        return _subsampler(nodes)
    depth = end.owner.count(".") + 2 if end.owner else 1
    children = Counter(".".join(node.modules[-1].split(".")[:depth]) for node in nodes if node.modules[-1] != end.owner)
    return children.most_common(1)[0][0] if children else end.owner


def _subsampler(nodes: tuple[Node, ...]) -> str:
    """The module around the first convolution or linear layer; where there is none, the first module."""
    for node in nodes:
        if node.function == "linear" or node.function.startswith("conv"):
            return node.modules[-1].rpartition(".")[0] or node.modules[-1]
    return nodes[0].modules[-1]


def _kind(nodes: tuple[Node, ...]) -> UnitKind:
    names = [node.function for node in nodes]
    if ATTENTION.intersection(names):
        return "msa"
    if "softmax" in names and PRODUCTS.intersection(names[names.index("softmax") :]):
        return "msa"
    if convs(nodes):
        return "conv"
    weighs = any(name == "linear" or name.startswith("conv") for name in names) or PRODUCTS.intersection(names)
    return "smoothing" if "avg_pool2d" in names and not weighs else "mlp"
