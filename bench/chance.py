"""What chance does to a search: whole searches on drawn images, to count how often the judges are wrong.

The model of chance. On a share of the validation images a network is right or wrong by the toss of a coin for every
training anew; two trainings of one network then disagree on half of that share. On the others it is always right, or
always wrong. A seed raises or lowers the chances of a whole training, so that a paired difference gets the stated
deviation. Where `own_images` is set, each network is always right or always wrong on a share of images of its own
choice, as a block would be that suits some images and not others. A gain raises the chances on the uncertain images.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from math import sqrt
from statistics import fmean

import numpy as np

from buildup.engine.replay import Replay, View
from buildup.report.diagnostic_table import LEVEL
from buildup.statistics.final_test import claim
from buildup.statistics.paired_difference import Comparison, Pair
from buildup.trials.decision import Decision
from buildup.trials.final_result import Claim
from buildup.trials.history import History
from buildup.trials.objective import ACCURACY
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
    heavy_tails: bool = False
    """Whether the effect of a seed follows Student's t with 3 degrees of freedom, not a normal distribution."""
    unequal: float = 1.0
    """How many times larger the effect of a seed is on candidates than on the base."""
    one_split: bool = False
    """Whether all seeds validate on the same images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What a number of searches came to, as shares of them."""

    runs: int
    kept_anything: float
    kept_true: float
    """Of the places with a gain, how many are in the winner."""
    kept_false: float
    """Searches that kept a candidate that is no better than its parent."""
    kept: int
    """Blocks that were kept, in all searches."""
    kept_helping: float
    """The share of them that truly help."""
    bias: float
    """The gain of the winner by the model, less the true one, averaged over all searches."""
    plain_bias: float
    """The same of the mean difference to the base over shared seeds."""
    covered: float
    """Of the searches that kept something, those in which the model's interval holds the true gain."""
    verdicts: int
    """In all searches."""
    held: float
    """The share of them whose interval holds the true gain over the parent."""
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
    gains: tuple[float, float] | None = None
    """Mean and deviation of the normal distribution from which each search draws what its blocks are worth, in place of
    `worth`."""
    claims: bool = True
    """Whether `final` follows each search."""

    def tally(self, runs: int, seed: int = 0) -> Tally:
        """Search so often, each time with random numbers of its own."""
        tallies = [self._one(f"{seed}/{run}") for run in range(runs)]
        anything, true, false, kept, helping, bias, plain, covered, verdicts, held, claimed, falsely, trainings = map(
            sum, zip(*tallies, strict=True)
        )
        return Tally(
            runs=runs,
            kept_anything=anything / runs,
            kept_true=true / runs / max(1, len(self.worth)),
            kept_false=false / runs,
            kept=round(kept),
            kept_helping=helping / max(1, kept),
            bias=bias / runs,
            plain_bias=plain / runs,
            covered=covered / max(1, anything),
            verdicts=round(verdicts),
            held=held / max(1, verdicts),
            claimed=claimed / runs,
            claimed_falsely=falsely / runs,
            trainings=trainings / runs,
        )

    def _one(self, rng: str) -> tuple[float, ...]:
        """The counts of one search, in the order of `tally`."""
        study = self
        if self.gains is not None:
            blocks = tuple(self.replay.base.network.blocks)
            drawn = _random(f"{rng}/gains").normal(*self.gains, len(blocks))
            study = replace(self, worth={block.path: float(gain) for block, gain in zip(blocks, drawn, strict=True)})
        view, history = search(self.replay, study.draw(rng, self.chance.images))
        kept = [one for one, made in zip(view.candidates[1:], view.decisions, strict=False) if made.kept]
        false = sum(map(study._helps_not, kept))
        gain, true = view.gain(ACCURACY), study.gain(view.best)
        low, high = gain.interval(LEVEL) if gain else (0.0, 0.0)
        claimed = bool(self.claims and kept and study.claim(view.best, view.dropped, f"{rng}/final").claimed)
        return (
            bool(kept),
            sum(study._is_changed(view.best, path) for path in study.worth),
            bool(false),
            len(kept),
            len(kept) - false,
            (gain.mean if gain else 0.0) - true,
            study.plain_gain(view, history) - true,
            bool(kept) and low <= true <= high,
            len(view.decisions),
            sum(map(study._holds, view.candidates[1:], view.decisions)),
            claimed,
            claimed and true <= 0,
            len(history.outcomes),
        )

    def claim(self, winner: Candidate, earlier: Sequence[Comparison], rng: str, seeds: int = FINAL_SEEDS) -> Claim:
        """The claim on a winner, from fresh seeds and images."""
        one_set = replace(self, chance=replace(self.chance, one_split=True))
        draw, base = one_set.draw(rng, FINAL_IMAGES), self.replay.base
        return claim([Pair(candidate=draw(winner, seed), parent=draw(base, seed)) for seed in range(seeds)], earlier)

    def plain_gain(self, view: View, history: History) -> float:
        """The mean difference of the winner to the base, over the seeds of both."""
        rows = [
            [history.outcome(one.id, seed) for seed in range(self.replay.most_seeds)]
            for one in (view.best, self.replay.base)
        ]
        return fmean(
            ours.accuracy - theirs.accuracy
            for ours, theirs in zip(*rows, strict=True)
            if isinstance(ours, Score) and isinstance(theirs, Score)
        )

    def gain(self, candidate: Candidate) -> float:
        """The true gain of a candidate over the base."""
        return sum(points for path, points in self.worth.items() if self._is_changed(candidate, path))

    def _is_changed(self, candidate: Candidate, path: str) -> bool:
        base = self.replay.base.network.blocks
        return any(block.path == path and block not in base for block in candidate.network.blocks)

    def _holds(self, candidate: Candidate, decision: Decision) -> bool:
        """Whether the interval of a verdict holds the true gain over the parent."""
        assert candidate.parent is not None
        low, high = decision.ci
        return low <= self.gain(candidate) - self.gain(candidate.parent) <= high

    def _helps_not(self, candidate: Candidate) -> bool:
        assert candidate.parent is not None
        return self.gain(candidate) <= self.gain(candidate.parent)

    def draw(self, rng: str, images: int) -> Draw:
        """Scores by the model, the same for the same seed and training, in whatever order they are drawn."""
        chance = self.chance
        uncertain = round(2 * chance.disagreement * images)
        right = round(chance.accuracy / 100 * images - uncertain / 2)
        own_places = round(chance.own_images * images)

        def draw(candidate: Candidate, seed: int) -> Score:
            random = _random(f"{rng}/{candidate.id}/{seed}")
            deviation = random.standard_t(3) / sqrt(3) if chance.heavy_tails else random.normal()
            times = chance.unequal if candidate.parent else 1.0
            shift = self.gain(candidate) + deviation * times * chance.seed_deviation / sqrt(2)
            correct = np.zeros(images, dtype=bool)
            correct[:right] = True
            correct[right : right + uncertain] = random.random(uncertain) < 0.5 + shift / 100 * images / uncertain
            if own_places:
                own = _random(f"{rng}/{candidate.id}" if chance.one_split else f"{rng}/{candidate.id}/{seed}/own")
                places = right + own.choice(uncertain, own_places, replace=False)
                correct[places] = own.random(own_places) < 0.5 + self.gain(candidate) / 100 * images / uncertain
            return Score(
                accuracy=100 * float(correct.mean()),
                correct=np.packbits(correct).tobytes(),
                images=images,
                validated=None if chance.one_split else _mask(images, seed),
            )

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


@cache
def _mask(images: int, seed: int) -> bytes:
    """The images of a seed, which no other seed has."""
    return np.packbits(np.arange(images * (seed + 1)) >= images * seed).tobytes()


def _random(name: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])))
