"""A traced model: the tensors that all of its computation passes through, and where its units end.

A tensor is a *cut* when every path from the image to the logits leads through it: the output of a ResNet block, the sum
after an attention branch of a ViT. The part between two cuts is a model of its own, and all parts in sequence are the
whole model. Units end at cuts: after each residual sum, and after blocks that stand among such sums.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import prod

import networkx as nx
from torch import Tensor, nn

from buildup.errors import BaseError
from buildup.models.stages import SEQUENCES
from buildup.models.trace import Call, Node, run_traced

SUMS = frozenset(("add", "add_", "__add__", "__iadd__", "__radd__"))
VIEWS = frozenset(("view", "reshape", "permute", "transpose", "flatten", "unflatten", "contiguous", "squeeze"))


@dataclass(frozen=True, kw_only=True)
class Flow:
    """A traced model."""

    nodes: tuple[Node, ...]
    """In the order in which they ran. The first is the image."""
    runs: tuple[Call, ...]
    """In the order in which they began."""
    end: int
    """The node of the logits."""

    @cached_property
    def graph(self) -> "nx.DiGraph[int]":
        """The calls that the logits depend on. An edge leads to a call that reads a result."""
        graph = nx.DiGraph((parent, node.number) for node in self.nodes for parent in node.parents)
        graph.add_node(self.end)
        return graph.subgraph({self.end} | nx.ancestors(graph, self.end)).copy()

    @cached_property
    def cuts(self) -> tuple[int, ...]:
        """The calls that every path leads through and that return one tensor."""
        dominators, found = nx.immediate_dominators(self.graph, 0), [self.end]
        while found[-1] != 0:
            found.append(dominators[found[-1]])
        return tuple(number for number in reversed(found) if self.nodes[number].shape is not None)

    def between(self, first: int, last: int) -> tuple[Node, ...]:
        """The calls after one cut, up to and including another."""
        return tuple(self.nodes[number] for number in range(first + 1, last + 1) if number in self.graph)

    def last_cut(self, before: int) -> int:
        return max(cut for cut in self.cuts if cut < before)

    def is_sum(self, number: int) -> bool:
        """Whether a call adds two different tensors that both depend on the image."""
        node = self.nodes[number]
        return node.function in SUMS and len(node.parents) == 2 and node.parents[0] != node.parents[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitEnd:
    start: int
    """The last cut before its first call."""
    at: int
    """The cut where its output is observed."""
    join: int | None
    """Its residual sum or concatenation."""
    owner: str
    """The module that it is or belongs to."""


def trace_flow(model: nn.Module, image: Tensor) -> Flow:
    """Run a model on one image, in its present mode, and record its calls."""
    nodes, root, logits = run_traced(model, image)
    if root.output_node is None:
        raise BaseError(
            f"{type(model).__name__} gives out {type(logits).__name__}, and one tensor of logits is needed that "
            "depends on the image."
        )
    return Flow(nodes=nodes, runs=tuple(root.inside), end=root.output_node)


def spatial_convs(nodes: tuple[Node, ...]) -> tuple[str, ...]:
    return tuple(node.modules[-1] for node in nodes if node.kernel > 1)


def find_unit_ends(flow: Flow) -> list[UnitEnd]:
    """The ends of all units, by the first of these that the model has: residual sums, concatenations, convolutions."""
    joins = [cut for cut in flow.cuts if flow.is_sum(cut) and len(flow.nodes[cut].shape or ()) > 2]
    if not joins:
        nodes = [flow.nodes[cut] for cut in flow.cuts]
        joins = [node.number for node in nodes if node.function in ("cat", "concat") and len(set(node.parents)) > 1]
    cuts = [cut for cut in flow.cuts if flow.nodes[cut].kernel > 1]
    if (found := _block_ends(flow, joins)) or not cuts:
        return found
    # Each spatial convolution with everything up to the next one. Those that make maps of one point are of the head.
    areas = {cut: prod(shape[2:]) for cut in flow.cuts if len(shape := flow.nodes[cut].shape or ()) == 4}
    cuts = [cut for cut in cuts if areas.get(cut, 0) > 1]
    return [
        UnitEnd(
            start=flow.last_cut(cut),
            at=_before_growth(areas, cut, following),
            join=None,
            owner=flow.nodes[cut].modules[-1],
        )
        for cut, following in zip(cuts, [*cuts[1:], flow.end], strict=False)
    ]


def _before_growth(areas: Mapping[int, int], first: int, limit: int) -> int:
    """The last cut before a limit whose maps are no larger than those before, as a head's pooling may make them."""
    found = first
    for cut, area in areas.items():
        if first < cut < limit and area > 1:
            if area > areas[found]:
                break
            found = cut
    return found


