"""Replay of a search: a rule proposes candidates, and a judge decides which are kept.

Both are pure functions of the history. `Replay.view` replays a history and returns what is decided and what is needed
next. Resuming a search, simulating it and choosing trainings ahead all use this replay.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

from buildup.errors import RunError, SearchError
from buildup.graph.network import Network
from buildup.space.schema import SearchSpace
from buildup.statistics.base_checks import GAINING, Climb, Rounding, climb, rounding
from buildup.statistics.judges import JUDGES, Judge
from buildup.statistics.mixed_model import NormalMixture, total_gain
from buildup.statistics.paired_difference import Comparison, Pair, compare
from buildup.strategies.alternet import ALTERNET
from buildup.strategies.network_size import Limits
from buildup.strategies.strategy import Rule, Step, Strategy
from buildup.trials.decision import Decision, Verdict
from buildup.trials.history import History
from buildup.trials.objective import ACCURACY, Objective
from buildup.trials.outcome import Failure, Score
from buildup.trials.training import Candidate, Check, Training, training_id

CountCosts = Callable[[Candidate], tuple[int, int]]
"""Counts parameters and MACs of a candidate."""
MIXED = "trained on several kinds of device"


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The state of a search."""

    decisions: tuple[Decision, ...]
    best: Candidate
    current: Candidate | None
    """The candidate to decide on, at first the base; None at the end."""
    needed: tuple[Training, ...]
    """The trainings that the next verdict needs, most important first."""
    candidates: tuple[Candidate, ...]
    """All candidates so far: the base first, the current one last."""
    step: Step | None = None
    """The step of the current candidate, or the first step while the base is trained; None at the end."""
    seeds: int = 0
    """The number of seeds at the next look, which is an interim analysis by the judge."""
    comparisons: tuple[Comparison, ...] = ()
    """The comparisons of the decisions so far, without those that compared no scores."""
    checks: tuple[Training, ...] = ()
    """The trainings of the checks of the base that have not ended. No verdict waits for them, but the end does."""
    climb: Climb | None = None
    """What the longer training of the base gained; None where that is not known."""
    rounding: Rounding | None = None
    """How much the score of the base depends on rounding; None where that is not known."""

    @property
    def finished(self) -> bool:
        """Whether the rule has nothing left to try."""
        return self.current is None

    @property
    def ended(self) -> bool:
        """Whether no training is left."""
        return self.finished and not self.checks

    def gain(self, objective: Objective) -> NormalMixture | None:
        """The gain of the best candidate over the base, as its verdicts tell it; None without such verdicts."""
        steps, candidate = set[tuple[str, str]](), self.best
        while candidate.parent is not None:
            steps.add((candidate.id, candidate.parent.id))
            candidate = candidate.parent
        kept = [(one.candidate, one.parent) in steps for one in self.comparisons]
        if not steps or sum(kept) != len(steps):
            return None
        return total_gain(self.comparisons, kept, objective.seed_deviation)

    @property
    def dropped(self) -> tuple[Comparison, ...]:
        """The comparisons of the verdicts that kept nothing.

        Only their noise may be used again: a block whose seeds agree by chance is more likely to be kept.
        """
        kept = {one.candidate for one in self.decisions if one.kept}
        return tuple(one for one in self.comparisons if one.candidate not in kept)

    def verdicts_left(self, kept: bool) -> int:
        """The number of verdicts left if all candidates are kept, or all dropped."""
        return self.step.remaining(kept) if self.step else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """No verdict yet: the seeds of the next look, and the trainings that it needs."""

    seeds: int
    needed: tuple[Training, ...]


class _Replayed(NamedTuple):
    """A recorded decision that was replayed already. A later view continues after it."""

    decision: Decision
    step: Step
    best: Candidate
    comparisons: tuple[Comparison, ...]
    """All comparisons up to this decision."""


