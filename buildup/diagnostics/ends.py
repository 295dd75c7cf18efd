"""Where the units of a traced model end: after each residual sum, and after blocks that stand among such sums."""

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from math import prod

from torch import nn

from buildup.diagnostics.flow import Flow
from buildup.models.trace import Call, Node

VIEWS = frozenset(("view", "reshape", "permute", "transpose", "flatten", "unflatten", "contiguous", "squeeze"))
SEQUENCES = (nn.Sequential, nn.ModuleList)


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """Where a unit ends."""

    start: int
    """Where what is before it ends: the last cut before its first call."""
    at: int
    join: int | None
    owner: str
    """The module that it is, or that it is a part of."""


def find_ends(flow: Flow) -> list[End]:
    """The units' ends, by the first of three things that a model has: residual sums, concatenations, convolutions."""
    sums = [cut for cut in flow.cuts if flow.is_sum(cut) and flow.is_map(cut)]
    return _ends(flow, sums or [cut for cut in flow.cuts if flow.is_concatenation(cut)]) or _chain_ends(flow)


def convs(nodes: tuple[Node, ...]) -> tuple[str, ...]:
    """The convolutions that look around, by their paths."""
    return tuple(node.modules[-1] for node in nodes if node.kernel > 1)


def _ends(flow: Flow, joins: list[int]) -> list[End]:
    """What ends in a sum or a concatenation, and blocks that stand among such blocks but end otherwise."""
    called = Counter(run.path for run in flow.runs)
    runs = {run.path: run for run in flow.runs if called[run.path] == 1}
    joins = [join for join in joins if flow.nodes[join].modules[-1] in runs]
    owners = {flow.nodes[join].modules[-1] for join in joins}
    found = []
    for join in joins:
        owner = flow.nodes[join].modules[-1]
        before = _before(flow, join, runs[owner])
        found.append(End(start=before, at=_observed(flow, join, owner), join=join, owner=owner))
    classes = {type(runs[owner].module) for owner in owners if owner}
    parents = {owner.rpartition(".")[0] for owner in owners if owner}
    depths = {owner.count(".") for owner in owners if owner}
    for run in runs.values():
        if not run.path or run.output_node not in flow.cuts or any(_is_inside(owner, run.path) for owner in owners):
            continue
        if any(_is_inside(run.path, owner) for owner in owners):
            continue
        is_block = not type(run.module).__module__.startswith("torch.nn")
        sibling = is_block and _stands_in_sequence(runs, run) and run.path.rpartition(".")[0] in parents
        cousin = _stands_in_sequence(runs, run) and run.path.count(".") in depths and _has_runs(flow, run)
        cousin = cousin and bool(convs(flow.between(run.first - 1, run.output_node)))
        if type(run.module) in classes or sibling or cousin:
            before = max(cut for cut in flow.cuts if cut < run.first)
            found.append(End(start=before, at=run.output_node, join=None, owner=run.path))
    return sorted(found, key=lambda end: end.at)


def _chain_ends(flow: Flow) -> list[End]:
    """In a model without sums, each convolution that looks around, with all that follows it."""
    cuts = [cut for cut in flow.cuts if flow.nodes[cut].kernel > 1]
    if not cuts:
        return []
    maps = [cut for cut in flow.cuts if prod((flow.nodes[cut].shape or ())[2:]) > 1]
    last = max(cut for cut in maps if len(flow.nodes[cut].shape or ()) == 4)
    starts = [max(before for before in flow.cuts if before < cut) for cut in cuts[1:]]
    return [
        End(start=max(c for c in flow.cuts if c < cut), at=end, join=None, owner=flow.nodes[cut].modules[-1])
        for cut, end in zip(cuts, [*starts, last], strict=True)
    ]


def _before(flow: Flow, join: int, owner: Call) -> int:
    """The cut that a sum's branches fork from, or that its block begins with, where there is no other sum between."""
    fork = max(cut for cut in flow.cuts if cut < join)
    entry = owner.input_node
    others = [cut for cut in flow.cuts if owner.first <= cut < join and flow.is_sum(cut)]
    return entry if entry in flow.cuts and not others and owner.path else fork


def _observed(flow: Flow, join: int, owner: str) -> int:
    """The last result of the chain that follows a sum in its module; of reshaped forms of it, the one that is a map."""
    chain = [join]
    later = [cut for cut in flow.cuts if cut >= join]
    for cut, following in pairwise(later):
        inside = owner and owner in flow.nodes[following].modules
        if not inside or len(flow.between(cut, following)) > 1:
            break
        chain.append(following)
    while len(chain) > 1 and flow.nodes[chain[-1]].function in VIEWS:
        if len(flow.nodes[chain[-1]].shape or ()) == 4:
            break
        chain.pop()
    return chain[-1]


def _is_inside(path: str, other: str) -> bool:
    return path == other or path.startswith(f"{other}.") or not other


def _stands_in_sequence(runs: dict[str, Call], run: Call) -> bool:
    root = runs[""].module
    parent = run.path.rpartition(".")[0]
    return bool(parent) and isinstance(root.get_submodule(parent), SEQUENCES) and not isinstance(run.module, SEQUENCES)


def _has_runs(flow: Flow, run: Call) -> bool:
    return any(other.path.startswith(f"{run.path}.") for other in flow.runs)