def _block_ends(flow: Flow, joins: list[int]) -> list[UnitEnd]:
    """Units that end in a sum or a concatenation, and blocks without one that stand among them."""
    called = Counter(run.path for run in flow.runs)
    runs = {run.path: run for run in flow.runs if called[run.path] == 1}
    owners = {join: owner for join in joins if (owner := flow.nodes[join].modules[-1]) in runs}
    found = []
    for join, owner in owners.items():
        # The branches of a sum start at the input of its module if that has no other sum, else at the last cut.
        entry, first = runs[owner].input_node, runs[owner].first
        others = [cut for cut in flow.cuts if first <= cut < join and flow.is_sum(cut)]
        start = entry if entry in flow.cuts and not others and owner else flow.last_cut(join)
        found.append(UnitEnd(start=start, at=_observed(flow, join, owner), join=join, owner=owner))
    blocks = set(owners.values())
    for run in runs.values():
        if not run.path or "" in blocks or run.output_node not in flow.cuts:
            continue
        # Neither inside of a block nor around one.
        if any(f"{run.path}.".startswith(f"{block}.") or f"{block}.".startswith(f"{run.path}.") for block in blocks):
            continue
        if _is_like_blocks(flow, run, runs, blocks):
            found.append(UnitEnd(start=flow.last_cut(run.first), at=run.output_node, join=None, owner=run.path))
    return sorted(found, key=lambda end: end.at)


def _is_like_blocks(flow: Flow, run: Call, runs: dict[str, Call], blocks: set[str]) -> bool:
    """Whether a module has the class of a block, or stands in a sequence beside blocks or at their depth."""
    if type(run.module) in {type(runs[block].module) for block in blocks}:
        return True
    parent = run.path.rpartition(".")[0]
    sequence = runs[""].module.get_submodule(parent) if parent else None
    if not isinstance(sequence, SEQUENCES) or isinstance(run.module, SEQUENCES):
        return False
    is_of_torch = type(run.module).__module__.startswith("torch.nn")
    if parent in {block.rpartition(".")[0] for block in blocks} and not is_of_torch:
        return True
    has_children = any(other.path.startswith(f"{run.path}.") for other in flow.runs)
    assert run.output_node is not None
    is_convolutional = bool(spatial_convs(flow.between(run.first - 1, run.output_node)))
    return has_children and is_convolutional and run.path.count(".") in {block.count(".") for block in blocks}


def _observed(flow: Flow, join: int, owner: str) -> int:
    """The last result of the chain of calls after a sum in its module; of its reshaped forms, the one that is a map."""
    chain = [join]
    later = [cut for cut in flow.cuts if cut >= join]
    for cut, following in pairwise(later):
        inside = owner and owner in flow.nodes[following].modules
        if not inside or len(flow.between(cut, following)) > 1:
            break
        chain.append(following)
    while len(chain) > 1 and flow.nodes[chain[-1]].function in VIEWS and len(flow.nodes[chain[-1]].shape or ()) != 4:
        chain.pop()
    return chain[-1]
