"""Choose the trainings for the workers, most important first.

The next candidate depends on a verdict that is not known yet, but the candidate after each verdict is. So the possible
verdicts form a tree. Free workers take the trainings of the steps that are most likely needed, after the trainings that
the current verdict needs. The probability of a step is the product of the probabilities of the verdicts before it. If
all scores of a step are known already, the judge decides, and only one branch is left.

The probabilities (`Odds`) are estimated from the verdicts so far on top of a prior; verdicts in the same stage count
more. Each finished seed of a candidate changes them: by how often a single seed agreed with the verdict before, and by
what the judge would say to likely scores of the seeds that are missing.
Decisions do not depend on any of this: a wrong guess only costs worker time.
"""

import heapq
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import sqrt
from statistics import NormalDist

from buildup.engine.replay import Replay, View, Waiting
from buildup.statistics.mixed_model import posterior
from buildup.statistics.paired_difference import Comparison, Pair
from buildup.strategies.strategy import Step
from buildup.trials.decision import Decision
from buildup.trials.history import History
from buildup.trials.objective import ACCURACY, Objective
from buildup.trials.training import Candidate, Training

PRIOR, PRIOR_MORE = 1.0, 2.5
"""The prior of keep and of drop, and of one more seed, as numbers of verdicts."""
OTHER_STAGE_WEIGHT = 0.5
"""The weight of a verdict in another stage."""
POINTS_RIGHT, POINTS_WRONG = 3.0, 1.0
"""The prior of a single seed: how often it agreed with the verdict, and how often not. With the variance over seeds of
ResNet-50 on CIFAR-100, 7 in 10 seeds agree if the edit has no effect, and more if it has one."""
MOST_LEAD = 12
"""The largest majority of seeds that changes the odds."""
RECENT = 100
"""The number of last verdicts that the odds are estimated from."""
LEAST = 0.001
"""The least probability with which a training must be needed to be started ahead."""
CERTAIN = 0.95
"""The least probability with which a training may be queued beyond the free workers. Others are chosen only when
a worker is free, because a started training occupies its worker until the end of an epoch."""


POINTS = tuple(NormalDist().inv_cdf((number + 0.5) / 9) for number in range(9))
"""Equally likely points of a normal distribution."""
PRIOR_DRAWS = 3.0
"""The weight of the estimated odds beside what the judge would say at these points."""


@dataclass(frozen=True, slots=True)
class Odds:
    """The probabilities of the results of a look: keep, drop, or one more seed."""

    keep: float
    drop: float
    more: float

    def with_counts(self, counts: Mapping[str, int]) -> "Odds":
        whole = PRIOR_DRAWS + sum(counts.values())
        keep, drop, more = (
            (PRIOR_DRAWS * own + counts.get(name, 0)) / whole
            for name, own in (("keep", self.keep), ("drop", self.drop), ("more", self.more))
        )
        return Odds(keep=keep, drop=drop, more=more)


@dataclass(frozen=True, kw_only=True)
class Experience:
    """Estimates the odds of a verdict from earlier verdicts."""

    decisions: Sequence[Decision]
    objective: Objective = ACCURACY

    def odds(self, candidate: Candidate, seeds: int, pairs: Sequence[Pair], *, last: bool) -> Odds:
        """The odds of a candidate's look after so many seeds, given the pairs that have ended."""
        keep, drop, more = PRIOR, PRIOR, 0.0 if last else PRIOR_MORE
        own = _stage(candidate.edit)
        for (stage, used, kept), count in self._counts.items():
            weight = count if stage == own else count * OTHER_STAGE_WEIGHT
            if used > seeds and not last:
                more += weight
            elif used == seeds and kept:
                keep += weight
            elif used == seeds:
                drop += weight
        seen = keep + drop
        gains = [self.objective.gain(pair.candidate, pair.parent) for pair in pairs]
        lead = sum((gain > 0) - (gain < 0) for gain in gains)
        keep *= self._strength ** max(-MOST_LEAD, min(MOST_LEAD, lead))
        scale = seen / (keep + drop) / (seen + more)
        return Odds(keep=keep * scale, drop=drop * scale, more=more / (seen + more))

    @cached_property
    def _counts(self) -> Counter[tuple[str, int, bool]]:
        return Counter((_stage(decision.edit), decision.seeds, decision.kept) for decision in self.decisions)

    @cached_property
    def _strength(self) -> float:
        """The odds that a single seed agrees with the verdict."""
        right, wrong = POINTS_RIGHT, POINTS_WRONG
        for decision in self.decisions:
            for ours, theirs in zip(decision.scores, decision.parent_scores, strict=False):
                better = self.objective.sign * (ours - theirs) > 0
                right += better == decision.kept
                wrong += better != decision.kept
        return right / wrong