@dataclass(frozen=True, kw_only=True)
class Replay:
    """A rule and a judge, with the seeds that each candidate is trained with."""

    rule: Rule
    judge: Judge
    seeds: int
    """The number of seeds at the first look."""
    first_seed: int = 0
    costs: CountCosts | None = None
    """None if candidates are only letters."""
    limits: Limits = field(default_factory=Limits)
    checks: tuple[Check, ...] = ()
    """The checks for which the base is trained once more."""
    foresees: bool = True
    """Whether the judge can be asked about scores that are only likely."""
    foreseen: dict[tuple[Comparison, int], Mapping[str, int]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """What it said, as `speculation.py` keeps it."""
    _known_costs: dict[str, tuple[int, int]] = field(default_factory=dict, init=False, repr=False, compare=False)
    _known_comparisons: dict[tuple[str, str, int], tuple[tuple[Pair, ...], Comparison]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _replayed: list[_Replayed] = field(default_factory=list, init=False, repr=False, compare=False)

    @cached_property
    def base(self) -> Candidate:
        return self.rule.base

    @cached_property
    def checked(self) -> Mapping[Check, Candidate]:
        """The base once more, for each check. Each is trained with the first seed."""
        return {check: Candidate(network=self.base.network, parent=self.base, check=check) for check in self.checks}

    @property
    def most_seeds(self) -> int:
        return self.seeds * self.judge.most_times

    def notices(self, before: History, history: History) -> bool:
        """Whether the view may differ between two histories. Epochs do not change it; outcomes and decisions do."""
        return history.outcomes is not before.outcomes or history.decisions is not before.decisions

    def view(self, history: History) -> View:
        """Replay a history. Recorded decisions are taken as they are.

        Raises:
            RunError: A recorded decision is on another candidate than the rule proposes.
        """
        replayed = self._replayed
        del replayed[_shared(replayed, history.decisions) :]
        decisions = [done.decision for done in replayed]
        candidates = [self.base, *(done.step.candidate for done in replayed)]
        step, best = self.rule.first, self.base
        compared: tuple[Comparison, ...] = ()
        if replayed:
            decision, step, best, compared = replayed[-1]
            step = step.after(decision)
        current: Candidate | None = self.base
        waiting: Waiting | None = None
        if missing := self._missing(history, self.base, self.seeds):
            waiting = Waiting(seeds=self.seeds, needed=missing)
        while waiting is None:
            current = step.candidate if step else None
            if step is None or current is None:
                break
            candidates.append(current)
            number = len(decisions)
            is_recorded = number < len(history.decisions)
            if is_recorded:
                decision = history.decisions[number]
                if decision.candidate != current.id:
                    raise RunError(
                        f"step {decision.step} of this run decided on {decision.layout} ({decision.edit}), but by its "
                        f"settings {current.layout} ({current.edit}) would be tried there: they were changed since, or "
                        f"the decisions are those of another run. Put run.yaml back as it was, or search anew."
                    )
            else:
                answer = self.decide(history, step, number + 1, compared)
                if isinstance(answer, Waiting):
                    waiting = answer
                    break
                decision = answer
            decisions.append(decision)
            if decision.level:  # otherwise no scores were compared
                compared = (*compared, *self.compared(history, current, decision.seeds))
            best = current if decision.kept else best
            if is_recorded:
                replayed.append(_Replayed(decision, step, best, compared))
            step = step.after(decision)
        return View(
            decisions=tuple(decisions),
            best=best,
            current=current,
            needed=waiting.needed if waiting else (),
            candidates=tuple(candidates),
            step=step,
            seeds=waiting.seeds if waiting else self.seeds,
            comparisons=compared,
            checks=tuple(training for one in self.checked.values() for training in self._missing(history, one, 1)),
            climb=self._climb(history, compared),
            rounding=self._rounding(history),
        )

    def required_ids(self, view: View) -> set[str]:
        """The ids of the trainings that the decisions so far need. All others were trained ahead."""
        rows = [(self.base, self.seeds)]
        for candidate, decision in zip(view.candidates[1:], view.decisions, strict=False):
            assert candidate.parent is not None
            # Where a training failed, the parent was not needed with the seeds of that look.
            parent_seeds = decision.seeds if decision.scores else decision.seeds - 1 if decision.looks > 1 else 0
            rows += [(candidate, decision.seeds), (candidate.parent, parent_seeds)]
        if view.current and view.current is not self.base:
            rows.append((view.current, view.seeds))
        return {training_id(candidate.id, seed) for candidate, seeds in rows for seed in self._row(seeds)}

    def decide(self, history: History, step: Step, number: int, earlier: tuple[Comparison, ...]) -> Decision | Waiting:
        """The decision on a candidate, the `number`th of the search, or the trainings that it still needs."""
        candidate = step.candidate
        assert candidate.parent is not None
        if too_large := self.too_large(candidate):
            return self._decision(history, candidate, number, _drop(f"dropped untrained: {too_large}"), 0)
        for seeds in range(self.seeds, self.most_seeds + 1):
            judged: Verdict | None
            if failed := self._first_failure(history, candidate, seeds):
                # Which other seeds have ended depends on the workers. So all seeds before the failed one must end,
                # and no score counts.
                if missing := self._missing(history, candidate, failed[0]):
                    return Waiting(seeds=seeds, needed=missing)
                judged = _drop(f"dropped: a training of it failed ({failed[1].reason}): {failed[1].summary}")
                decision = self._decision(history, candidate, number, judged, failed[0] + 1)
                return replace(decision, scores=(), parent_scores=(), looks=seeds - self.seeds + 1)
            if missing := self.missing(history, candidate, seeds):
                return Waiting(seeds=seeds, needed=missing)
            if compared := self.compared(history, candidate, seeds):
                # Seeds whose training of the parent failed are no pairs, now or at the last look.
                lost = seeds - compared[0].seeds
                first, last = max(1, self.seeds - lost), self.most_seeds - lost
                judged = self.judge.judge(compared[0], earlier, first=first, last=last, share=step.share)
                if judged and (mixed := self._mixed(history, candidate, seeds)):
                    judged = replace(judged, reason=f"{judged.reason}; {mixed}")
            else:
                judged = _drop("dropped: no training of its parent has a score to compare with")
            if judged is not None:
                return self._decision(history, candidate, number, judged, seeds)
        raise SearchError(f"judge {self.judge.name} gave no verdict at its last look, at {self.most_seeds} seeds.")

    def too_large(self, candidate: Candidate) -> str | None:
        """The limit that a candidate exceeds, as a message; None if it fits."""
        if self.costs is None or self.limits == Limits():
            return None
        return self.limits.passed(*self._costs_of(candidate))

    def _costs_of(self, candidate: Candidate) -> tuple[int, int]:
        assert self.costs is not None
        if candidate.id not in self._known_costs:
            self._known_costs[candidate.id] = self.costs(candidate)
        return self._known_costs[candidate.id]

    @property
    def fits_any(self) -> bool:
        """Whether at least one candidate fits the limits, if all before it are dropped."""
        step = self.rule.first
        while step is not None:
            if not (too_large := self.too_large(step.candidate)):
                return True
            step = step.after(self._decision(History(), step.candidate, 0, _drop(too_large), 0))
        return False

    def missing(self, history: History, candidate: Candidate, seeds: int) -> tuple[Training, ...]:
        """The trainings that a look still needs, those of the candidate first, then of its parent."""
        parent = self._missing(history, candidate.parent, seeds) if candidate.parent else ()
        return self._missing(history, candidate, seeds) + parent

    def pairs(self, history: History, candidate: Candidate, seeds: int) -> list[Pair]:
        """The pairs of the first seeds for which candidate and parent both have scores."""
        assert candidate.parent is not None
        pairs = []
        for seed in self._row(seeds):
            ours, theirs = history.outcome(candidate.id, seed), history.outcome(candidate.parent.id, seed)
            # The parent has scores of the seeds that it was kept with. Later seeds of it may have failed.
            if isinstance(ours, Score) and isinstance(theirs, Score):
                pairs.append(Pair(candidate=ours, parent=theirs))
        return pairs

    def _climb(self, history: History, comparisons: Sequence[Comparison]) -> Climb | None:
        """The check of the base with the largest gain, of those that should gain nothing."""
        gaining = [check for check in self.checked if check in GAINING]
        found = [
            climb(compared[0], comparisons, self.judge.objective, check, checks=len(gaining))
            for check in gaining
            if (compared := self.compared(history, self.checked[check], 1))
        ]
        return max(found, key=lambda one: one.least, default=None)

    def _rounding(self, history: History) -> Rounding | None:
        other = self.checked.get("rounding")
        pairs = self.pairs(history, other, 1) if other else ()
        return rounding(pairs[0], self.judge.objective) if pairs else None

    def _row(self, seeds: int) -> range:
        return range(self.first_seed, self.first_seed + seeds)

    def _missing(self, history: History, candidate: Candidate, seeds: int) -> tuple[Training, ...]:
        missing = (seed for seed in self._row(seeds) if training_id(candidate.id, seed) not in history.outcomes)
        return tuple(Training(candidate=candidate, seed=seed) for seed in missing)

    def _first_failure(self, history: History, candidate: Candidate, seeds: int) -> tuple[int, Failure] | None:
        """The first failure, with the number of seeds before it."""
        for number, seed in enumerate(self._row(seeds)):
            if isinstance(outcome := history.outcome(candidate.id, seed), Failure):
                return number, outcome
        return None

    def compared(self, history: History, candidate: Candidate, seeds: int) -> tuple[Comparison, ...]:
        """The comparison of a candidate with its parent over the first seeds; empty without a pair of scores."""
        assert candidate.parent is not None
        pairs = self.pairs(history, candidate, seeds)
        key = (candidate.id, candidate.parent.id, seeds)
        known, found = self._known_comparisons.get(key, ((), None))
        if found is None or len(pairs) != len(known) or not all(map(_is_same, pairs, known)):
            if not pairs:
                return ()
            found = compare(pairs, self.judge.objective, candidate=candidate.id, parent=candidate.parent.id)
            self._known_comparisons[key] = (tuple(pairs), found)
        return (found,)

    def _decision(self, history: History, candidate: Candidate, number: int, verdict: Verdict, seeds: int) -> Decision:
        assert candidate.parent is not None

        def values(network: str) -> tuple[float, ...]:
            outcomes = (history.outcome(network, seed) for seed in self._row(seeds))
            return tuple(self.judge.objective.value(one) for one in outcomes if isinstance(one, Score))

        params, macs = None, None
        if self.costs:
            params, macs = history.costs.get(candidate.id) or self._costs_of(candidate)
        return Decision(
            step=number,
            candidate=candidate.id,
            parent=candidate.parent.id,
            edit=candidate.edit,
            layout=candidate.layout,
            scores=values(candidate.id),
            parent_scores=values(candidate.parent.id),
            gain=verdict.gain,
            ci=verdict.ci,
            verdict=verdict.verdict,
            reason=verdict.reason,
            judge=self.judge.name,
            level=verdict.level,
            looks=max(0, seeds - self.seeds + 1),
            seeds=seeds,
            params=params,
            macs=macs,
            objective=self.judge.objective.name,
            unit=self.judge.objective.unit,
        )

    def _mixed(self, history: History, candidate: Candidate, seeds: int) -> str:
        """A note on a comparison over several kinds of device, where equal networks get different scores; or empty."""

        def kinds(network: str) -> list[str]:
            outcomes = (history.outcome(network, seed) for seed in self._row(seeds))
            return sorted({one.device for one in outcomes if isinstance(one, Score) and one.device})

        assert candidate.parent is not None
        ours, theirs = kinds(candidate.id), kinds(candidate.parent.id)
        if len({*ours, *theirs}) < 2:
            return ""
        return f"{MIXED}: the candidate on {' and '.join(ours)}, its parent on {' and '.join(theirs)}"


def _shared(replayed: Sequence[_Replayed], decisions: Sequence[Decision]) -> int:
    """The number of replayed decisions before the first one that another history does not have."""
    same = 0
    for done, decision in zip(replayed, decisions, strict=False):
        if done.decision is not decision and done.decision != decision:
            break
        same += 1
    return same


def _is_same(one: Pair, other: Pair) -> bool:
    return one.candidate is other.candidate and one.parent is other.parent


def _drop(reason: str) -> Verdict:
    return Verdict(verdict="drop", gain=0.0, ci=(0.0, 0.0), level=0.0, reason=reason)


def make_replay(
    network: Network,
    space: SearchSpace,
    *,
    strategy: Strategy = ALTERNET,
    judge: str,
    objective: Objective = ACCURACY,
    seeds: int,
    first_seed: int = 0,
    costs: CountCosts | None = None,
    limits: Limits | None = None,
    checks: tuple[Check, ...] = (),
) -> Replay:
    return Replay(
        rule=strategy.make(Candidate(network=network), space, first_seed),
        judge=replace(JUDGES[judge], min_gain=space.min_gain, objective=objective),
        seeds=seeds,
        first_seed=first_seed,
        costs=costs,
        limits=limits or Limits(),
        checks=checks,
    )
