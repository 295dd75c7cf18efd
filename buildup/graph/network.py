"""A network: an immutable staged graph of blocks, independent of torch.

    >>> network = sketch("CC|CCM")
    >>> [stage.name for stage in network.stages]
    ['c1', 'c2']
    >>> network.block("c2.2").kind.letter
    'M'

Nodes are named by their timm path (`layer4.2`), so that they can be pasted into other code. `stem` and `head` are the
two ends. An edge leads from a block to the block that reads its output.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from buildup.errors import LayoutError
from buildup.graph.attention_size import FIRST_HEADS, attention_size, heads_at, window_for
from buildup.graph.base_name import base_text
from buildup.graph.kinds import BlockKind, Conv, describe, known_kinds, placed_kind

if TYPE_CHECKING:
    import networkx as nx

Shape = tuple[int, int, int]
"""Channels, height, width."""

Stem = Literal["base", "small"]

Shrink = Literal["3x3", "stride 1", "none"]
"""What a small stem makes of a module: a 3x3 convolution of stride 1, the same module with stride 1, or nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Norm:
    """A normalisation layer, without its number of channels."""

    kind: Literal["batch", "group", "layer", "rms", "frn"]
    eps: float
    momentum: float | None = None
    groups: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockStyle:
    """How a block of the base is built, as far as its replacement follows it.

    It is read once from the base and stored with the network, so that later versions build the same network. Paths are
    timm's own, relative to the block; empty where the block has no such part.
    """

    order: Literal["pre", "post"]
    """Whether norms and activations stand before the convolutions or after them."""
    norm: Norm
    act: str = ""
    """The activation after the sum."""
    drop_path: str = ""
    scale: str = ""
    """The weights that scale the residual branch (layer scale)."""
    standardised: float | None = None
    """The eps of weight-standardised convolutions; None where the base has none."""
    channels_last: bool = False
    """Whether the block takes maps as height, width, channels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One node between stem and head."""

    path: str
    """Its timm path: `layer4.2`, `stages.3.blocks.2`."""
    kind: BlockKind = field(default_factory=Conv)
    module: str = "Block"
    """The class of the base's own block at this place."""
    in_shape: Shape
    out_shape: Shape
    added: bool = False
    """Whether it was added at the end of its stage, so that the base has no such block."""
    params: int | None = None
    """Parameters of the base's own block, which set the size of a replacement; None where unknown."""
    expansion: int | None = None
    """The paper's attention reads a ResNet block's channels divided by this: 4 in bottlenecks, 1 in basic blocks."""
    style: BlockStyle | None = None
    """How the base's block is built; None in a sketch."""
    fixed: str = ""
    """Why nothing else can stand here although the shapes would allow it."""

    @property
    def keeps_shape(self) -> bool:
        return self.in_shape == self.out_shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """The blocks at one resolution, in order."""

    name: str
    blocks: tuple[Block, ...]
    grows: bool = True
    """Whether blocks can be added at its end."""

    @property
    def letters(self) -> str:
        return "".join(block.kind.letter for block in self.blocks)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the output maps."""
        return self.blocks[-1].out_shape[1:]

    @property
    def is_point(self) -> bool:
        """Whether its maps have a single position, where attention and averaging do nothing."""
        return max(self.size) == 1

    @property
    def closed(self) -> str | None:
        """Why no block can be added at its end; None where one can."""
        if not self.blocks[-1].keeps_shape:
            return "ends in a block that changes its shape, so no further one can follow it"
        return None if self.grows else "runs just its own blocks, so none can be added"

    def obstacle(self, index: int) -> str | None:
        """Why only the base's own block can stand at a place; None where another kind can."""
        block = self.blocks[index]
        if not block.keeps_shape:
            return f"turns {block.in_shape} into {block.out_shape}: a block that changes resolution or width stays"
        if self.is_point:
            return "sees maps of one point, which has no other to attend to"
        return block.fixed or None

    @property
    def replaceable(self) -> tuple[int, ...]:
        """Where another kind may stand, from the end backwards."""
        return tuple(index for index in reversed(range(len(self.blocks))) if self.obstacle(index) is None)

    def positions(self, step: int = 2) -> tuple[int, ...]:
        """Where the rule may put another kind, in its order: n-1, n-3, ... down to 1.

        Places where only the base's own block can stand are skipped. The rule never replaces a stage's first block.
        """
        found: list[int] = []
        for index in self.replaceable:
            if index and (not found or found[-1] - index >= step):
                found.append(index)
        return tuple(found)


