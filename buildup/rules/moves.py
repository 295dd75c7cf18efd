"""What a space allows on a network: where the search starts, and which single steps it may take."""

from dataclasses import dataclass, replace

from buildup.errors import SpaceError
from buildup.graph.edit import Append, apply
from buildup.graph.kinds import Kind, LocalAttention
from buildup.graph.network import Network, Stage
from buildup.space.schema import SearchSpace, StageSpace

LARGEST_WINDOW = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One place where a block may be replaced, and by what."""

    path: str
    kind: Kind


def start(base: Network, space: SearchSpace) -> Network:
    """The base as the space wants it: stages with fewer blocks than asked for get more of the base's own.

    All problems of a space with this base are raised at once.
    """
    if problems := _misfits(base, space):
        raise SpaceError(*problems)
    network = base
    for stage, wish in zip(base.stages, space.stages or (), strict=False):
        for _ in range((wish.blocks or len(stage.blocks)) - len(stage.blocks)):
            network = apply(network, Append(stage=stage.name))
    return network


def moves(network: Network, space: SearchSpace) -> tuple[tuple[Move, ...], ...]:
    """The places of each stage in the order of the rule: from its end backwards, stage by stage from first to last.

    >>> from buildup.graph.network import sketch
    >>> [[move.path for move in stage] for stage in moves(sketch("CCC|CCCC"), SearchSpace(name="s", description=""))]
    [['c1.2'], ['c2.3', 'c2.1']]
    """
    return tuple(_moves_in(network, number, space) for number in range(len(network.stages)))


def window_for(size: tuple[int, int]) -> int:
    """The window of a map: 7 where it divides the map, else the largest divisor up to 7, else 7 with padding.

    >>> [window_for((side, side)) for side in (56, 32, 8, 4, 10, 13, 11)]
    [7, 4, 4, 4, 5, 7, 7]
    """
    if min(size) <= LARGEST_WINDOW:
        return min(size)
    dividing = [window for window in range(LARGEST_WINDOW, 1, -1) if all(side % window == 0 for side in size)]
    return dividing[0] if dividing else LARGEST_WINDOW


def _moves_in(network: Network, number: int, space: SearchSpace) -> tuple[Move, ...]:
    stage, wish = network.stages[number], _wish(space, number)
    if max(stage.size) == 1:
        return ()  # one point has no other to attend to
    heads = wish.heads or space.heads * 2**number
    window = wish.window or (window_for(stage.size) if space.window == "auto" else space.window)
    kind = LocalAttention(heads=heads, head_size=space.head_size, window=window)
    places = [Move(path=stage.blocks[index].path, kind=kind) for index in stage.positions(space.step)]
    return tuple(places[: wish.max_replaced])


def _wish(space: SearchSpace, number: int) -> StageSpace:
    return space.stages[number] if space.stages else StageSpace()


def _misfits(base: Network, space: SearchSpace) -> list[str]:
    problems = []
    if space.stages is not None and len(space.stages) != len(base.stages):
        problems.append(
            f"space {space.name}: stages has {len(space.stages)} entries, "
            f"but {base.base} has {len(base.stages)} stages."
        )
        return problems
    for number, stage in enumerate(base.stages):
        problems += [f"space {space.name}: {problem}" for problem in _stage_misfits(base, stage, number, space)]
    if not problems and not any(moves(base, space)):
        problems.append(
            f"space {space.name}: no block of {base.base} can be replaced at {base.input_shape[1:]} pixels."
        )
    return problems


def _stage_misfits(base: Network, stage: Stage, number: int, space: SearchSpace) -> list[str]:
    problems, wish = [], _wish(space, number)
    depth = wish.blocks or len(stage.blocks)
    if depth < len(stage.blocks):
        problems.append(
            f"stages[{number}].blocks is {depth}, but {stage.name} of {base.base} has {len(stage.blocks)} blocks. "
            "Blocks can be added, not taken away."
        )
    room = len(range(depth - 1, 0, -space.step))
    if wish.max_replaced is not None and wish.max_replaced > room:
        problems.append(
            f"stages[{number}].max_replaced is {wish.max_replaced}, but {stage.name} of {base.base} "
            f"has {depth} blocks, of which {room} can be replaced. Use 0 to {room}, or leave it out to allow them all."
        )
    window = wish.window or (None if space.window == "auto" else space.window)
    if window is not None and window > min(stage.size) and room and wish.max_replaced != 0:
        height, width = stage.size
        problems.append(
            f"window {window} is larger than the {height}x{width} map of {stage.name} of {base.base}. "
            f"Use at most {min(stage.size)} there (stages[{number}].window), or window: auto."
        )
    return problems


def with_look_ahead(space: SearchSpace) -> SearchSpace:
    """The same space with the paper's one look-ahead a stage."""
    return replace(space, look_ahead=max(1, space.look_ahead))
