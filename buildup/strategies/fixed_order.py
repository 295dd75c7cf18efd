"""Strategies with a fixed order of layouts: all of them, or random ones.

They try layouts that the build-up rule can reach, each against the best so far, with the same judge. The order does not
depend on verdicts, so idle workers can train ahead. `random` draws uniformly without repetition.
"""

import random
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from math import prod

from buildup.errors import RequestError
from buildup.graph.network import Edit, apply, edits_between
from buildup.space.schema import SearchSpace
from buildup.strategies.moves import Move, moves
from buildup.strategies.strategy import Step, Strategy
from buildup.trials.decision import Decision
from buildup.trials.training import Candidate

MOST_LISTED = 1_000
"""`exhaustive` refuses to try more layouts than this."""

Counts = tuple[int, ...]
"""A layout as the number of moves made in each stage, in the order of the build-up rule."""


@dataclass(frozen=True, kw_only=True)
class Layouts:
    """All layouts that the build-up rule can reach from a base if one failure ends a stage, without `tune`."""

    base: Candidate
    space: SearchSpace

    @cached_property
    def places(self) -> tuple[tuple[Move, ...], ...]:
        """The moves of each stage, in order."""
        return moves(self.base.network, self.space)

    @property
    def tries(self) -> int:
        """The maximum number of verdicts of the build-up rule, which is the budget of the other strategies."""
        return min(sum(map(len, self.places)), self.size - 1)

    @property
    def size(self) -> int:
        """The number of layouts, including the base."""
        return prod(len(stage) + 1 for stage in self.places)

    @property
    def all(self) -> list[Counts]:
        """All layouts but the base, those with few changes first."""
        counts = product(*(range(len(stage) + 1) for stage in self.places))
        return sorted((one for one in counts if any(one)), key=lambda one: (sum(one), one[::-1]))

    def candidate(self, counts: Counts, parent: Candidate) -> Candidate:
        """The layout with these counts, as a candidate with this parent."""
        network, edits = self.base.network, list[Edit]()
        for stage, count in zip(self.places, counts, strict=True):
            for move in stage[:count]:
                edit = move.edit(network)
                network = apply(network, edit)
                edits.append(edit)
        if {block.path for block in parent.network.blocks} <= {block.path for block in network.blocks}:
            edits = list(edits_between(parent.network, network)) or edits
        return Candidate(network=network, parent=parent, edits=tuple(edits))


@dataclass(frozen=True, kw_only=True)
class ListedRule:
    """Tries layouts in a fixed order."""

    base: Candidate
    layouts: Layouts
    order: tuple[Counts, ...]

    @cached_property
    def first(self) -> Step | None:
        """The first layout of the list."""
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
        return self._if_kept if kept else self._if_dropped

    def remaining(self, kept: bool) -> int:
        return len(self.rule.order) - self.number

    @cached_property
    def _if_kept(self) -> Step:
        return replace(self, number=self.number + 1, best=self.candidate)

    @cached_property
    def _if_dropped(self) -> Step:
        return replace(self, number=self.number + 1)


def exhaustive(base: Candidate, space: SearchSpace, seed: int) -> ListedRule:
    """Tries every layout once."""
    layouts = Layouts(base=base, space=space)
    if layouts.size > MOST_LISTED:
        raise RequestError(
            f"strategy exhaustive: {base.network.base} has {layouts.size:,} layouts in space {space.name}; at most "
            f"{MOST_LISTED:,} are tried one by one. Use another strategy, or stages[].max_replaced in a space file."
        )
    return ListedRule(base=base, layouts=layouts, order=tuple(layouts.all))


def at_random(base: Candidate, space: SearchSpace, seed: int) -> ListedRule:
    """Tries random layouts, at most as many as the build-up rule could try."""
    layouts = Layouts(base=base, space=space)
    rng, order = random.Random(f"random/{seed}"), dict[Counts, None]()
    while len(order) < layouts.tries:
        counts = tuple(rng.randint(0, len(stage)) for stage in layouts.places)
        if any(counts):
            order[counts] = None
    return ListedRule(base=base, layouts=layouts, order=tuple(order))


RANDOM = Strategy(name="random", make=at_random)
EXHAUSTIVE = Strategy(name="exhaustive", make=exhaustive)
