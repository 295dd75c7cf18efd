"""Settings at an accepted place: what else might stand where a block was kept.

Each variant is a candidate like any other: its parent is the best network so far, and the same judge decides. A
variant that is kept takes the block's place, and those after it are compared with it. Then the rule goes on from what
is left there. A small grid is tried whole and in its order, so both verdicts on a variant lead to a known next step;
of a larger one a `Choose` says what comes next from the gains so far, which nobody can foresee.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from buildup.graph.kinds import BlockKind
from buildup.graph.network import apply, replacement
from buildup.strategies.strategy import Step
from buildup.trials.decision import Decision
from buildup.trials.training import Candidate


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a variant was worth."""

    kind: BlockKind
    gain: float | None
    """Over the block as it was first kept there; None where it could not be measured."""


Choose = Callable[[Sequence[BlockKind], Sequence[Told], str], BlockKind]
"""The next of these variants, none of which was told of yet; the text is for luck of its own."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where variants are tried, and what all of them have in common."""

    path: str
    kept: BlockKind
    """What was put there first."""
    variants: tuple[BlockKind, ...]
    tries: int
    choose: Choose | None
    """None where all of them are tried in their order."""
    share: float
    rng: str
    go_on: Callable[[Candidate], Step | None]
    """What follows from the best network, once the place is done with."""


def at_place(place: Place, best: Candidate) -> Step | None:
    """The first variant at a place; without any, what comes after it."""
    return Variant(place=place, best=best) if place.tries else place.go_on(best)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """The step that tries one variant."""

    place: Place
    best: Candidate
    ahead: float = 0.0
    """The gain of the best over the block as it was kept first."""
    told: tuple[Told, ...] = field(default=())

    @cached_property
    def kind(self) -> BlockKind:
        """What is put there."""
        place = self.place
        if place.choose is None:
            return place.variants[len(self.told)]
        known = {told.kind for told in self.told}
        untried = [kind for kind in place.variants if kind not in known]
        kept = Told(kind=place.kept, gain=0.0)
        return place.choose(untried, (kept, *self.told), f"{place.rng}/{place.path}/{len(self.told)}")

    @cached_property
    def candidate(self) -> Candidate:
        edit = replacement(self.best.network, self.place.path, self.kind)
        return Candidate(network=apply(self.best.network, edit), parent=self.best, edits=(edit,))

    @property
    def possible(self) -> tuple[Candidate, ...]:
        """All that may be tried here, if none of it is kept."""
        path, best = self.place.path, self.best
        edits = [replacement(best.network, path, kind) for kind in self.place.variants]
        return tuple(Candidate(network=apply(best.network, edit), parent=best, edits=(edit,)) for edit in edits)

    @property
    def share(self) -> float:
        return self.place.share

    @property
    def tries_left(self) -> int:
        """How many variants are tried from here on, this one included."""
        return self.place.tries - len(self.told)

    def after(self, decision: Decision) -> Step | None:
        if self.place.choose is None or self.tries_left == 1:
            return self.successor(decision.kept)
        gain = self.ahead + decision.gain if decision.scores else None
        return self._next(decision.kept, gain)

    def successor(self, kept: bool) -> Step | None:
        if self.tries_left == 1:
            return self._done_kept if kept else self.without
        if self.place.choose is not None:
            return None
        return self._kept if kept else self._dropped

    def left(self, kept: bool) -> int:
        rest = self.without
        return self.tries_left + (rest.left(kept) if rest else 0)

    @cached_property
    def without(self) -> Step | None:
        """What follows if no variant from here on is kept."""
        return self.place.go_on(self.best)

    @cached_property
    def _done_kept(self) -> Step | None:
        return self.place.go_on(self.candidate)

    @cached_property
    def _kept(self) -> Step:
        return self._next(True, 0.0)

    @cached_property
    def _dropped(self) -> Step:
        return self._next(False, 0.0)

    def _next(self, kept: bool, gain: float | None) -> Step:
        told = (*self.told, Told(kind=self.kind, gain=gain))
        best, ahead = (self.candidate, gain or 0.0) if kept else (self.best, self.ahead)
        return replace(self, best=best, ahead=ahead, told=told)
