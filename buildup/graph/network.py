"""A network: a staged graph of frozen blocks, and nothing of torch.

    >>> network = sketch("CC|CCM")
    >>> [stage.name for stage in network.stages]
    ['c1', 'c2']
    >>> network.block("c2.2").kind.letter
    'M'

Nodes are named by their timm path (`layer4.2`), so that people can paste them into their own code.
`stem` and `head` stand at the two ends. Edges say which block reads which block's output.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal

import networkx as nx

from buildup.errors import LayoutError
from buildup.graph.block_style import BlockStyle
from buildup.graph.kinds import BlockKind, Conv, known_kinds, placed_kind

Shape = tuple[int, int, int]
"""Channels, height, width."""

Stem = Literal["base", "small"]

Shrink = Literal["3x3", "stride 1", "none"]
"""What a small stem makes of a module: a 3x3 convolution of stride 1, the same module with stride 1, or nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One node between stem and head."""

    path: str
    """Where timm keeps it: `layer4.2`, `stages.3.blocks.2`."""
    kind: BlockKind = field(default_factory=Conv)
    module: str = "Block"
    """The class that timm gives the block of the base at this place."""
    in_shape: Shape
    out_shape: Shape
    added: bool = False
    """Whether the base has no such block: it was added at the end of its stage."""
    params: int | None = None
    """Parameters of the base's own block, which a replacement should not exceed by much; None where unknown."""
    expansion: int | None = None
    """The paper's attention reads a ResNet block's channels divided by this: 4 in bottlenecks, 1 in basic blocks."""
    style: BlockStyle | None = None
    """The habits of the base's block that a replacement follows; None where the network is a sketch."""
    fixed: str = ""
    """Why nothing else can stand here although the shapes would allow it."""

    @property
    def keeps_shape(self) -> bool:
        """Whether the block gives out maps like those that it takes."""
        return self.in_shape == self.out_shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """The blocks at one resolution, first to last."""

    name: str
    blocks: tuple[Block, ...]
    grows: bool = True
    """Whether blocks can be added at its end."""

    @property
    def letters(self) -> str:
        """One letter a block."""
        return "".join(block.kind.letter for block in self.blocks)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the maps that the stage gives out."""
        return self.blocks[-1].out_shape[1:]

    @property
    def is_point(self) -> bool:
        """Whether its maps are one point, which has no other to attend to or to be averaged with."""
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
        if index == 0:
            return f"is the first block of {self.name}, where the paper's rule replaces nothing"
        if self.is_point:
            return "sees maps of one point, which has no other to attend to"
        return block.fixed or None

    def positions(self, step: int = 2) -> tuple[int, ...]:
        """Where another kind may stand, in the order of the rule: n-1, n-3, ... down to 1.

        Places where only the base's own block can stand are stepped over.
        """
        found: list[int] = []
        for index in range(len(self.blocks) - 1, 0, -1):
            if self.obstacle(index) is None and (not found or found[-1] - index >= step):
                found.append(index)
        return tuple(found)


@dataclass(frozen=True, kw_only=True)
class Network:
    """A base with some of its blocks replaced, or blocks added at the ends of its stages."""

    base: str
    base_args: Mapping[str, Any] = field(default_factory=dict)
    """What timm's `create_model` gets beside the name, as plain values."""
    stem: Stem = "base"
    shrunk: tuple[tuple[str, Shrink], ...] = ()
    """What the small stem changes in the base, by timm path."""
    input_shape: Shape
    num_classes: int
    stages: tuple[Stage, ...]
    edges: tuple[tuple[str, str], ...]

    @property
    def graph(self) -> "nx.DiGraph[str]":
        """The network as networkx sees it: node attributes `block` and `stage`, frozen.

        Made each time: 40 KiB for 50 blocks, and a search keeps thousands of networks.
        """
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
        """What stands where the base has a block of its own."""
        return {block.path: block.kind for block in self.blocks if not isinstance(block.kind, Conv)}

    def block(self, path: str) -> Block:
        """The block at a timm path."""
        for block in self.blocks:
            if block.path == path:
                return block
        raise LayoutError(
            f"{self.base} has no block {path!r}; it has {', '.join(block.path for block in self.blocks)}."
        )

    def with_stage(self, index: int, stage: Stage, edges: Iterable[tuple[str, str]] | None = None) -> "Network":
        """The same network with one stage changed."""
        stages = (*self.stages[:index], stage, *self.stages[index + 1 :])
        return replace(self, stages=stages, edges=self.edges if edges is None else tuple(edges))


def chain(paths: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Edges of blocks that follow each other, from stem to head."""
    nodes = ["stem", *paths, "head"]
    return tuple(pairwise(nodes))


def sketch(layout: str, *, base: str = "sketch", size: int = 32) -> Network:
    """A network from its letters alone, for following the rule without torch or timm.

    Channels and sizes are those of a CIFAR ResNet; the attention settings are those of the paper.
    """
    stages = []
    for number, letters in enumerate(layout.split("|")):
        shape = (64 * 2**number, max(1, size >> number), max(1, size >> number))
        before = shape if number == 0 else (shape[0] // 2, max(1, size >> (number - 1)), max(1, size >> (number - 1)))
        blocks = []
        for index, letter in enumerate(letters):
            if letter not in known_kinds():
                known = ", ".join(known_kinds())
                raise LayoutError(f"layout {layout!r}: letter {letter!r} is not known; known are {known}.")
            kind = placed_kind(letter, {}, {"heads": 3 * 2**number, "window": min(7, shape[1])})
            in_shape = (3, *shape[1:]) if index == 0 and number == 0 else before if index == 0 else shape
            blocks.append(Block(path=f"c{number + 1}.{index}", kind=kind, in_shape=in_shape, out_shape=shape))
        if not blocks:
            raise LayoutError(f"layout {layout!r}: stage {number + 1} has no block.")
        stages.append(Stage(name=f"c{number + 1}", blocks=tuple(blocks)))
    paths = [block.path for stage in stages for block in stage.blocks]
    return Network(base=base, input_shape=(3, size, size), num_classes=100, stages=tuple(stages), edges=chain(paths))
