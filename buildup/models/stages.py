"""Find the stages and blocks of a timm model from its traced dataflow.

A block is the outermost module that gives out a map of its input's shape and is more than a chain of modules: it adds,
concatenates or gates. Modules of the same class that change the shape are blocks, too, and so are modules that stand in
a sequence as deep as blocks do. In a model without such modules, as in VGG, each convolution with its norm and
activation is a block.

A stage is the blocks whose outputs have one size. Its name is the module that timm's `feature_info` has for that size,
or the module around its blocks.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from posixpath import commonpath
from typing import Any

from torch import nn

from buildup.models.trace import Call

SEQUENCES = (nn.Sequential, nn.ModuleList)

UNIT_REDUCTION = 4
"""Where single convolutions are blocks, those at over a quarter of the image's resolution are the stem."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundStage:
    """The calls of the blocks of one stage."""

    name: str
    blocks: tuple[Call, ...]


def find_stages(root: Call) -> tuple[FoundStage, ...]:
    """The stages of a traced model, from the largest maps to the smallest; none if no block can be replaced."""
    for find in (_blocks, _units):
        stages = tuple(_grouped(root, *find(root)))
        if any(obstacle(call) is None for stage in stages for call in stage.blocks[1:]):
            return stages
    return ()


def obstacle(call: Call) -> str | None:
    """Why a block cannot be replaced; None if it can."""
    if not call.keeps_shape:
        return "it changes resolution or width"
    return None if call.num_inputs == 1 else f"it is given {call.num_inputs} things, and other blocks take one map"


DefinesStage = Callable[[Call], bool]
"""Whether a block can define a stage. Other blocks only belong to a stage that there is."""


def _blocks(root: Call) -> tuple[list[Call], DefinesStage]:
    """Blocks that are more than a chain, and modules that stand in sequence with them."""
    kinds = {type(call.module) for call in _outermost(root)}

    def is_kind(call: Call) -> bool:
        return type(call.module) in kinds

    def found(call: Call) -> Iterator[Call]:
        if not call.has_spatial_conv:
            return
        if is_kind(call):
            yield call
            return
        below = [block for inner in call.calls for block in found(inner)]
        in_sequence = call.parent is not None and not isinstance(call.module, SEQUENCES)
        if in_sequence:
            in_sequence = isinstance(root.module.get_submodule(call.path.rpartition(".")[0]), SEQUENCES)
        if any(is_kind(block) for block in below) or not in_sequence:
            yield from below
        else:
            yield call

    return list(found(root)), is_kind


def _outermost(call: Call) -> Iterator[Call]:
    if call.parent is not None and _may_be_block(call) and not _is_container(call):
        yield call
    elif call.has_spatial_conv:
        for inner in call.calls:
            yield from _outermost(inner)


def _may_be_block(call: Call) -> bool:
    return bool(call.calls) and call.has_spatial_conv and call.keeps_shape and not call.is_chain


def _is_container(call: Call) -> bool:
    """Whether a module holds blocks in sequence, or modules of its own class, as the trees of DLA do."""
    own = type(call.module)
    inside = [inner for inner in call.inside if inner is not call]
    above = call.parent
    while above is not None and type(above.module) is not own:
        above = above.parent
    if isinstance(call.module, SEQUENCES) or above is not None or any(type(inner.module) is own for inner in inside):
        return True
    members = {id(child) for module in call.module.modules() if isinstance(module, SEQUENCES) for child in module}
    return any(id(inner.module) in members and _may_be_block(inner) for inner in inside)


def _units(root: Call) -> tuple[list[Call], DefinesStage]:
    """Spatial convolutions, each with its norm and activation."""

    def found(call: Call) -> Iterator[Call]:
        if not call.has_spatial_conv:
            return
        inner = [unit for below in call.calls for unit in found(below)]
        alone = call.is_chain and len(inner) == 1 and inner[0] in call.calls
        if not call.calls or (alone and (call.keeps_shape or not inner[0].keeps_shape)):
            yield call
        else:
            yield from inner

    largest = _side(root.input) // UNIT_REDUCTION
    return [call for call in found(root) if _side(call.output) <= largest], lambda call: call.keeps_shape


def _grouped(root: Call, blocks: list[Call], defines_stage: DefinesStage) -> Iterator[FoundStage]:
    depths = {call.path.count(".") for call in blocks if defines_stage(call) and call.keeps_shape}
    groups: dict[int, list[Call]] = defaultdict(list)
    for call in blocks:
        if call.path.count(".") in depths and call.output is not None:
            groups[_side(call.output)].append(call)
    # The path of the innermost module around all blocks; that of the first block if this is the model itself.
    around = {}
    for side, calls in groups.items():
        parents = [call.path.rpartition(".")[0].replace(".", "/") for call in calls]
        around[side] = commonpath(parents).replace("/", ".") or calls[0].path
    rows: Any = getattr(root.module, "feature_info", None) or ()
    named = {row["reduction"]: row["module"] for row in rows if isinstance(row, dict)}
    for side, calls in sorted(groups.items(), reverse=True):
        name, feature = around[side], ""
        # The module that timm's `feature_info` has for maps of about this size.
        gaps = {reduction: abs(_side(root.input) / reduction - side) for reduction in named}
        nearest = min(gaps, key=gaps.__getitem__, default=None)
        if nearest is not None and gaps[nearest] <= 0.25 * side:
            feature = named[nearest]
        shared = list(around.values()).count(name) > 1
        if feature and (shared or any(call.path.startswith(f"{feature}.") for call in calls)):
            name = feature
        if any(defines_stage(call) for call in calls):
            yield FoundStage(name=name, blocks=tuple(calls))


def _side(tensor: Any) -> int:
    """The height of a map, channels first or last: the image is square, so the axis in the middle is a side."""
    return int(tensor.shape[2])
