"""Where the stages of a timm model are, and which modules are their blocks: found from what the model does.

A block is the outermost module that gives out a map of the shape that it takes, and does more than hand it through a
chain: it adds, concatenates or gates. Modules of the same class that change the shape are blocks, too, and so are
modules that stand in a sequence as deep as blocks do. Where no module is like that, as in VGG, single convolutions
with their norm and activation are the blocks.

A stage is the blocks that give out maps of one size. It has the name that timm's table of features gives to that
size, or that of the module around its blocks.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from torch import nn

from buildup.models.trace import Call

SEQUENCES = (nn.Sequential, nn.ModuleList)

LARGEST_UNIT = 4
"""Where single convolutions are blocks, those at over a quarter of the picture's resolution are its stem."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundStage:
    """The calls of the blocks of one stage."""

    name: str
    blocks: tuple[Call, ...]


def find_stages(root: Call) -> tuple[FoundStage, ...]:
    """The stages of a traced model, from the largest maps to the smallest; none where nothing can be replaced."""
    for find in (_blocks, _units):
        stages = tuple(_grouped(root, *find(root)))
        if any(obstacle(call) is None for stage in stages for call in stage.blocks[1:]):
            return stages
    return ()


def obstacle(call: Call) -> str | None:
    """Why nothing can take a block's place; None where something can."""
    if not call.keeps_shape:
        return "it changes resolution or width"
    return None if call.given == 1 else f"it is given {call.given} things, and other blocks take one map"


Counts = Callable[[Call], bool]
"""Whether a block is of the sort that makes a stage, and not only stands beside such blocks."""


def _blocks(root: Call) -> tuple[list[Call], Counts]:
    """Blocks that are more than a chain."""
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
        if any(is_kind(block) for block in below) or not _stands_in_sequence(root, call):
            yield from below
        else:
            yield call

    return list(found(root)), is_kind


def _outermost(call: Call) -> Iterator[Call]:
    if not call.has_spatial_conv:
        return
    if call.parent is not None and call.calls and call.keeps_shape and not call.is_chain and not _is_container(call):
        yield call
        return
    for inner in call.calls:
        yield from _outermost(inner)


def _is_container(call: Call) -> bool:
    """Whether a module holds blocks in sequence, or modules of its own class, as the trees of DLA do."""
    if isinstance(call.module, SEQUENCES):
        return True
    own = type(call.module)
    inside = [inner for inner in call.inside if inner is not call]
    if any(type(other.module) is own for other in (*inside, *call.above)):
        return True
    members = {id(child) for module in call.module.modules() if isinstance(module, SEQUENCES) for child in module}
    return any(
        id(inner.module) in members
        and inner.calls
        and inner.has_spatial_conv
        and inner.keeps_shape
        and not inner.is_chain
        for inner in inside
    )


def _stands_in_sequence(root: Call, call: Call) -> bool:
    if call.parent is None or isinstance(call.module, SEQUENCES):
        return False
    return isinstance(root.module.get_submodule(call.path.rpartition(".")[0]), SEQUENCES)


def _units(root: Call) -> tuple[list[Call], Counts]:
    """Convolutions that look around, each with the norm and the activation that belong to it."""

    def found(call: Call) -> Iterator[Call]:
        if not call.has_spatial_conv:
            return
        inner = [unit for below in call.calls for unit in found(below)]
        alone = call.is_chain and len(inner) == 1 and inner[0] in call.calls
        if not call.calls or (alone and (call.keeps_shape or not inner[0].keeps_shape)):
            yield call
        else:
            yield from inner

    largest = _side(root.inputs_of) // LARGEST_UNIT
    return [call for call in found(root) if _side(call.outputs_of) <= largest], lambda call: call.keeps_shape


def _grouped(root: Call, blocks: list[Call], counts: Counts) -> Iterator[FoundStage]:
    depths = {call.path.count(".") for call in blocks if counts(call) and call.keeps_shape}
    groups: dict[int, list[Call]] = defaultdict(list)
    for call in blocks:
        if call.path.count(".") in depths and call.outputs_of is not None:
            groups[_side(call.outputs_of)].append(call)
    around = {side: _around(calls) for side, calls in groups.items()}
    for side, calls in sorted(groups.items(), reverse=True):
        name, row = around[side], _row(root, side)
        shared = list(around.values()).count(name) > 1
        if row and (shared or any(call.path.startswith(f"{row}.") for call in calls)):
            name = row
        if any(counts(call) for call in calls):
            yield FoundStage(name=name, blocks=tuple(calls))


def _row(root: Call, side: int) -> str:
    """The module that timm's table of features names for maps of a size, which it tells as a part of the picture's."""
    rows: Any = getattr(root.module, "feature_info", None) or ()
    named = {row["reduction"]: row["module"] for row in rows if isinstance(row, dict)}
    sizes = {reduction: abs(_side(root.inputs_of) / reduction - side) for reduction in named}
    nearest = min(sizes, key=sizes.__getitem__, default=None)
    return named[nearest] if nearest is not None and sizes[nearest] <= 0.25 * side else ""


def _around(calls: list[Call]) -> str:
    """The path of the module around all blocks, or that of the first block where there is none."""
    parents = [call.path.split(".")[:-1] for call in calls]
    shared = [names[0] for names in takewhile(lambda names: len(set(names)) == 1, zip(*parents, strict=False))]
    return ".".join(shared) or calls[0].path


def _side(tensor: Any) -> int:
    """The height of a map, wherever its channels are: maps are square here, and a height stands in the middle."""
    return int(tensor.shape[2])
