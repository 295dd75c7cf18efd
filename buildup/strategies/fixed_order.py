"""Strategies whose order of tries is known beforehand: every layout, or layouts at random.

They try the layouts that the build-up rule can reach in its usual form, each against the best so far, so the same judge
decides. Nothing of a verdict changes what is tried next, and idle workers can train all of it ahead.

`random` is Optuna's random sampler without its repetitions: every layout is as likely as any other, and none comes
twice, which a draw with Optuna itself would have to be asked for again and again on spaces as small as these.
"""

import random
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

from buildup.errors import RequestError
from buildup.graph.network import Append, Edit, Network, Replace, apply
from buildup.space.schema import SearchSpace
from buildup.strategies.moves import Move, moves
from buildup.strategies.strategy import Step, Strategy
from buildup.trials.decision import Decision
from buildup.trials.training import Candidate

MOST_LISTED = 1_000
"""`exhaustive` refuses to try more layouts than this."""

Counts = tuple[int, ...]
"""How many moves are made in each stage: with its places they make a layout, as the build-up rule makes them."""


@dataclass(frozen=True, kw_only=True)
class Layouts:
    """All layouts that the build-up rule can reach from a base where one failure ends a stage, without `tune`."""

    base: Candidate
    space: SearchSpace

    @cached_property
    def places(self) -> tuple[tuple[Move, ...], ...]:
        """The moves of each stage, in their order."""
        return moves(self.base.network, self.space)

    @property
    def tries(self) -> int:
        """The most verdicts that the build-up rule could come to: the budget of every other strategy."""
        return min(sum(map(len, self.places)), self.size - 1)

    @property
    def size(self) -> int:
        """How many there are, the base included."""
        size = 1
        for stage in self.places:
            size *= len(stage) + 1
        return size

    @property
    def all(self) -> list[Counts]:
        """Each of them but the base, those with few changes first."""
        counts = product(*(range(len(stage) + 1) for stage in self.places))
        return sorted((one for one in counts if any(one)), key=lambda one: (sum(one), one[::-1]))

    def candidate(self, counts: Counts, parent: Candidate) -> Candidate:
        """The layout with these counts, as a change of the best so far."""
        network, edits = self.base.network, list[Edit]()
        for stage, count in zip(self.places, counts, strict=True):
            for move in stage[:count]:
                edit = move.edit(network)
                network = apply(network, edit)
                edits.append(edit)
        return Candidate(network=network, parent=parent, edits=_edits(parent.network, network) or tuple(edits))


@dataclass(frozen=True, kw_only=True)
class ListedRule:
    """Tries layouts in an order that no verdict changes."""

    base: Candidate
    layouts: Layouts
    order: tuple[Counts, ...]

    @cached_property
    def first(self) -> Step | None:
        """The first of the list."""
        return _Listed(rule=self, number=0, best=self.base) if self.order else None


@dataclass(frozen=True, kw_only=True)
class _Listed:
    rule: ListedRule
    number: int
    best: Candidate

    @cached_property
    def candidate(self) -> Candidate:
        return self.rule.layouts.candidate(self.rule.order[self.number], self.best)

    @property
    def share(self) -> float:
        return 1 / len(self.rule.order)

    def after(self, decision: Decision) -> Step | None:
        return self.successor(decision.kept)

    def successor(self, kept: bool) -> Step | None:
        if self.number + 1 == len(self.rule.order):
            return None
        return self._kept if kept else self._dropped

    def left(self, kept: bool) -> int:
        return len(self.rule.order) - self.number

    @cached_property
    def _kept(self) -> Step:
        return replace(self, number=self.number + 1, best=self.candidate)

    @cached_property
    def _dropped(self) -> Step:
        return replace(self, number=self.number + 1)


def exhaustive(base: Candidate, space: SearchSpace, seed: int) -> ListedRule:
    """Every layout once."""
    layouts = Layouts(base=base, space=space)
    if layouts.size > MOST_LISTED:
        raise RequestError(
            f"strategy exhaustive: {base.network.base} has {layouts.size:,} layouts in space {space.name}; at most "
            f"{MOST_LISTED:,} are tried one by one. Use another strategy, or stages[].max_replaced in a space file."
        )
    return ListedRule(base=base, layouts=layouts, order=tuple(layouts.all))


def at_random(base: Candidate, space: SearchSpace, seed: int) -> ListedRule:
    """Layouts by chance, as many as the build-up rule could try at most."""
    layouts = Layouts(base=base, space=space)
    draw, order = random.Random(f"random/{seed}"), dict[Counts, None]()
    while len(order) < layouts.tries:
        counts = tuple(draw.randint(0, len(stage)) for stage in layouts.places)
        if any(counts):
            order[counts] = None
    return ListedRule(base=base, layouts=layouts, order=tuple(order))


RANDOM = Strategy(name="random", make=at_random)
EXHAUSTIVE = Strategy(name="exhaustive", make=exhaustive)


def _edits(old: Network, new: Network) -> tuple[Edit, ...]:
    """What turns one network into another by blocks replaced or added; nothing where one was taken away."""
    before = {block.path: block.kind for block in old.blocks}
    edits: list[Edit] = []
    for stage in new.stages:
        for block in stage.blocks:
            kind = before.pop(block.path, None)
            if kind is None:
                edits.append(Append(stage=stage.name, kind=block.kind))
            elif kind != block.kind:
                edits.append(Replace(path=block.path, old=kind, new=block.kind))
    return () if before else tuple(edits)