@dataclass(frozen=True, kw_only=True)
class Network:
    """A base with some of its blocks replaced, or blocks added at the ends of its stages."""

    base: str
    base_args: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of timm's `create_model`, as plain values."""
    stem: Stem = "base"
    shrunk: tuple[tuple[str, Shrink], ...] = ()
    """What the small stem changes in the base, by timm path."""
    input_shape: Shape
    num_classes: int
    stages: tuple[Stage, ...]
    edges: tuple[tuple[str, str], ...]

    @property
    def title(self) -> str:
        """The base's name with its arguments, as people write it."""
        return base_text(self.base, self.base_args)

    @property
    def graph(self) -> "nx.DiGraph[str]":
        """The frozen networkx graph, with node attributes `block` and `stage`.

        It is built on each access: it takes 40 KiB for 50 blocks, and a search keeps thousands of networks. networkx
        is loaded by the first access.
        """
        import networkx as nx

        graph: nx.DiGraph[str] = nx.DiGraph(base=self.base, stem=self.stem)
        graph.add_node("stem", block=None, stage=None)
        for stage in self.stages:
            for block in stage.blocks:
                graph.add_node(block.path, block=block, stage=stage.name)
        graph.add_node("head", block=None, stage=None)
        graph.add_edges_from(self.edges)
        assert nx.is_directed_acyclic_graph(graph)
        nx.freeze(graph)
        return graph

    @property
    def blocks(self) -> Iterator[Block]:
        """All blocks, from stem to head."""
        return (block for stage in self.stages for block in stage.blocks)

    @property
    def replaced(self) -> dict[str, BlockKind]:
        """The kinds of all blocks that are not the base's own, by path."""
        return {block.path: block.kind for block in self.blocks if not isinstance(block.kind, Conv)}

    def position(self, path: str) -> tuple[int, int]:
        """The number of the stage that has a block, and the block's number in it."""
        for number, stage in enumerate(self.stages):
            for index, block in enumerate(stage.blocks):
                if block.path == path:
                    return number, index
        raise LayoutError(
            f"{self.base} has no block {path!r}; it has {', '.join(block.path for block in self.blocks)}."
        )

    def block(self, path: str) -> Block:
        """The block at a timm path."""
        number, index = self.position(path)
        return self.stages[number].blocks[index]

    def with_stage(self, index: int, stage: Stage) -> "Network":
        """The same network with one stage changed."""
        return replace(self, stages=(*self.stages[:index], stage, *self.stages[index + 1 :]))

    def replace(self, path: str, kind: BlockKind | str, **settings: Any) -> "Network":
        """The network with another kind of block at a place.

        >>> sketch("CC|CC").replace("c2.1", "M", window=2).block("c2.1").kind
        LocalAttention(heads=24, window=2, head_size=64, width=None, tables='shared')

        Args:
            path: The block's timm path.
            kind: The new kind, or its letter for the settings that a search would try there.
            settings: Settings that override those of the letter.
        """
        number, index = self.position(path)
        block = self.stages[number].blocks[index]
        if isinstance(kind, str):
            usual_heads = heads_at(FIRST_HEADS, number, len(self.stages))
            size = attention_size(block.in_shape[0], block.params, block.expansion, usual_heads=usual_heads)
            fitting = {**asdict(size), "window": window_for(self.stages[number].size)}
            unset = {name: value for name, value in fitting.items() if name not in settings}
            kind = placed_kind(kind, settings, unset)
        elif settings:
            raise LayoutError(f"{path}: {', '.join(settings)} beside a kind; give its letter, or a kind that has them.")
        return apply(self, Replace(path=path, old=block.kind, new=kind))


@dataclass(frozen=True, slots=True, kw_only=True)
class Replace:
    """Put another kind where a block stands.

    >>> from buildup.graph.kinds import LocalAttention
    >>> str(Replace(path="layer4.2", old=Conv(), new=LocalAttention(heads=24, window=4)))
    'layer4.2: conv -> msa(heads=24, window=4)'
    """

    path: str
    old: BlockKind
    new: BlockKind

    def __str__(self) -> str:
        return f"{self.path}: {describe(self.old)} -> {describe(self.new)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Append:
    """Add a block at the end of a stage: one of the base's own, or another kind in its place.

    >>> str(Append(stage="layer4"))
    'layer4: one more conv'
    """

    stage: str
    kind: BlockKind = field(default_factory=Conv)

    def __str__(self) -> str:
        return f"{self.stage}: one more {describe(self.kind)}"


Edit = Replace | Append


