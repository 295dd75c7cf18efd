"""Strategies with a fixed order of layouts: all of them, or random ones.

They try layouts of the space (`Layouts`), each against the best so far, with the same judge. The order does not depend
on verdicts, so idle workers can train ahead. `random` draws uniformly without repetition.
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, islice, product
from math import comb, prod

from buildup.errors import RequestError
from buildup.graph.network import Edit, apply, edits_between
from buildup.space.schema import SearchSpace
from buildup.strategies.moves import Move, moves, moves_anywhere
from buildup.strategies.strategy import Step, Strategy
from buildup.trials.decision import Decision
from buildup.trials.training import Candidate

MOST_LISTED = 1_000
"""`exhaustive` refuses to try more layouts than this."""

Counts = tuple[int, ...]
"""A layout as the number of moves made in each group of moves, in the order of the group."""


@dataclass(frozen=True, kw_only=True)
class Layouts:
    """All layouts that a control tries.

    They are those that the build-up rule can reach from a base if one failure ends a stage, without `tune`. With
    `places: any` they change as many blocks of each stage at most, but anywhere in it. So a comparison of both tells
    whether the end of a stage is the right place, and not whether fewer blocks are better.
    """

    base: Candidate
    space: SearchSpace

    @cached_property
    def by_rule(self) -> tuple[tuple[Move, ...], ...]:
        return moves(self.base.network, self.space)

    @cached_property
    def anywhere(self) -> tuple[tuple[Move, ...], ...] | None:
        """The moves at all places of each stage; None if only those of the rule are made."""
        return moves_anywhere(self.base.network, self.space) if self.space.places == "any" else None

    @cached_property
    def groups(self) -> Mapping[str, tuple[Move, ...]]:
        """Groups of moves by name. A layout makes the first few moves of each group; a single move is made or not."""
        if self.anywhere is not None:
            return {f"{move.path}.changed": (move,) for stage in self.anywhere for move in stage}
        stages = zip(self.base.network.stages, self.by_rule, strict=True)
        return {f"{stage.name}.changed": moves for stage, moves in stages if moves}

    @property
    def tries(self) -> int:
        """The maximum number of verdicts of the build-up rule, which is the budget of the other strategies."""
        return min(sum(map(len, self.by_rule)), self.size - 1)

    @property
    def size(self) -> int:
        """The number of layouts, including the base."""
        if self.anywhere is None:
            return prod(len(stage) + 1 for stage in self.by_rule)
        stages = zip(self.by_rule, self.anywhere, strict=True)
        return prod(sum(comb(len(places), count) for count in range(len(most) + 1)) for most, places in stages)

    @property
    def all(self) -> Iterator[Counts]:
        """All layouts but the base, those with few changes first."""
        if self.anywhere is None:
            counts = product(*(range(len(stage) + 1) for stage in self.groups.values()))
            yield from sorted((one for one in counts if any(one)), key=lambda one: (sum(one), one[::-1]))
            return
        places = range(len(self.groups))
        for count in range(1, sum(map(len, self.by_rule)) + 1):
            layouts = (tuple(int(place in chosen) for place in places) for chosen in combinations(places, count))
            yield from filter(self.has, layouts)

    def has(self, counts: Counts) -> bool:
        """Whether a layout is among these: no stage has more changes than the build-up rule could make."""
        if self.anywhere is None:
            return True
        left = iter(counts)
        stages = zip(self.by_rule, self.anywhere, strict=True)
        return all(sum(islice(left, len(places))) <= len(most) for most, places in stages)

    def draw(self, rng: random.Random) -> Counts:
        """A random layout, maybe the base: of each stage a random number of changes, then their places."""
        counts = tuple(rng.randint(0, len(stage)) for stage in self.by_rule)
        if self.anywhere is None:
            return tuple(count for count, stage in zip(counts, self.by_rule, strict=True) if stage)
        stages = zip(counts, self.anywhere, strict=True)
        chosen = [move.path for count, places in stages for move in rng.sample(places, count)]
        return tuple(int(move.path in chosen) for (move,) in self.groups.values())

    def candidate(self, counts: Counts, parent: Candidate) -> Candidate:
        network, edits = self.base.network, list[Edit]()
        for group, count in zip(self.groups.values(), counts, strict=True):
            for move in group[:count]:
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
        if any(counts := layouts.draw(rng)):
            order[counts] = None
    return ListedRule(base=base, layouts=layouts, order=tuple(order))


RANDOM = Strategy(name="random", make=at_random)
EXHAUSTIVE = Strategy(name="exhaustive", make=exhaustive)
