"""The two halves of every search: a rule that proposes, and a judge that says whether the proposal is kept.

Both are pure. `Procedure.view` replays a history through them and says what is decided and what is waited for, so
resuming a search, following a table of scores and looking ahead are all the same walk.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from buildup.trials.candidate import Candidate
from buildup.trials.decision import Decision, Verdict
from buildup.trials.history import History
from buildup.trials.outcome import Failure, Outcome, Score
from buildup.trials.training import Training


class Rule(Protocol):
    """What to try next."""

    @property
    def base(self) -> Candidate:
        """Where the search starts."""
        ...

    def propose(self, decisions: Sequence[Decision]) -> Candidate | None:
        """The next candidate after these verdicts, in order; None when the search is over."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A candidate's and its parent's score with the same seed: same data order, draws and shared initial weights."""

    candidate: Score
    parent: Score


@dataclass(frozen=True, slots=True, kw_only=True)
class More:
    """A judge's answer when it has not seen enough: how many seeds it wants in all."""

    seeds: int


class Judge(Protocol):
    """Whether a candidate is kept."""

    @property
    def name(self) -> str:
        """The word that users choose it by."""
        ...

    def judge(self, pairs: Sequence[Pair], looks: int) -> Verdict | More:
        """The verdict on pairs of equal seeds at the given look, counted from 1; or how many seeds it wants."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Where a search stands."""

    decisions: tuple[Decision, ...]
    best: Candidate
    current: Candidate | None
    """The candidate that is waited for, the base at first; None at the end."""
    needed: tuple[Training, ...]
    """The trainings that the next verdict waits for, most important first."""
    candidates: tuple[Candidate, ...]
    """All that were proposed so far, the base first, the current one last."""

    @property
    def finished(self) -> bool:
        """Whether nothing is left to try."""
        return self.current is None


@dataclass(frozen=True, kw_only=True)
class Procedure:
    """A rule and a judge over a fixed row of seeds."""

    rule: Rule
    judge: Judge
    seeds: int
    """How many seeds a candidate gets before the first look."""
    first_seed: int = 0
    costs: Callable[[Candidate], tuple[int, int]] | None = None
    """Parameters and MACs of a candidate, where they can be known."""

    @cached_property
    def base(self) -> Candidate:
        """Where the search starts."""
        return self.rule.base

    def view(self, history: History) -> View:
        """What follows from a history. Verdicts that it holds already are taken as they are."""
        decisions: list[Decision] = []
        best, candidates = self.base, [self.base]
        if waiting := self._missing(history, self.base, self.seeds):
            return View(decisions=(), best=best, current=best, needed=waiting, candidates=(best,))
        while candidate := self.rule.propose(decisions):
            candidates.append(candidate)
            step = len(decisions)
            if step < len(history.decisions):
                decision = history.decisions[step]
                assert decision.candidate == candidate.id, "the history belongs to another search"
            else:
                answer = self._decide(history, candidate, step + 1)
                if not isinstance(answer, Decision):
                    return View(
                        decisions=tuple(decisions),
                        best=best,
                        current=candidate,
                        needed=answer,
                        candidates=tuple(candidates),
                    )
                decision = answer
            decisions.append(decision)
            if decision.kept:
                best = candidate
        return View(decisions=tuple(decisions), best=best, current=None, needed=(), candidates=tuple(candidates))

    def verdicts_left(self, decisions: Sequence[Decision], kept: bool) -> int:
        """How many verdicts are still to come if all of them are the same."""
        imagined = list(decisions)
        while candidate := self.rule.propose(imagined):
            imagined.append(imagine(candidate, kept))
        return len(imagined) - len(decisions)

    def _decide(self, history: History, candidate: Candidate, step: int) -> Decision | tuple[Training, ...]:
        """The decision on a candidate, or the trainings that it waits for."""
        assert candidate.parent is not None
        looks, seeds = 1, self.seeds
        while True:
            if failed := self._failures(history, candidate, seeds):
                verdict: Verdict | More = _dropped(f"a training of it failed ({failed[0].reason}): {failed[0].summary}")
            elif waiting := self._missing(history, candidate, seeds) + self._missing(history, candidate.parent, seeds):
                return waiting
            elif pairs := self._pairs(history, candidate, seeds):
                verdict = self.judge.judge(pairs, looks)
            else:
                verdict = _dropped("no training of its parent has a score to compare with")
            if isinstance(verdict, Verdict):
                return self._decision(history, candidate, step, verdict, looks, seeds)
            assert verdict.seeds > seeds, "a judge that wants more must ask for more"
            looks, seeds = looks + 1, verdict.seeds

    def _row(self, seeds: int) -> range:
        return range(self.first_seed, self.first_seed + seeds)

    def _missing(self, history: History, candidate: Candidate, seeds: int) -> tuple[Training, ...]:
        row = self._row(seeds)
        return tuple(
            Training(candidate=candidate, seed=seed) for seed in row if not history.outcome(candidate.id, seed)
        )

    def _failures(self, history: History, candidate: Candidate, seeds: int) -> list[Failure]:
        outcomes = (history.outcome(candidate.id, seed) for seed in self._row(seeds))
        return [outcome for outcome in outcomes if isinstance(outcome, Failure)]

    def _pairs(self, history: History, candidate: Candidate, seeds: int) -> list[Pair]:
        assert candidate.parent is not None
        pairs = []
        for seed in self._row(seeds):
            ours, theirs = history.outcome(candidate.id, seed), history.outcome(candidate.parent.id, seed)
            # A parent was kept, so the seeds that it was kept with have scores; a later one may have failed.
            if isinstance(ours, Score) and isinstance(theirs, Score):
                pairs.append(Pair(candidate=ours, parent=theirs))
        return pairs

    def _decision(
        self, history: History, candidate: Candidate, step: int, verdict: Verdict, looks: int, seeds: int
    ) -> Decision:
        assert candidate.parent is not None
        scores = [history.outcome(candidate.id, seed) for seed in self._row(seeds)]
        parent_scores = [history.outcome(candidate.parent.id, seed) for seed in self._row(seeds)]
        params, macs = self.costs(candidate) if self.costs else (None, None)
        return Decision(
            step=step,
            candidate=candidate.id,
            parent=candidate.parent.id,
            edit=candidate.edit,
            layout=candidate.layout,
            scores=_accuracies(scores),
            parent_scores=_accuracies(parent_scores),
            gain=verdict.gain,
            ci=verdict.ci,
            verdict=verdict.verdict,
            reason=verdict.reason,
            judge=self.judge.name,
            level=verdict.level,
            looks=looks,
            seeds=seeds,
            params=params,
            macs=macs,
        )


def imagine(candidate: Candidate, kept: bool) -> Decision:
    """A decision that has not fallen, for asking a rule what would follow from it."""
    return Decision(
        step=0,
        candidate=candidate.id,
        parent=candidate.parent.id if candidate.parent else "",
        edit=candidate.edit,
        layout=candidate.layout,
        scores=(),
        parent_scores=(),
        gain=0.0,
        ci=(0.0, 0.0),
        verdict="keep" if kept else "drop",
        reason="imagined",
        judge="",
        level=0.0,
        looks=0,
        seeds=0,
    )


def _accuracies(outcomes: Sequence[Outcome | None]) -> tuple[float, ...]:
    return tuple(outcome.accuracy for outcome in outcomes if isinstance(outcome, Score))


def _dropped(why: str) -> Verdict:
    """The verdict on a candidate that can't be compared."""
    return Verdict(verdict="drop", gain=0.0, ci=(0.0, 0.0), level=0.0, reason=f"dropped: {why}")
