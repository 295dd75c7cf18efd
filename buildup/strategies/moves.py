"""The moves that a space allows on a network, and the network that a search starts from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from types import MappingProxyType
from typing import Any

from buildup.errors import LayoutError, SpaceError, counted
from buildup.graph.attention_size import FIRST_HEADS, attention_size, heads_at, window_for
from buildup.graph.kinds import BlockKind, Conv, known_kinds, placed_kind, settings_of
from buildup.graph.layout import layout, parse
from buildup.graph.network import Append, Block, Edit, Network, Stage, apply, next_path, replacement
from buildup.space.schema import SearchSpace


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One change that a search may try: a replaced block, or a block added at the end of a stage."""

    path: str
    kind: BlockKind
    added_to: str | None = None
    """The stage that the block is added to; None if a block is replaced."""
    variants: tuple[BlockKind, ...] = ()
    """The other kinds that the space's `tune` tries there, once this was kept."""

    def edit(self, network: Network) -> Edit:
        if self.added_to is None:
            return replacement(network, self.path, self.kind)
        return Append(stage=self.added_to, kind=self.kind)


def start(base: Network, space: SearchSpace) -> Network:
    """The network that the search starts from: the base, with blocks added where the space asks for more.

    All problems of the space with this base are raised at once.
    """
    if space.stages is not None and len(space.stages) != len(base.stages):
        found = f"stages has {len(space.stages)} entries, but {base.base} has {len(base.stages)} stages."
        raise SpaceError(f"space {space.name}: {found}")
    problems = [
        problem for number, stage in enumerate(base.stages) for problem in _stage_misfits(base, stage, number, space)
    ]
    if isinstance(space.order, tuple) and len(space.order) != len(base.stages):
        found = f"order names {len(space.order)} stages, but {base.base} has {len(base.stages)}"
        problems.append(f"{found}. Name each of them; max_replaced: 0 in stages leaves one alone.")
    sides = [min(stage.size) for number, stage in enumerate(base.stages) if _places(stage, number, space)]
    problems += [
        f"tune.window has {window}, but no map of {base.base} that attention may stand in is larger than {max(sides)}."
        for window in (space.tune.window if space.tune else ())
        if sides and window > max(sides)
    ]
    if problems:
        raise SpaceError(*(f"space {space.name}: {problem}" for problem in problems))
    network = base
    for number, stage in enumerate(base.stages):
        for _ in range((space.stage(number).blocks or len(stage.blocks)) - len(stage.blocks)):
            network = apply(network, Append(stage=stage.name))
    if not any(moves(network, space)):
        height, width = base.input_shape[1:]
        change = "be replaced" if space.place == "replace" else "be followed by one more"
        raise SpaceError(f"space {space.name}: no block of {base.base} can {change} at {height}x{width} pixels.")
    if space.tune and not any(move.variants for stage in moves(network, space) for move in stage):
        raise SpaceError(
            f"space {space.name}: tune tries nothing on {base.base}: where its values fit, they are what the rule puts "
            "there. Name other values, or leave it out."
        )
    return network


def added_blocks(network: Network, space: SearchSpace) -> str | None:
    """Which blocks a space has added to the base that a search starts from; None if it is the base as it is."""
    added = [block.path for block in network.blocks if block.added]
    if not added:
        return None
    shown = f"{', '.join(added[:3])}{', ...' if len(added) > 3 else ''}"
    return (
        f"Space {space.name} changes the base before the search: {counted(len(added), 'more block')} ({shown}), "
        f"so that {network.base} has the layout {layout(network)}."
    )


def moves(network: Network, space: SearchSpace) -> tuple[tuple[Move, ...], ...]:
    """The moves of each stage, from its end backwards; the stages from first to last.

    >>> from buildup.graph.network import sketch
    >>> [[move.path for move in stage] for stage in moves(sketch("CCC|CCCC"), SearchSpace(name="s", description=""))]
    [['c1.2'], ['c2.3', 'c2.1']]
    """
    places = (
        _places(stage, number, space)[: space.stage(number).max_replaced] for number, stage in enumerate(network.stages)
    )
    return tuple(_moves_at(some, network, number, space) for number, some in enumerate(places))


