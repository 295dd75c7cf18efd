"""Objectives of which less is better: the same rule and judges, on other numbers."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from buildup.engine.loop import run_loop
from buildup.engine.replay import Replay, make_replay
from buildup.execution.simulated import InMemoryWriter, ScoreRow, SimulatedEvaluator
from buildup.graph.network import sketch
from buildup.space.schema import SearchSpace
from buildup.statistics.paired_difference import Pair, compare
from buildup.strategies.registered import STRATEGIES
from buildup.trials.history import History
from buildup.trials.objective import OBJECTIVES
from buildup.trials.outcome import Score
from buildup.trials.training import Candidate
from chance import Draw, search

SPACE = SearchSpace(name="test", description="")
IMAGES = 2000
TABLE = {"CC|CC": 1.20, "CC|CM": 1.15, "CM|CM": 1.17, "CM|CC": 1.30}


def replay(objective: str, judge: str = "proven", strategy: str = "alternet") -> Replay:
    return make_replay(
        sketch("CC|CC|CC|CC" if judge == "proven" else "CC|CC"),
        SPACE,
        strategy=STRATEGIES[strategy],
        judge=judge,
        objective=OBJECTIVES[objective],
        seeds=3,
    )


def drawn(objective: str, rng: int, gain: float = 0.0) -> Draw:
    """Trainings that differ by chance alone, but for what attention in the last stage gains in nats or as a share."""

    def draw(candidate: Candidate, seed: int) -> Score:
        name = hashlib.sha256(f"{rng}/{candidate.id}/{seed}".encode()).digest()[:8]
        random, images = np.random.default_rng(int.from_bytes(name)), np.random.default_rng(rng)
        better = gain * (candidate.layout[-1] == "M")
        if objective == "ece":
            return Score(accuracy=70.0, metrics={"ece": 0.05 - better + random.normal(0, 0.004)})
        hard = images.normal(-1.0, 1.5, IMAGES)
        losses = np.exp(hard + random.normal(0, 0.5, IMAGES)) * (1 + random.normal(0, 0.004)) - better
        return Score(
            accuracy=70.0,
            metrics={"nll": float(losses.mean())},
            losses=losses.astype("<f2").tobytes(),
            images=IMAGES,
        )

    return draw


@pytest.mark.parametrize("objective", ["nll", "ece"])
@pytest.mark.parametrize("judge", ["likely", "point"])
def test_what_lowers_a_loss_is_kept_and_what_raises_it_is_dropped(objective: str, judge: str) -> None:
    evaluator = SimulatedEvaluator(
        table={layout: ScoreRow(score=score) for layout, score in TABLE.items()},
        objective=OBJECTIVES[objective],
        workers=4,
    )
    steps = replay(objective, judge)
    view, _ = run_loop(steps, evaluator, InMemoryWriter(), History())
    first, second = view.decisions
    assert (first.verdict, second.verdict) == ("keep", "drop")
    shrunken = 1e-6 if judge == "point" else 1.5
    assert first.gain == pytest.approx(5.0, abs=shrunken)
    assert second.gain == pytest.approx(-2.0, abs=shrunken)
    assert first.scores == pytest.approx((115.0,) * first.seeds)
    assert (first.objective, first.unit) == (objective, OBJECTIVES[objective].unit)
    assert f"less {objective} is better" in first.reason


def test_decisions_on_a_loss_are_the_same_for_any_number_of_workers() -> None:
    decided = []
    for workers in (1, 16):
        table = {layout: ScoreRow(score=score) for layout, score in TABLE.items()}
        evaluator = SimulatedEvaluator(table=table, objective=OBJECTIVES["nll"], workers=workers, noise=3.0, seed=2)
        view, _ = run_loop(replay("nll", "likely"), evaluator, InMemoryWriter(), History())
        decided.append(view.decisions)
    assert decided[0] == decided[1]


def test_a_sampler_is_told_that_less_is_better() -> None:
    by = {}
    for objective, scores in (("accuracy", {text: 100 - score for text, score in TABLE.items()}), ("nll", TABLE)):
        table = {layout: ScoreRow(score=score) for layout, score in scores.items()}
        evaluator = SimulatedEvaluator(table=table, objective=OBJECTIVES[objective], default=ScoreRow(score=1.4))
        steps = replay(objective, "point", "tpe")
        view, _ = run_loop(steps, evaluator, InMemoryWriter(), History())
        by[objective] = [decision.layout for decision in view.decisions]
    assert by["accuracy"] == by["nll"]


def test_a_difference_of_losses_is_as_sure_as_its_images_are_alike() -> None:
    draw = drawn("nll", 1)
    one = draw(Candidate(network=sketch("CC")), 0)
    alike = [Pair(candidate=replace(one, losses=one.losses), parent=one)] * 3
    unlike = [Pair(candidate=draw(Candidate(network=sketch("CC")), seed), parent=one) for seed in (1, 2, 3)]
    variances = [compare(pairs, OBJECTIVES["nll"]).image_variance for pairs in (alike, unlike)]
    assert variances[0] < variances[1]


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["nll", "ece"])
def test_proven_keeps_its_promise_for_losses(objective: str) -> None:
    steps, kept, found, runs = replay(objective), 0, 0, 200
    for rng in range(runs):
        kept += any(done.kept for done in search(steps, drawn(objective, rng))[0].decisions)
        better = drawn(objective, rng, gain=0.1 if objective == "nll" else 0.015)
        found += search(steps, better)[0].decisions[0].kept
    assert kept / runs <= 0.05
    assert found / runs >= 0.8
