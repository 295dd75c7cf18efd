"""The build-up rule of the paper (paper.md 3).

From the end of the network, Conv blocks are replaced by attention in an alternating way: n-1, n-3, ... of the last
stage. When a replacement does not help, the rule goes to the end of the stage before. A look-ahead tries one more
place of the same stage on top of the dropped one before it gives the stage up, as the paper did in c3.

    >>> from buildup.graph.network import sketch
    >>> rule = AlterNetRule(base=Candidate(network=sketch("CC|CC")), space=SearchSpace(name="s", description=""))
    >>> rule.propose(()).edit
    'c2.1: conv -> msa(heads=24, window=4)'
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from buildup.graph.edit import apply
from buildup.rules.moves import Move, moves
from buildup.space.schema import SearchSpace
from buildup.trials.candidate import Candidate
from buildup.trials.decision import Decision


@dataclass(frozen=True, slots=True, kw_only=True)
class AlterNetRule:
    """The strict rule, and with the space's `look_ahead` the paper's own form of it."""

    base: Candidate
    space: SearchSpace

    def propose(self, decisions: Sequence[Decision]) -> Candidate | None:
        """The candidate that follows from the verdicts so far; None at the end. It remembers nothing: it walks anew."""
        walk = self._walk()
        try:
            candidate = next(walk)
            for decision in decisions:
                candidate = walk.send(decision.kept)
        except StopIteration:
            return None
        return candidate

    def _walk(self) -> Generator[Candidate, bool, None]:
        best = self.base
        for places in reversed(moves(self.base.network, self.space)):
            built_on, failures = best, 0
            for place in places:
                candidate = _step(best, built_on, place)
                if (yield candidate):
                    best = built_on = candidate
                    failures = 0
                    continue
                failures += 1
                if failures > self.space.look_ahead:
                    break
                built_on = candidate


def _step(best: Candidate, built_on: Candidate, place: Move) -> Candidate:
    edit = place.edit(built_on.network)
    pending = built_on.edits if built_on is not best else ()
    return Candidate(network=apply(built_on.network, edit), parent=best, edits=(*pending, edit))