def moves_anywhere(network: Network, space: SearchSpace) -> tuple[tuple[Move, ...], ...]:
    """The moves at every place of each stage that the rule may change, its first block included where shapes allow.

    >>> from buildup.graph.network import sketch
    >>> space = SearchSpace(name="s", description="")
    >>> [[move.path for move in stage] for stage in moves_anywhere(sketch("CCC|CCCC"), space)]
    [['c1.2', 'c1.1'], ['c2.3', 'c2.2', 'c2.1']]
    """
    return tuple(
        _moves_at(stage.replaceable if may else (), network, number, space)
        for number, (stage, may) in enumerate(zip(network.stages, moves(network, space), strict=True))
    )


def from_layout(text: str, base: Network, space: SearchSpace) -> Network:
    """The network of a layout. Its blocks have the settings that a search in the space would give them.

    A layout may name kinds that the space does not try. All problems of the layout are raised at once.

    >>> from buildup.graph.network import sketch
    >>> network = from_layout("CC|CK", sketch("CC|CC"), SearchSpace(name="s", description=""))
    >>> network.block("c2.1").kind
    ConvAttention(heads=24, kernel=3, head_size=64, width=None, borders='masked')
    """
    first = network = start(base, space)
    problems: list[str] = []
    for number, letters in enumerate(parse(text, first, ends=space.place == "end")):
        stage = first.stages[number]
        for index, letter in enumerate(letters):
            added = index == len(stage.blocks)
            if letter == Conv.letter and not added:
                continue
            block = stage.blocks[min(index, len(stage.blocks) - 1)]
            kind = _kind(letter, first, number, block, space)
            move = Move(path=block.path, kind=kind, added_to=stage.name if added else None)
            try:
                network = apply(network, move.edit(network))
            except LayoutError as error:
                problems += [f"layout {text!r}: {problem}" for problem in error.problems]
    if problems:
        raise LayoutError(*problems)
    return network


def _moves_at(places: Sequence[int], network: Network, number: int, space: SearchSpace) -> tuple[Move, ...]:
    stage, added_to = network.stages[number], network.stages[number].name if space.place == "end" else None
    letter = space.stage(number).kind or space.kind
    return tuple(
        Move(
            path=next_path(stage) if added_to else stage.blocks[index].path,
            kind=_kind(letter, network, number, stage.blocks[index], space),
            added_to=added_to,
            variants=tuple(_variants(network, number, stage.blocks[index], space)),
        )
        for index in places
    )


def _variants(network: Network, number: int, block: Block, space: SearchSpace) -> Iterator[BlockKind]:
    """All different combinations of `tune` that fit, without the kind that the rule places."""
    if space.tune is None:
        return
    placed = space.stage(number).kind or space.kind
    seen = {_kind(placed, network, number, block, space)}
    for letter in space.tune.kind or (placed,):
        lists = {
            name: values for name, values in space.tune.settings.items() if name in settings_of(known_kinds()[letter])
        }
        for values in product(*lists.values()):
            asked = dict(zip(lists, values, strict=True))
            if asked.get("window", 1) > min(network.stages[number].size):
                continue
            kind = _kind(letter, network, number, block, space, asked)
            if kind not in seen:
                seen.add(kind)
                yield kind


