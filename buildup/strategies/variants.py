"""The search of settings at a place where a block was kept.

Each variant is a candidate like any other: its parent is the best network so far, and the same judge decides. A variant
that is kept replaces the block, and later variants are compared with it. Then the rule goes on from the result. If all
variants may be tried, they are tried in order, and the next step is known for both verdicts. If there are more, a
`Choose` function selects the next one by the gains so far, so the next step can't be predicted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from buildup.graph.kinds import BlockKind
from buildup.graph.network import apply, replacement
from buildup.strategies.strategy import Step
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
class Place:
    """A place where variants are tried."""

    path: str
    kept: BlockKind
    variants: tuple[BlockKind, ...]
    tries: int
    choose: Choose | None
    """None if the variants are tried in order."""
    share: float
    rng: str
    go_on: Callable[[Candidate], Step | None]
    """Gives the step after this place, from the best network."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """The step that tries one variant."""

    place: Place
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
        return tuple(self._with(kind) for kind in self.place.variants)

    @property
    def share(self) -> float:
        return self.place.share

    @property
    def tries_left(self) -> int:
        """The number of variants to try from here on, including this one."""
        return self.place.tries - len(self.tried)

    def after(self, decision: Decision) -> Step | None:
        if self.place.choose is None or self.tries_left == 1:
            return self.successor(decision.kept)
        return self._next(decision.kept, self.best_gain + decision.gain if decision.scores else None)

    def successor(self, kept: bool) -> Step | None:
        if self.tries_left > 1 and self.place.choose is not None:
            return None
        return self._if_kept if kept else self._if_dropped

    def remaining(self, kept: bool) -> int:
        return self.tries_left + (self.without.remaining(kept) if self.without else 0)

    @cached_property
    def without(self) -> Step | None:
        """The step after this place if no variant from here on is kept."""
        return self.place.go_on(self.best)

    @cached_property
    def _if_kept(self) -> Step | None:
        return self.place.go_on(self.candidate) if self.tries_left == 1 else self._next(True, 0.0)

    @cached_property
    def _if_dropped(self) -> Step | None:
        return self.without if self.tries_left == 1 else self._next(False, 0.0)

    @cached_property
    def _kind(self) -> BlockKind:
        place = self.place
        if place.choose is None:
            return place.variants[len(self.tried)]
        known = {one.kind for one in self.tried}
        untried = [kind for kind in place.variants if kind not in known]
        first = TriedVariant(kind=place.kept, gain=0.0)
        return place.choose(untried, (first, *self.tried), f"{place.rng}/{place.path}/{len(self.tried)}")

    def _with(self, kind: BlockKind) -> Candidate:
        edit = replacement(self.best.network, self.place.path, kind)
        return Candidate(network=apply(self.best.network, edit), parent=self.best, edits=(edit,))

    def _next(self, kept: bool, gain: float | None) -> Step:
        tried = (*self.tried, TriedVariant(kind=self._kind, gain=gain))
        best, best_gain = (self.candidate, gain or 0.0) if kept else (self.best, self.best_gain)
        return replace(self, best=best, best_gain=best_gain, tried=tried)
