"""The build-up rule of the paper.

From the end of the network, Conv blocks are replaced by attention in an alternating way: n-1, n-3, ... of the last
stage. When a replacement does not help, the rule goes to the end of the stage before. With a look-ahead, it first tries
one more place of the same stage on top of the dropped one, as the paper did in c3.

    >>> from buildup.graph.network import sketch
    >>> rule = AlterNetRule(base=Candidate(network=sketch("CC|CC")), space=SearchSpace(name="s", description=""))
    >>> rule.first.candidate.edit
    'c2.1: conv -> msa(heads=24, window=4)'

The error of a search is divided among its stages. In a stage without look-ahead, the first drop ends the stage, so only
one candidate without a gain can be tried, and all verdicts use the full share. A stage that ends without a drop passes
its share on to the next (the fallback procedure of multiple testing). With a look-ahead, or if several failures end a
stage, the share is divided by the number of possible drops. If settings are searched at kept places, they get half of
the stage's share, divided among all variants at all places.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil

from buildup.graph.kinds import BlockKind
from buildup.graph.network import apply, replacement
from buildup.space.schema import SearchSpace
from buildup.strategies.moves import Move, moves
from buildup.strategies.strategy import Rule, Step, Strategy
from buildup.trials.decision import Decision
from buildup.trials.training import Candidate


@dataclass(frozen=True, slots=True, kw_only=True)
class TriedVariant:
    """The result of a variant."""

    kind: BlockKind
    gain: float | None
    """Gain over the block that was kept first; None where it could not be measured."""


Choose = Callable[[Sequence[BlockKind], Sequence[TriedVariant], str], BlockKind]
"""Selects one of the untried variants, given the tried ones and a text that seeds random numbers."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """The step that tries one variant of the settings at a place where a block was kept.

    A variant is a candidate like any other: its parent is the best network so far, and the same judge decides. One that
    is kept replaces the block, and later variants are compared with it. Then the rule goes on from the result. If all
    variants may be tried, they are tried in order, and the next step is known for both verdicts. If there are more, a
    `Choose` function selects the next one by the gains so far, so the next step can't be predicted.
    """

    path: str
    kept_first: BlockKind
    variants: tuple[BlockKind, ...]
    tries: int
    choose: Choose | None
    """None if the variants are tried in order."""
    share: float
    rng: str
    go_on: Callable[[Candidate], Step | None]
    """Gives the step after this place, from the best network."""
    best: Candidate
    best_gain: float = 0.0
    """The gain of the best network over the block that was kept first."""
    tried: tuple[TriedVariant, ...] = ()

    @cached_property
    def candidate(self) -> Candidate:
        return self._with(self._kind)

    @property
    def possible(self) -> tuple[Candidate, ...]:
        """All candidates that may be tried here, as long as none is kept."""
        return tuple(self._with(kind) for kind in self.variants)

    @property
    def tries_left(self) -> int:
        """The number of variants to try from here on, including this one."""
        return self.tries - len(self.tried)

    def after(self, decision: Decision) -> Step | None:
        if self.choose is None or self.tries_left == 1:
            return self.successor(decision.kept)
        return self._next(decision.kept, self.best_gain + decision.gain if decision.scores else None)

    def successor(self, kept: bool) -> Step | None:
        if self.tries_left > 1 and self.choose is not None:
            return None
        return self._if_kept if kept else self._if_dropped

    def remaining(self, kept: bool) -> int:
        return self.tries_left + (self.without.remaining(kept) if self.without else 0)

    @cached_property
    def without(self) -> Step | None:
        """The step after this place if no variant from here on is kept."""
        return self.go_on(self.best)

    @cached_property
    def _if_kept(self) -> Step | None:
        return self.go_on(self.candidate) if self.tries_left == 1 else self._next(True, 0.0)

    @cached_property
    def _if_dropped(self) -> Step | None:
        return self.without if self.tries_left == 1 else self._next(False, 0.0)

    @cached_property
    def _kind(self) -> BlockKind:
        if self.choose is None:
            return self.variants[len(self.tried)]
        known = {one.kind for one in self.tried}
        untried = [kind for kind in self.variants if kind not in known]
        first = TriedVariant(kind=self.kept_first, gain=0.0)
        return self.choose(untried, (first, *self.tried), f"{self.rng}/{self.path}/{len(self.tried)}")

    def _with(self, kind: BlockKind) -> Candidate:
        edit = replacement(self.best.network, self.path, kind)
        return Candidate(network=apply(self.best.network, edit), parent=self.best, edits=(edit,))

    def _next(self, kept: bool, gain: float | None) -> Step:
        tried = (*self.tried, TriedVariant(kind=self._kind, gain=gain))
        best, best_gain = (self.candidate, gain or 0.0) if kept else (self.best, self.best_gain)
        return replace(self, best=best, best_gain=best_gain, tried=tried)


@dataclass(frozen=True, kw_only=True)
class AlterNetRule:
    """The build-up rule, with the `look_ahead` and `failures` of the space."""

    base: Candidate
    space: SearchSpace
    choose: Choose | None = None
    """Chooses settings at a kept place if not all of them can be tried."""
    seed: int = 0
    """Random seed for `choose`."""

    @cached_property
    def first(self) -> Step | None:
        of_stage = moves(self.base.network, self.space)
        stages = tuple(of_stage[number] for number in self.space.stage_order(len(of_stage)) if of_stage[number])
        return _enter(stages, best=self.base, rule=self, part=1 / max(1, len(stages)))


@dataclass(frozen=True, kw_only=True)
class _Try:
    """The step that tries one place. Its successors are cached."""

    stages: tuple[tuple[Move, ...], ...]
    """The places of this stage and of those still to come."""
    number: int = 0
    best: Candidate
    built_on: Candidate
    in_a_row: int = 0
    """Drops since the last keep, or since the last failure."""
    failed: int = 0
    """Failures in this stage: drops that no look-ahead saved."""
    rule: AlterNetRule
    part: float
    """The share of the error of one stage."""
    budget: float
    """The share of this stage, including what earlier stages passed on."""
    unspent: bool = True
    """Whether nothing was dropped in this stage yet."""

    @cached_property
    def candidate(self) -> Candidate:
        edit = self.stages[0][self.number].edit(self.built_on.network)
        pending = self.built_on.edits if self.built_on is not self.best else ()
        return Candidate(network=apply(self.built_on.network, edit), parent=self.best, edits=(*pending, edit))

    @property
    def share(self) -> float:
        return self._for_places / most_drops(len(self.stages[0]), self.rule.space)

    def after(self, decision: Decision) -> Step | None:
        return self.successor(decision.kept)

    def successor(self, kept: bool) -> Step | None:
        return self._if_kept if kept else self._if_dropped

    def remaining(self, kept: bool) -> int:
        count, step = 1, self.successor(kept)
        while step is not None:
            count += step.tries_left if isinstance(step, Variant) else 1
            step = step.without if isinstance(step, Variant) else step.successor(kept)
        return count

    @property
    def _tries(self) -> tuple[int, ...]:
        """The number of variants to try at each place of this stage."""
        most = self.rule.space.tune.tries if self.rule.space.tune else 0
        return tuple(min(most, len(move.variants)) for move in self.stages[0])

    @property
    def _for_places(self) -> float:
        """The share of this stage without that for settings."""
        return self.budget / 2 if any(self._tries) else self.budget

    @cached_property
    def _if_kept(self) -> Step | None:
        move, tries = self.stages[0][self.number], self._tries[self.number]
        if not tries:
            return self._go_on(self.candidate)
        return Variant(
            path=move.path,
            kept_first=move.kind,
            variants=move.variants,
            tries=tries,
            choose=self.rule.choose if tries < len(move.variants) else None,
            share=(self.budget - self._for_places) / sum(self._tries),
            rng=str(self.rule.seed),
            go_on=self._go_on,
            best=self.candidate,
        )

    def _go_on(self, best: Candidate) -> Step | None:
        return self._next(replace(self, best=best, built_on=best, in_a_row=0))

    @cached_property
    def _if_dropped(self) -> Step | None:
        if self.in_a_row < self.rule.space.look_ahead:
            return self._next(replace(self, built_on=self.candidate, in_a_row=self.in_a_row + 1, unspent=False))
        if self.failed + 1 < self.rule.space.failures:
            failed = replace(self, built_on=self.best, in_a_row=0, failed=self.failed + 1, unspent=False)
            return self._next(failed)
        return _enter(self.stages[1:], best=self.best, rule=self.rule, part=self.part)

    def _next(self, state: "_Try") -> Step | None:
        if self.number + 1 < len(self.stages[0]):
            return replace(state, number=self.number + 1)
        passed_on = self._for_places if state.unspent else 0.0
        return _enter(self.stages[1:], best=state.best, rule=self.rule, part=self.part, passed_on=passed_on)


def most_drops(places: int, space: SearchSpace) -> int:
    """The maximum number of drops in a stage with so many places.

    A failure is a drop and the L look-aheads that were dropped on top of it, L + 1 drops in all. With k keeps in
    between, each of which may save L drops more, F failures take (k + F) * (L + 1) verdicts; so k is the least number
    for which that is at least the number of places.

    >>> strict = SearchSpace(name="s", description="")
    >>> [most_drops(places, strict) for places in (1, 2, 3)], [most_drops(4, replace(strict, failures=3))]
    ([1, 1, 1], [3])
    >>> [most_drops(places, replace(strict, look_ahead=1)) for places in (1, 2, 3, 4, 5)]
    [1, 2, 2, 3, 3]
    """
    return places - max(0, ceil(places / (space.look_ahead + 1)) - space.failures)


def _enter(
    stages: tuple[tuple[Move, ...], ...], *, best: Candidate, rule: AlterNetRule, part: float, passed_on: float = 0.0
) -> Step | None:
    if not stages:
        return None
    return _Try(stages=stages, best=best, built_on=best, rule=rule, part=part, budget=part + passed_on)


def build_up(base: Candidate, space: SearchSpace, seed: int) -> Rule:
    """The rule of the paper, without randomness: of too many settings at a place, the first ones are tried."""
    return AlterNetRule(base=base, space=space)


ALTERNET = Strategy(name="alternet", make=build_up, builds_up=True)
