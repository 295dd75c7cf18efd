"""Drawn learning curves: how often a candidate is dropped early that its full trainings would have kept.

The model. A network's accuracy at the end is its true level and a seed's luck. On the way there a changed network lies
behind by a handicap of its own that fades with the epochs, because new blocks learn later; and each epoch has luck of
its own besides, more at first. Verdicts are those of a search over layouts at random, in which the parent changes with
what is kept. Whoever is dropped early is trained to the end here all the same, to see what the judge would have said.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import exp

import numpy as np

from buildup.graph.kinds import Conv
from buildup.rules.procedure import Procedure
from buildup.rules.step import walk
from buildup.trials.candidate import Candidate
from buildup.trials.decision import Decision
from buildup.trials.history import History
from buildup.trials.outcome import Epoch, Outcome, Score
from buildup.trials.training import Training

ACCURACY = 70.0
RISE = 4.0
"""How fast all of them learn: a curve goes as 1 - exp(-RISE * share of the epochs)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learning:
    """How trainings go. Numbers are points."""

    level: float = -0.3
    """Mean true gain of a changed network over the base."""
    levels: float = 0.7
    """Its deviation over networks."""
    handicap: float = 1.5
    """Mean of what a changed network lies behind at the start."""
    handicaps: float = 0.7
    luck: float = 0.45
    """Deviation of a training's score at the end; of an epoch it is up to three times as much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """What a number of searches came to."""

    candidates: int
    early: int
    """Dropped early."""
    keepable: int
    """Kept, or dropped early where the full trainings would have been kept."""
    wrongly: int
    """Of those, dropped early."""
    above: int
    """Dropped early, and their full trainings would have ended above their parent."""
    spared: float
    """Share of the epochs of all candidates that were not trained."""


def count(procedure: Procedure, learning: Learning, *, runs: int, seed: int = 0) -> Dropped:
    """Search so often, each time with other networks and other luck."""
    found = [_search(procedure, learning, f"{seed}/{run}") for run in range(runs)]
    return Dropped(
        candidates=sum(one.candidates for one in found),
        early=sum(one.early for one in found),
        keepable=sum(one.keepable for one in found),
        wrongly=sum(one.wrongly for one in found),
        above=sum(one.above for one in found),
        spared=float(np.mean([one.spared for one in found])),
    )


def trained(history: History, trainings: Iterable[Training], learning: Learning, epochs: int, luck: str) -> History:
    """With these trainings at their ends: the same numbers for the same luck, in whatever order they are drawn."""
    outcomes: dict[str, Outcome] = dict(history.outcomes)
    curves = dict(history.curves)
    for training in trainings:
        curve = _curve(training, learning, epochs, luck)
        curves[training.id] = curve
        outcomes[training.id] = Score(accuracy=curve[-1].metrics["accuracy"])
    return History(outcomes=outcomes, curves=curves, decisions=history.decisions)


def _search(procedure: Procedure, learning: Learning, luck: str) -> Dropped:
    assert procedure.early is not None
    epochs, history = procedure.early.epochs, History()
    while not (view := procedure.view(history)).finished:
        history = trained(replace(history, decisions=view.decisions), view.needed, learning, epochs, luck)
    early = [decision for decision in view.decisions if decision.epoch]
    regretted, above = 0, 0
    for decision in early:
        kept, gain = _otherwise(procedure, history, view.decisions, decision, learning, luck)
        regretted += kept
        above += gain > 0
    spent = sum((one.epoch or epochs) * one.seeds for one in view.decisions)
    return Dropped(
        candidates=len(view.decisions),
        early=len(early),
        keepable=sum(decision.kept for decision in view.decisions) + regretted,
        wrongly=regretted,
        above=above,
        spared=1 - spent / sum(epochs * one.seeds for one in view.decisions),
    )


def _otherwise(
    procedure: Procedure,
    history: History,
    decisions: tuple[Decision, ...],
    decision: Decision,
    learning: Learning,
    luck: str,
) -> tuple[bool, float]:
    """Whether a candidate that was dropped early would have been kept, and its gain at the first look."""
    assert procedure.early is not None
    before = decisions[: decision.step - 1]
    step = walk(procedure.rule.first, before)
    assert step is not None
    assert step.candidate.parent is not None
    most = range(procedure.first_seed, procedure.first_seed + procedure.most_seeds)
    both: list[Candidate] = [step.candidate, step.candidate.parent]
    everything = [Training(candidate=one, seed=seed) for one in both for seed in most]
    full = trained(history, everything, learning, procedure.early.epochs, luck)
    view = procedure.view(replace(full, decisions=before))
    verdict = replace(procedure, early=None).decide(full, step, decision.step, view.spread)
    assert isinstance(verdict, Decision)
    pairs = procedure.pairs(full, step.candidate, 1)
    gains = [procedure.judge.objective.gain(pair.candidate, pair.parent) for pair in pairs]
    return verdict.kept, float(np.mean(gains))


def _curve(training: Training, learning: Learning, epochs: int, luck: str) -> tuple[Epoch, ...]:
    network = _random(f"{luck}/{training.candidate.id}")
    changed = any(block.kind.letter != Conv.letter for block in training.candidate.network.blocks)
    level = network.normal(learning.level, learning.levels) if changed else 0.0
    handicap = network.normal(learning.handicap, learning.handicaps) if changed else 0.0
    chance = _random(f"{luck}/{training.id}").normal(0.0, 1.0, epochs)
    curve = []
    for number in range(1, epochs + 1):
        left = 1 - number / epochs
        learned = (1 - exp(-RISE * number / epochs)) / (1 - exp(-RISE))
        lucky = learning.luck * (1 + 2 * left) * chance[number - 1]
        accuracy = ACCURACY * learned + level - handicap * left + lucky
        curve.append(Epoch(number=number, metrics={"accuracy": float(accuracy)}))
    return tuple(curve)


def _random(name: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])))
