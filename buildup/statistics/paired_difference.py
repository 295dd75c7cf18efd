"""Paired differences: what the same seeds on the same validation images say of a gain, and how sure that is.

Candidate and parent are trained with the same seeds, so each seed s gives one difference d_s: in points, or in the
unit of another objective. Three things make it differ from the true gain:

- chance on single images: two trainings of one network disagree on some of them (17 % were measured), which alone
  makes a deviation of 0.58 points at 5,000 images. It is measured from the per-image correctness.
- what the seed does to a network as a whole. Three seeds can't estimate a variance, so the squares that the images
  do not explain are pooled over the run (`Spread`), with a stated expectation that counts like a few seeds more.
- which images were drawn for validation: a block may suit some images and not others. That part does not shrink with
  more seeds. It is measured by how far the seeds agree on where the two networks differ.

With n seeds, the mean d, the squares S = sum of (d_s - d)^2, and of the images a part W that each seed draws anew and
a part H that all seeds share:

    squares = PRIOR_SEEDS * seed_deviation^2 + pooled squares + S - (n - 1) W
    seeds   = PRIOR_SEEDS + pooled freedom + n - 1
    pooled  = W + squares / seeds, at least W
    error^2 = believed / n + H
    freedom = seeds * pooled / believed

and d / error is compared with Student's t of that freedom. What is believed is `pooled`, unless the seeds differ more
than was expected, as they do in networks that have hardly learned: then it is what comes out without the prior, or
from the seeds of this candidate alone, if that is more. The freedom shrinks as it grows, since squares are a variance
times its freedom, and it takes fewer seeds to come to the same squares by a larger variance. Without that, a prior of
four seeds would lend its freedom to a variance that it speaks against, and intervals would be too narrow.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr, stdtrit

from buildup.trials.objective import ACCURACY, Objective
from buildup.trials.outcome import Score

Differences = npt.NDArray[np.int8] | npt.NDArray[np.float64]

PRIOR_SEEDS = 4
"""How many seeds the expectation counts for."""
POOLED = 0.5
"""How much a seed of an earlier verdict counts in the pool: verdicts share parents, so they repeat each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A candidate's and its parent's score with the same seed: same data order, draws and shared initial weights."""

    candidate: Score
    parent: Score


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """What the verdicts of a run so far have shown of the seed part."""

    squares: float = 0.0
    """Squared deviations of the seeds that images do not explain, in points squared; chance may make it negative."""
    degrees_of_freedom: float = 0.0

    @property
    def variance(self) -> float:
        """Of the seed part; nothing where nothing was shown."""
        return max(0.0, self.squares / self.degrees_of_freedom) if self.degrees_of_freedom else 0.0

    def __add__(self, other: "Spread") -> "Spread":
        return Spread(
            squares=self.squares + other.squares, degrees_of_freedom=self.degrees_of_freedom + other.degrees_of_freedom
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A gain in points, with its standard error."""

    gain: float
    error: float
    degrees_of_freedom: float
    seeds: int

    def probability_above(self, gain: float) -> float:
        """How likely the true gain is more than this."""
        return float(stdtr(self.degrees_of_freedom, (self.gain - gain) / self.error))

    def interval(self, level: float) -> tuple[float, float]:
        """The interval that holds the true gain with this probability."""
        half = float(stdtrit(self.degrees_of_freedom, (1 + level) / 2)) * self.error
        return self.gain - half, self.gain + half


def estimate(pairs: Sequence[Pair], spread: Spread, objective: Objective = ACCURACY) -> Estimate:
    """The gain that pairs show, given what the run has shown of its seeds."""
    count, gain, squares = _squares(pairs, objective)
    own, shared = _image_parts(pairs, objective)
    prior = Spread(squares=PRIOR_SEEDS * objective.seed_deviation**2, degrees_of_freedom=PRIOR_SEEDS)
    shown = spread + Spread(squares=squares - (count - 1) * own, degrees_of_freedom=count - 1)
    pooled, of_run = own + (prior + shown).variance, own + shown.variance
    of_seed = max(pooled, of_run, squares / max(1, count - 1))
    degrees_of_freedom = (prior + shown).degrees_of_freedom * pooled / of_seed
    return Estimate(gain=gain, error=sqrt(of_seed / count + shared), degrees_of_freedom=degrees_of_freedom, seeds=count)


def spread_of(pairs: Sequence[Pair], objective: Objective = ACCURACY) -> Spread:
    """What a verdict's pairs add to the pool of the run."""
    count, _, squares = _squares(pairs, objective)
    own, _ = _image_parts(pairs, objective)
    return Spread(squares=POOLED * (squares - (count - 1) * own), degrees_of_freedom=POOLED * (count - 1))


def _squares(pairs: Sequence[Pair], objective: Objective) -> tuple[int, float, float]:
    assert pairs, "a comparison needs a pair"
    gains = [objective.gain(pair.candidate, pair.parent) for pair in pairs]
    gain = fmean(gains)
    return len(gains), gain, sum((one - gain) ** 2 for one in gains)


def _image_parts(pairs: Sequence[Pair], objective: Objective) -> tuple[float, float]:
    """Variance of one seed's difference that each seed draws anew, and of the mean that all seeds share."""
    images, count = pairs[0].candidate.images, len(pairs)
    differences = [_differences(pair, images, objective) for pair in pairs]
    known = [one for one in differences if one is not None]
    if len(known) < count:
        return objective.assumed_variance, 0.0
    unit = 1e4 / images
    each = unit * max(fmean(_variance(one, objective) for one in known), 1 / images**2)
    if count == 1:
        return each, 0.0
    total = np.sum(known, axis=0, dtype=np.int16 if objective.per_image == "correct" else np.float64)
    mean = unit * float(np.var(total)) / count**2
    own = min(each, max(each - mean, 0.0) * count / (count - 1))
    return own, max(0.0, mean - own / count)


def _variance(differences: Differences, objective: Objective) -> float:
    if objective.per_image != "correct":
        return float(np.var(differences))
    # One image more on which they differ than was seen: two perfect trainings still have a width.
    return (np.count_nonzero(differences) + 1) / (len(differences) + 1) - float(differences.mean()) ** 2


def _differences(pair: Pair, images: int, objective: Objective) -> Differences | None:
    """By how much the candidate is better on each image; None where that is not known.

    Of accuracy 1 where only the candidate is right and -1 where only its parent is; of the negative log-likelihood
    nats.
    """
    ours, theirs = pair.candidate, pair.parent
    if not ours.images == theirs.images == images:
        return None
    if objective.per_image == "losses" and ours.losses is not None and theirs.losses is not None:
        mine, others = (np.frombuffer(one, dtype="<f2").astype(np.float64) for one in (ours.losses, theirs.losses))
        return others - mine
    if objective.per_image != "correct" or ours.correct is None or theirs.correct is None:
        return None
    right, wrong = (
        np.unpackbits(np.frombuffer(one, dtype=np.uint8), count=images).view(np.int8)
        for one in (ours.correct, theirs.correct)
    )
    return right - wrong