def apply(network: Network, edit: Edit) -> Network:
    """The network after one edit; the one given stays as it is."""
    if isinstance(edit, Append):
        return _append(network, edit)
    number, index = network.position(edit.path)
    stage = network.stages[number]
    block = stage.blocks[index]
    if block.kind != edit.old:
        raise LayoutError(
            f"{edit.path} of {network.base} is {describe(block.kind)}, not {describe(edit.old)}: "
            "the edit is for another network."
        )
    if not isinstance(edit.new, Conv):
        if obstacle := stage.obstacle(index):
            raise LayoutError(f"{edit.path} of {network.base} {obstacle}, so it can't be replaced.")
        if misfit := edit.new.misfit(block.out_shape[1:]):
            raise LayoutError(f"{edit.path} of {network.base}: {misfit}")
    blocks = (*stage.blocks[:index], replace(block, kind=edit.new), *stage.blocks[index + 1 :])
    return network.with_stage(number, replace(stage, blocks=blocks))


def _append(network: Network, edit: Append) -> Network:
    number = next((number for number, stage in enumerate(network.stages) if stage.name == edit.stage), None)
    if number is None:
        names = ", ".join(stage.name for stage in network.stages)
        raise LayoutError(f"{network.base} has no stage {edit.stage!r}; it has {names}.")
    stage = network.stages[number]
    last = stage.blocks[-1]
    if stage.closed:
        raise LayoutError(f"{stage.name} of {network.base} {stage.closed}.")
    if stage.is_point and not isinstance(edit.kind, Conv):
        raise LayoutError(f"{stage.name} of {network.base} has maps of one point, so only C can be added.")
    new = replace(last, path=next_path(stage), kind=edit.kind, added=True)
    if misfit := edit.kind.misfit(new.out_shape[1:]):
        raise LayoutError(f"{new.path} of {network.base}: {misfit}")
    edges = [(new.path if source == last.path else source, target) for source, target in network.edges]
    longer = network.with_stage(number, replace(stage, blocks=(*stage.blocks, new)))
    return replace(longer, edges=(*edges, (last.path, new.path)))


def replacement(network: Network, path: str, kind: BlockKind) -> Replace:
    return Replace(path=path, old=network.block(path).kind, new=kind)


def edits_between(base: Network, network: Network) -> tuple[Edit, ...]:
    """The edits that make a network from its base, in the order of its blocks."""
    own = {block.path: block.kind for block in base.blocks}
    edits: list[Edit] = []
    for stage in network.stages:
        for block in stage.blocks:
            if block.path not in own:
                edits.append(Append(stage=stage.name, kind=block.kind))
            elif block.kind != own[block.path]:
                edits.append(Replace(path=block.path, old=own[block.path], new=block.kind))
    return tuple(edits)


def base_of(network: Network) -> Network:
    """The base that edits made a network from."""
    added = {block.path for block in network.blocks if block.added}
    before = {target: source for source, target in network.edges if target in added}

    def own(path: str) -> str:
        return own(before[path]) if path in before else path

    stages = []
    for stage in network.stages:
        kept = (block for block in stage.blocks if block.path not in added)
        stages.append(replace(stage, blocks=tuple(replace(block, kind=Conv()) for block in kept)))
    edges = tuple((own(source), target) for source, target in network.edges if target not in added)
    return replace(network, stages=tuple(stages), edges=edges)


def next_path(stage: Stage) -> str:
    """The path of a block added at the end of a stage: `layer4.3` after `layer4.2`, `s4.b10` after `s4.b9`."""
    path = stage.blocks[-1].path
    digits = len(path) - len(path.rstrip("0123456789"))
    return f"{path[:-digits]}{int(path[-digits:]) + 1}"


def chain(paths: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Edges of blocks that follow each other, from stem to head."""
    return tuple(pairwise(["stem", *paths, "head"]))


def sketch(layout: str, *, base: str = "sketch", size: int = 32) -> Network:
    """A network from its letters alone, for examples and tests without torch or timm.

    Channels and sizes are those of a CIFAR ResNet; the attention settings are those of the paper.
    """
    stages = []
    in_shape: Shape = (3, size, size)
    for number, letters in enumerate(layout.split("|")):
        shape = (64 * 2**number, max(1, size >> number), max(1, size >> number))
        blocks = []
        for index, letter in enumerate(letters):
            if letter not in known_kinds():
                known = ", ".join(known_kinds())
                raise LayoutError(f"layout {layout!r}: letter {letter!r} is not known; known are {known}.")
            kind = placed_kind(letter, {}, {"heads": 3 * 2**number, "window": min(7, shape[1])})
            blocks.append(Block(path=f"c{number + 1}.{index}", kind=kind, in_shape=in_shape, out_shape=shape))
            in_shape = shape
        if not blocks:
            raise LayoutError(f"layout {layout!r}: stage {number + 1} has no block.")
        stages.append(Stage(name=f"c{number + 1}", blocks=tuple(blocks)))
    paths = [block.path for stage in stages for block in stage.blocks]
    return Network(base=base, input_shape=(3, size, size), num_classes=100, stages=tuple(stages), edges=chain(paths))
