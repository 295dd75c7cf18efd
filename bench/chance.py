"""What chance does to a search: whole searches on drawn images, to count how often the judges are wrong.

The model of chance. On a share of the validation images a network is right or wrong by the toss of a coin for every
training anew; two trainings of one network then disagree on half of that share. On the others it is always right, or
always wrong. A seed raises or lowers the chances of a whole training, so that a paired difference gets the stated
deviation. Where `own_images` is set, each network is always right or always wrong on a share of images of its own
choice, as a block would be that suits some images and not others. A gain raises the chances on the uncertain images.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import sqrt

import numpy as np

from buildup.engine.replay import Replay, View
from buildup.statistics.final_test import claim
from buildup.statistics.paired_difference import Pair, PooledVariance
from buildup.trials.final_result import Claim
from buildup.trials.history import History
from buildup.trials.outcome import Outcome, Score
from buildup.trials.training import Candidate

FINAL_SEEDS = 5
FINAL_IMAGES = 10_000

Draw = Callable[[Candidate, int], Score]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chance:
    """How trainings differ that should not."""

    disagreement: float = 0.17
    """Share of images on which two trainings of one network disagree."""
    seed_deviation: float = 0.2
    """Deviation of a paired difference from the seed, in points."""
    own_images: float = 0.0
    """Share of images on which each network is right or wrong in its own way."""
    accuracy: float = 70.0
    """Of the base, in percent."""
    images: int = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What a number of searches came to, as shares of them."""

    runs: int
    kept_anything: float
    kept_true: float
    """Of the places with a gain, how many are in the winner."""
    kept_false: float
    """Searches that kept a candidate that is no better than its parent."""
    claimed: float
    """Searches for whose winner a gain is claimed by fresh trainings."""
    claimed_falsely: float
    """The same, where the winner is no better than the base."""
    trainings: float
    """On average, those of the claim not counted."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """One kind of search, repeated."""

    replay: Replay
    chance: Chance = field(default_factory=Chance)
    worth: Mapping[str, float] = field(default_factory=dict)
    """What another block than the base's at a path is worth, in points; nothing elsewhere."""

    def tally(self, runs: int, seed: int = 0) -> Tally:
        """Search so often, each time with luck of its own."""
        kept, true, false, claimed, falsely, trainings = 0, 0, 0, 0, 0, 0
        for run in range(runs):
            view, history = search(self.replay, self.draw(f"{seed}/{run}", self.chance.images))
            steps = [decision for decision in view.decisions if decision.kept]
            trainings += len(history.outcomes)
            kept += bool(steps)
            true += sum(self._is_changed(view.best, path) for path in self.worth)
            tried = zip(view.decisions, view.candidates[1:], strict=False)
            false += any(decision.kept and self._helps_not(candidate) for decision, candidate in tried)
            if steps and self.claim(view.best, view.spread, f"{seed}/{run}/final").claimed:
                claimed += 1
                falsely += self.gain(view.best) <= 0
        return Tally(
            runs=runs,
            kept_anything=kept / runs,
            kept_true=true / runs / max(1, len(self.worth)),
            kept_false=false / runs,
            claimed=claimed / runs,
            claimed_falsely=falsely / runs,
            trainings=trainings / runs,
        )

    def claim(self, winner: Candidate, spread: PooledVariance, rng: str, seeds: int = FINAL_SEEDS) -> Claim:
        """The claim on a winner, from fresh seeds and images."""
        draw, base = self.draw(rng, FINAL_IMAGES), self.replay.base
        return claim([Pair(candidate=draw(winner, seed), parent=draw(base, seed)) for seed in range(seeds)], spread)

    def gain(self, candidate: Candidate) -> float:
        """The true gain of a candidate over the base."""
        return sum(points for path, points in self.worth.items() if self._is_changed(candidate, path))

    def _is_changed(self, candidate: Candidate, path: str) -> bool:
        base = self.replay.base.network.blocks
        return any(block.path == path and block not in base for block in candidate.network.blocks)

    def _helps_not(self, candidate: Candidate) -> bool:
        assert candidate.parent is not None
        return self.gain(candidate) <= self.gain(candidate.parent)

    def draw(self, rng: str, images: int) -> Draw:
        """Scores by the model, the same for the same luck and training, in whatever order they are drawn."""
        chance = self.chance
        uncertain = round(2 * chance.disagreement * images)
        right = round(chance.accuracy / 100 * images - uncertain / 2)
        own_places = round(chance.own_images * images)

        def draw(candidate: Candidate, seed: int) -> Score:
            random = _random(f"{rng}/{candidate.id}/{seed}")
            shift = self.gain(candidate) + random.normal(0.0, chance.seed_deviation / sqrt(2))
            correct = np.zeros(images, dtype=bool)
            correct[:right] = True
            correct[right : right + uncertain] = random.random(uncertain) < 0.5 + shift / 100 * images / uncertain
            if own_places:
                own = _random(f"{rng}/{candidate.id}")
                places = right + own.choice(uncertain, own_places, replace=False)
                correct[places] = own.random(own_places) < 0.5 + self.gain(candidate) / 100 * images / uncertain
            return Score(accuracy=100 * float(correct.mean()), correct=np.packbits(correct).tobytes(), images=images)

        return draw


def search(replay: Replay, draw: Draw) -> tuple[View, History]:
    """Follow a procedure to its end; whatever it waits for is drawn."""
    history = History()
    while not (view := replay.view(history)).finished:
        outcomes: dict[str, Outcome] = dict(history.outcomes)
        for training in view.needed:
            outcomes[training.id] = draw(training.candidate, training.seed)
        history = History(outcomes=outcomes, decisions=view.decisions)
    return view, history


def _random(name: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])))