def left_out(network: Network, space: SearchSpace) -> tuple[str, ...]:
    """Messages on values of `tune` that don't fit everywhere, or that the rule places wherever they fit.

    >>> from buildup.graph.network import sketch
    >>> from buildup.space.schema import Tuning
    >>> left_out(sketch("CC|CC"), SearchSpace(name="s", description="", tune=Tuning(window=(16, 32))))
    ('tune.window 32 is larger than the 16x16 maps of c2, and left out there',)
    """
    if space.tune is None:
        return ()
    of_stage = moves(network, space)
    too_large = (
        f"tune.window {window} is larger than the {stage.size[0]}x{stage.size[1]} maps of {stage.name}, "
        "and left out there"
        for window in space.tune.window
        for stage, places in zip(network.stages, of_stage, strict=True)
        if places and window > min(stage.size)
    )
    tried = [asdict(kind) for places in of_stage for move in places for kind in move.variants]
    never = (
        f"tune.{name} {value} is what the rule puts wherever it fits, so no variant has it"
        for name, values in space.tune.settings.items()
        for value in values
        if not any(one.get(name) == value for one in tried)
    )
    return (*too_large, *never)


def _places(stage: Stage, number: int, space: SearchSpace) -> tuple[int, ...]:
    """The blocks of a stage that can be replaced, in the order of the rule, or the last one if a block can follow."""
    if space.place == "replace":
        return stage.positions(space.step)
    letter = space.stage(number).kind or space.kind
    return () if stage.closed or (stage.is_point and letter != Conv.letter) else (len(stage.blocks) - 1,)


def _kind(
    letter: str,
    network: Network,
    number: int,
    block: Block,
    space: SearchSpace,
    asked: Mapping[str, int] = MappingProxyType({}),
) -> BlockKind:
    """A kind in place of a block or after it, with the requested settings, or else those of the space."""
    wish = asked.get("window") or space.stage(number).window or space.window
    window = window_for(network.stages[number].size) if wish == "auto" else wish
    stages = len(network.stages)
    heads = space.stage(number).heads or (None if space.heads == "auto" else heads_at(space.heads, number, stages))
    size = attention_size(
        block.in_shape[0],
        block.params,
        block.expansion,
        usual_heads=heads_at(FIRST_HEADS, number, stages),
        heads=asked.get("heads", heads),
        head_size=asked.get("head_size", None if space.head_size == "auto" else space.head_size),
    )
    return placed_kind(letter, space.given(letter), {**asdict(size), "window": window})


def _stage_misfits(base: Network, stage: Stage, number: int, space: SearchSpace) -> Iterator[str]:
    wish, owner = space.stage(number), f"{stage.name} of {base.base}"
    depth = wish.blocks or len(stage.blocks)
    if depth < len(stage.blocks):
        yield (
            f"stages[{number}].blocks is {depth}, but {owner} has {len(stage.blocks)} blocks. "
            "Blocks can be added, not taken away."
        )
    if depth > len(stage.blocks) and stage.closed:
        yield f"stages[{number}].blocks is {depth}, but {owner} {stage.closed}. Leave it out."
        return
    deeper = replace(stage, blocks=(*stage.blocks, *[stage.blocks[-1]] * (depth - len(stage.blocks))))
    room = len(_places(deeper, number, space))
    if wish.max_replaced is not None and wish.max_replaced > room:
        change, has = ("replaced", "of which") if space.place == "replace" else ("added at its end", "and of any kind")
        yield (
            f"stages[{number}].max_replaced is {wish.max_replaced}, but {owner} "
            f"has {depth} blocks, {has} {room} can be {change}. Use 0 to {room}, or leave it out to allow them all."
        )
    window = wish.window or space.window
    windowed = "window" in settings_of(known_kinds()[wish.kind or space.kind])
    if windowed and window != "auto" and window > min(stage.size) and room and wish.max_replaced != 0:
        height, width = stage.size
        yield (
            f"window {window} is larger than the {height}x{width} map of {owner}. "
            f"Use at most {min(stage.size)} there (stages[{number}].window), or window: auto."
        )


def steered(space: SearchSpace, *, look_ahead: bool = False, places: str | None = None) -> SearchSpace:
    """`look_ahead` raises the space's look-ahead to at least 1, as in the paper; `places` replaces its places."""
    changed: dict[str, Any] = {"places": places} if places is not None else {}
    return replace(space, look_ahead=max(int(look_ahead), space.look_ahead), **changed)
