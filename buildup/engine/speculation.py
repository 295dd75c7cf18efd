"""What the workers should train, most important first.

Candidate t+1 depends on verdict t, but what follows from either verdict is known. So the verdicts that may come form
a tree, and free workers take the trainings of those steps that are most likely to be needed, after the trainings that
the next verdict waits for. A step is needed if all verdicts before it fall the way that leads there; that probability
is the product of theirs. Where the scores of a step ahead are all there, its verdict is foreseen by the judge itself,
and only one way leads on from it.

How a verdict falls is learned from the verdicts so far (`Odds`), those in the same stage counting more, on top of a
stated prior. Where some seeds of a candidate have ended, each moves the odds by how often a single seed pointed to the
verdict before. Nothing here touches a decision: a wrong guess costs worker time and no more.
"""

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count

from buildup.engine.replay import Replay, View, Waiting
from buildup.statistics.paired_difference import Pair
from buildup.strategies.strategy import Step
from buildup.trials.decision import Decision
from buildup.trials.history import History
from buildup.trials.objective import ACCURACY, Objective
from buildup.trials.training import Candidate, Training

PRIOR = 1.0
"""What is assumed of keep and of drop each, in verdicts; half as much of a judge that wants to look again."""
ELSEWHERE = 0.5
"""How much a verdict counts that fell in another stage."""
POINTS_RIGHT, POINTS_WRONG = 3.0, 1.0
"""How often a single seed is assumed to have pointed to the verdict, and to the other one: for seeds that differ as
those of ResNet-50 on CIFAR-100 do, it is 7 in 10 where nothing helps, and more where something does."""
MOST_LEAD = 12
"""More seeds than this on one side say no more."""
RECENT = 100
"""So many verdicts are learned from, the last ones."""
LEAST = 0.001
"""What is less likely to be needed than this is not trained."""
CERTAIN = 0.95
"""What is as likely to be needed as this may be handed to a worker that gets free before the search thought again. All
else waits for that: a training ends with its epoch at the soonest, and one that is needed would have to wait for it."""


@dataclass(frozen=True, slots=True)
class Odds:
    """How a look at a candidate may end."""

    keep: float
    drop: float
    more: float


@dataclass(frozen=True, kw_only=True)
class Experience:
    """What the verdicts so far teach about those to come."""

    decisions: Sequence[Decision]
    objective: Objective = ACCURACY

    def odds(self, candidate: Candidate, interim: int, pairs: Sequence[Pair], *, last: bool) -> Odds:
        """How a look at a candidate may end, of whose seeds these have ended."""
        keep, drop, more = PRIOR, PRIOR, 0.0 if last else PRIOR / 2
        own = _stage(candidate.edit)
        for (stage, looks, kept), times in self._fallen.items():
            weight = times if stage == own else times * ELSEWHERE
            if looks > interim and not last:
                more += weight
            elif looks == interim and kept:
                keep += weight
            elif looks == interim:
                drop += weight
        seen = keep + drop
        lead = sum(_sign(self.objective.gain(pair.candidate, pair.parent)) for pair in pairs)
        keep *= self._strength ** max(-MOST_LEAD, min(MOST_LEAD, lead))
        scale = seen / (keep + drop) / (seen + more)
        return Odds(keep=keep * scale, drop=drop * scale, more=more / (seen + more))

    @cached_property
    def _fallen(self) -> Counter[tuple[str, int, bool]]:
        """How often a verdict fell in a stage, at a look, and which."""
        return Counter((_stage(decision.edit), decision.looks, decision.kept) for decision in self.decisions)

    @cached_property
    def _strength(self) -> float:
        """How much likelier one seed is to point to the verdict than to the other one."""
        right, wrong = POINTS_RIGHT, POINTS_WRONG
        for decision in self.decisions:
            for ours, theirs in zip(decision.scores, decision.parent_scores, strict=False):
                better = self.objective.sign * (ours - theirs) > 0
                right += better == decision.kept
                wrong += better != decision.kept
        return right / wrong


def speculate(view: View, history: History, replay: Replay, workers: int) -> tuple[Training, ...]:
    """The trainings to run, most important first: what the next verdict waits for, then what may be needed after it.

    There are more than workers where it is all but certain that they will be needed.
    """
    chosen = {training.id: training for training in view.needed}
    if len(chosen) > workers or view.step is None:
        return tuple(chosen.values())
    recent, objective = view.decisions[-RECENT:], replay.judge.objective
    experience = Experience(decisions=recent, objective=objective)
    order = count()
    ahead: list[tuple[float, int, Step, int]] = [(-1.0, next(order), view.step, view.interim)]
    while ahead and len(chosen) < (2 * workers if -ahead[0][0] >= CERTAIN else workers):
        negative, _, step, interim = heapq.heappop(ahead)
        answer = replay.decide(history, step, len(view.decisions) + 1, view.spread)
        if isinstance(answer, Waiting):
            again = interim > answer.interim  # imagined: nothing of this look was waited for yet
            interim = max(interim, answer.interim)
            missing = replay.missing(history, step.candidate, interim) if again else answer.needed
            chosen |= {training.id: training for training in missing}
            pairs = replay.pairs(history, step.candidate, interim)
            odds = experience.odds(step.candidate, interim, pairs, last=interim == len(replay.judge.looks))
        else:
            odds = Odds(keep=float(answer.kept), drop=float(not answer.kept), more=0.0)
        for share, next_step, next_look in (*_ways_on(step, odds), (odds.more, step, interim + 1)):
            if next_step is not None and -negative * share >= LEAST:
                heapq.heappush(ahead, (negative * share, next(order), next_step, next_look))
    return tuple(chosen.values())


def _ways_on(step: Step, odds: Odds) -> tuple[tuple[float, Step | None, int], ...]:
    """Where a verdict leads, and how likely: one way only, where both verdicts lead to the same network."""
    kept, dropped = step.successor(True), step.successor(False)
    if kept and dropped and kept.candidate.id == dropped.candidate.id:
        return ((odds.keep + odds.drop, kept if odds.keep > odds.drop else dropped, 1),)
    return (odds.keep, kept, 1), (odds.drop, dropped, 1)


def _stage(edit: str) -> str:
    """Where an edit stands: `layer4` of `layer4.2: conv -> msa(heads=24, window=4)`."""
    place = edit.partition(":")[0]
    return place.rpartition(".")[0] or place


def _sign(number: float) -> int:
    return (number > 0) - (number < 0)