def speculate(view: View, history: History, replay: Replay, workers: int) -> tuple[Training, ...]:
    """The trainings to run, most important first: those that the next verdict needs, those that are almost certainly
    needed, those of the checks, and those that may be needed.

    There are more than workers only if the additional ones are almost certainly needed.
    """
    chosen = {training.id: training for training in view.needed}
    checks = {training.id: training for training in view.checks}
    if len(chosen) > workers or view.step is None:
        return tuple((chosen | checks).values())
    recent, objective = view.decisions[-RECENT:], replay.judge.objective
    experience = Experience(decisions=recent, objective=objective)
    order = itertools.count()
    ahead: list[tuple[float, int, Step, int]] = [(-1.0, next(order), view.step, view.seeds)]
    looked: dict[tuple[int, int], Step] = {}
    while ahead and len(chosen) < (2 * workers if -ahead[0][0] >= CERTAIN else workers):
        negative, _, step, seeds = heapq.heappop(ahead)
        if -negative < CERTAIN:
            chosen |= checks
        # Looks of different length lead to the same steps. The first way there was the most probable one.
        if (id(step), seeds) in looked:
            continue
        looked[id(step), seeds] = step
        answer = replay.decide(history, step, len(view.decisions) + 1, view.comparisons)
        if isinstance(answer, Waiting):
            # A later look than the one that the judge waits for is only possible, not yet due.
            missing = answer.needed if seeds <= answer.seeds else replay.missing(history, step.candidate, seeds)
            seeds = max(seeds, answer.seeds)
            chosen |= {training.id: training for training in missing}
            pairs = replay.pairs(history, step.candidate, seeds)
            odds = experience.odds(step.candidate, seeds, pairs, last=seeds == replay.most_seeds)
            if replay.foresees and 0 < len(pairs) < seeds:
                (known,) = replay.compared(history, step.candidate, seeds)
                if (known, seeds) not in replay.foreseen:
                    replay.foreseen[known, seeds] = foresee(replay, step, known, view.comparisons, seeds)
                odds = odds.with_counts(replay.foreseen[known, seeds])
        else:
            odds = Odds(keep=float(answer.kept), drop=float(not answer.kept), more=0.0)
        for share, next_step, next_seeds in (*_branches(step, odds, replay.seeds), (odds.more, step, seeds + 1)):
            if next_step is not None and -negative * share >= LEAST:
                heapq.heappush(ahead, (negative * share, next(order), next_step, next_seeds))
    return tuple((chosen | checks).values())


def foresee(
    replay: Replay, step: Step, known: Comparison, earlier: tuple[Comparison, ...], seeds: int
) -> Mapping[str, int]:
    """How often the judge keeps, drops, or asks for one more seed, for likely scores of the seeds that are missing."""
    missing, unit = seeds - known.seeds, replay.judge.objective.seed_deviation
    degrees = known.seeds + sum(one.seeds - 1 for one in earlier)
    squares = known.squares + sum(one.squares for one in earlier)
    each = (known.image_variance + unit**2 + squares) / degrees
    gain = posterior(known, earlier, unit)
    deviation = sqrt(gain.weights @ (gain.deviations**2 + (gain.means - gain.mean) ** 2) + each / missing)
    counts = Counter[str]()
    for point in POINTS:
        new = gain.mean + point * deviation
        drawn = replace(
            known,
            seeds=seeds,
            gain=(known.seeds * known.gain + missing * new) / seeds,
            squares=known.squares + each * (missing - 1) + known.seeds * missing / seeds * (new - known.gain) ** 2,
        )
        verdict = replay.judge.judge(drawn, earlier, first=replay.seeds, last=replay.most_seeds, share=step.share)
        counts[verdict.verdict if verdict else "more"] += 1
    return counts


def _branches(step: Step, odds: Odds, first: int) -> tuple[tuple[float, Step | None, int], ...]:
    """The next steps with their probabilities: one step if both verdicts lead to the same candidate."""
    kept, dropped = step.successor(True), step.successor(False)
    if kept and dropped and kept.candidate.id == dropped.candidate.id:
        return ((odds.keep + odds.drop, kept if odds.keep > odds.drop else dropped, first),)
    return (odds.keep, kept, first), (odds.drop, dropped, first)


def _stage(edit: str) -> str:
    """The stage of an edit: `layer4` of `layer4.2: conv -> msa(heads=24, window=4)`."""
    place = edit.partition(":")[0]
    return place.rpartition(".")[0] or place
