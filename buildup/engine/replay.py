"""The walk of every search: a rule proposes, and a judge says whether the proposal is kept.

Both are pure. `Procedure.view` replays a history through them and says what is decided and what is waited for, so
resuming a search, following a table of scores and looking ahead are all the same walk.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from buildup.errors import RunError
from buildup.graph.network import Network
from buildup.space.schema import SearchSpace
from buildup.statistics.judges import JUDGES, Judge
from buildup.statistics.paired_difference import Pair, PooledVariance, pooled_variance
from buildup.strategies.alternet import ALTERNET
from buildup.strategies.network_size import Limits
from buildup.strategies.strategy import Rule, Step, Strategy, hypothetical, walk
from buildup.trials.decision import Decision, Verdict
from buildup.trials.history import History
from buildup.trials.objective import ACCURACY, Objective
from buildup.trials.outcome import Failure, Outcome, Score
from buildup.trials.training import Candidate, Training, training_id


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
    step: Step | None = None
    """The try that is waited for, or that follows when the base is done; None at the end."""
    interim: int = 1
    """At which look the next verdict is expected to fall, from 1 on."""
    spread: PooledVariance = field(default_factory=PooledVariance)
    """What the verdicts so far have shown of the seeds."""

    @property
    def finished(self) -> bool:
        """Whether nothing is left to try."""
        return self.current is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """There is no verdict yet: which trainings the given look still lacks."""

    interim: int
    needed: tuple[Training, ...]


@dataclass(slots=True)
class _Walked:
    """The part of a history that was replayed already: decisions are only ever added to one."""

    decisions: list[Decision] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    best: list[Candidate] = field(default_factory=list)
    spreads: list[PooledVariance] = field(default_factory=list)

    def cut(self, decisions: Sequence[Decision]) -> None:
        """Forget what another history does not share."""
        same = 0
        for mine, theirs in zip(self.decisions, decisions, strict=False):
            if mine is not theirs and mine != theirs:
                break
            same += 1
        for row in (self.decisions, self.steps, self.best, self.spreads):
            del row[same:]


@dataclass(frozen=True, kw_only=True)
class Replay:
    """A rule and a judge over a fixed row of seeds."""

    rule: Rule
    judge: Judge
    seeds: int
    """How many seeds a candidate gets before the first look."""
    first_seed: int = 0
    costs: Callable[[Candidate], tuple[int, int]] | None = None
    """Parameters and MACs of a candidate, where they can be known."""
    limits: Limits = field(default_factory=Limits)
    _known_costs: dict[str, tuple[int, int]] = field(default_factory=dict, init=False, repr=False, compare=False)
    _walked: _Walked = field(default_factory=_Walked, init=False, repr=False, compare=False)

    @cached_property
    def base(self) -> Candidate:
        """Where the search starts."""
        return self.rule.base

    @property
    def most_seeds(self) -> int:
        """How many seeds a candidate gets before the last look."""
        return self.seeds * self.judge.looks[-1]

    def notices(self, before: History, history: History) -> bool:
        """Whether a verdict or what is to be trained may hang on what has come since: an epoch is no such news."""
        return history.outcomes is not before.outcomes or history.decisions is not before.decisions

    def view(self, history: History) -> View:
        """What follows from a history. Verdicts that it holds already are taken as they are."""
        walked = self._walked
        walked.cut(history.decisions)
        step = walk(walked.steps[-1], walked.decisions[-1:]) if walked.steps else self.rule.first
        decisions, candidates = list(walked.decisions), [self.base, *(done.candidate for done in walked.steps)]
        best = walked.best[-1] if walked.best else self.base
        spread = walked.spreads[-1] if walked.spreads else PooledVariance()
        waiting: Waiting | None = None
        if missing := self._missing(history, self.base, self.seeds):
            waiting = Waiting(interim=1, needed=missing)
        current: Candidate | None = self.base
        while waiting is None:
            if step is None:
                current = None
                break
            current = step.candidate
            candidates.append(current)
            number = len(decisions)
            if number < len(history.decisions):
                decision = history.decisions[number]
                if decision.candidate != current.id:
                    raise RunError(
                        f"step {decision.step} of this run decided on {decision.layout} ({decision.edit}), but by its "
                        f"settings {current.layout} ({current.edit}) would be tried there: they were changed since, or "
                        f"the decisions are those of another run. Put run.yaml back as it was, or search anew."
                    )
            else:
                answer = self.decide(history, step, number + 1, spread)
                if isinstance(answer, Waiting):
                    waiting = answer
                    break
                decision = answer
            decisions.append(decision)
            spread += self._shown(history, step.candidate, decision)
            best = current if decision.kept else best
            if number < len(history.decisions):
                walked.decisions.append(decision)
                walked.steps.append(step)
                walked.best.append(best)
                walked.spreads.append(spread)
            step = step.after(decision)
        return View(
            decisions=tuple(decisions),
            best=best,
            current=current,
            needed=waiting.needed if waiting else (),
            candidates=tuple(candidates),
            step=step,
            interim=waiting.interim if waiting else 1,
            spread=spread,
        )

    def verdicts_left(self, decisions: Sequence[Decision], kept: bool) -> int:
        """How many verdicts are still to come if all of them are the same."""
        step = walk(self.rule.first, decisions)
        return step.remaining(kept) if step else 0

    def required_ids(self, view: View) -> set[str]:
        """The ids of the trainings that the base and the verdicts so far asked for; others were trained ahead."""
        rows = [(self.base, self.seeds)]
        for candidate, decision in zip(view.candidates[1:], view.decisions, strict=False):
            assert candidate.parent is not None
            rows += [(candidate, decision.seeds), (candidate.parent, self._asked_of_parent(decision))]
        if view.current and view.current is not self.base:
            rows.append((view.current, self.seeds * self.judge.looks[view.interim - 1]))
        return {training_id(candidate.id, seed) for candidate, seeds in rows for seed in self._row(seeds)}

    def _asked_of_parent(self, decision: Decision) -> int:
        """How many seeds of the parent a verdict asked for: none in the look at which a training failed."""
        if decision.scores:
            return decision.seeds
        return self.seeds * self.judge.looks[decision.looks - 2] if decision.looks > 1 else 0

    def decide(self, history: History, step: Step, number: int, spread: PooledVariance) -> Decision | Waiting:
        """The decision on a step, the `number`th of the search, or the trainings that it waits for."""
        candidate = step.candidate
        assert candidate.parent is not None
        if too_large := self.too_large(candidate):
            return self._decision(history, candidate, number, _untrained(too_large), 0, 0)
        for interim, multiple in enumerate(self.judge.looks, start=1):
            seeds = self.seeds * multiple
            judged: Verdict | None
            if failed := self._first_failure(history, candidate, seeds):
                # Which seeds have ended beside it depends on the workers. So those before it are waited for, and
                # none of their scores counts.
                if earlier := self._missing(history, candidate, failed[0]):
                    return Waiting(interim=interim, needed=earlier)
                judged = _dropped(f"a training of it failed ({failed[1].reason}): {failed[1].summary}")
                decision = self._decision(history, candidate, number, judged, interim, failed[0] + 1)
                return replace(decision, scores=(), parent_scores=())
            if missing := self.missing(history, candidate, interim):
                return Waiting(interim=interim, needed=missing)
            if pairs := self.pairs(history, candidate, interim):
                judged = self.judge.judge(pairs, interim, step.share, spread)
            else:
                judged = _dropped("no training of its parent has a score to compare with")
            if judged is not None:
                return self._decision(history, candidate, number, judged, interim, seeds)
        raise AssertionError("a judge must come to a verdict at its last look")

    def too_large(self, candidate: Candidate) -> str | None:
        """Why a candidate is not worth training, whatever its score."""
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
        """Whether any candidate will be trained: the rule goes on after drops until one fits."""
        step = self.rule.first
        while step is not None:
            if not self.too_large(step.candidate):
                return True
            step = step.after(hypothetical(step.candidate, kept=False))
        return False

    def missing(self, history: History, candidate: Candidate, interim: int) -> tuple[Training, ...]:
        """What a look lacks: trainings of the candidate first, then of its parent."""
        seeds = self.seeds * self.judge.looks[interim - 1]
        parent = self._missing(history, candidate.parent, seeds) if candidate.parent else ()
        return self._missing(history, candidate, seeds) + parent

    def pairs(self, history: History, candidate: Candidate, interim: int) -> list[Pair]:
        """The seeds of a look that candidate and parent both have scores of."""
        return self._pairs(history, candidate, self.seeds * self.judge.looks[interim - 1])

    def _row(self, seeds: int) -> range:
        return range(self.first_seed, self.first_seed + seeds)

    def _missing(self, history: History, candidate: Candidate, seeds: int) -> tuple[Training, ...]:
        missing = (seed for seed in self._row(seeds) if training_id(candidate.id, seed) not in history.outcomes)
        return tuple(Training(candidate=candidate, seed=seed) for seed in missing)

    def _first_failure(self, history: History, candidate: Candidate, seeds: int) -> tuple[int, Failure] | None:
        """How many seeds come before the first that failed, and how it did."""
        for number, seed in enumerate(self._row(seeds)):
            if isinstance(outcome := history.outcome(candidate.id, seed), Failure):
                return number, outcome
        return None

    def _pairs(self, history: History, candidate: Candidate, seeds: int) -> list[Pair]:
        assert candidate.parent is not None
        pairs = []
        for seed in self._row(seeds):
            ours, theirs = history.outcome(candidate.id, seed), history.outcome(candidate.parent.id, seed)
            # A parent was kept, so the seeds that it was kept with have scores; a later one may have failed.
            if isinstance(ours, Score) and isinstance(theirs, Score):
                pairs.append(Pair(candidate=ours, parent=theirs))
        return pairs

    def _shown(self, history: History, candidate: Candidate, decision: Decision) -> PooledVariance:
        """What a verdict shows of the seeds. It stands on the seeds of its row, whatever else was trained ahead."""
        if not decision.level:  # nothing was compared
            return PooledVariance()
        pairs = self._pairs(history, candidate, decision.seeds)
        return pooled_variance(pairs, self.judge.objective) if pairs else PooledVariance()

    def _decision(
        self, history: History, candidate: Candidate, number: int, verdict: Verdict, interim: int, seeds: int
    ) -> Decision:
        assert candidate.parent is not None
        scores = [history.outcome(candidate.id, seed) for seed in self._row(seeds)]
        parent_scores = [history.outcome(candidate.parent.id, seed) for seed in self._row(seeds)]
        params, macs = self._costs_of(candidate) if self.costs else (None, None)
        return Decision(
            step=number,
            candidate=candidate.id,
            parent=candidate.parent.id,
            edit=candidate.edit,
            layout=candidate.layout,
            scores=self._values(scores),
            parent_scores=self._values(parent_scores),
            gain=verdict.gain,
            ci=verdict.ci,
            verdict=verdict.verdict,
            reason=verdict.reason,
            judge=self.judge.name,
            level=verdict.level,
            looks=interim,
            seeds=seeds,
            params=params,
            macs=macs,
            objective=self.judge.objective.name,
            unit=self.judge.objective.unit,
        )

    def _values(self, outcomes: Sequence[Outcome | None]) -> tuple[float, ...]:
        return tuple(self.judge.objective.value(outcome) for outcome in outcomes if isinstance(outcome, Score))


def _dropped(why: str) -> Verdict:
    """The verdict on a candidate that can't be compared."""
    return Verdict(verdict="drop", gain=0.0, ci=(0.0, 0.0), level=0.0, reason=f"dropped: {why}")


def _untrained(why: str) -> Verdict:
    return Verdict(verdict="drop", gain=0.0, ci=(0.0, 0.0), level=0.0, reason=f"dropped untrained: {why}")


def make_replay(
    network: Network,
    space: SearchSpace,
    *,
    strategy: Strategy = ALTERNET,
    judge: str,
    objective: Objective = ACCURACY,
    seeds: int,
    first_seed: int = 0,
    costs: Callable[[Candidate], tuple[int, int]] | None = None,
    limits: Limits | None = None,
) -> Replay:
    """Configure the replay of a search that starts from a network."""
    return Replay(
        rule=strategy.make(Candidate(network=network), space, first_seed),
        judge=replace(JUDGES[judge], min_gain=space.min_gain, objective=objective),
        seeds=seeds,
        first_seed=first_seed,
        costs=costs,
        limits=limits or Limits(),
    )
