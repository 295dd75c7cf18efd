"""The gain of a candidate over its parent, estimated from paired differences.

Candidate and parent are trained with the same seeds and compared on the same validation images. So each seed s gives
one difference d_s, in points or in the unit of another objective. It deviates from the true gain for three reasons:

- Single images. Two trainings of one network disagree on some images (17 % were measured), which alone gives a standard
  deviation of 0.58 points for 5,000 images. This part is measured from the per-image correctness.
- The effect of a seed on a whole network. Three seeds can't estimate a variance, so what the images don't explain is
  pooled over the run (`PooledVariance`), with a prior expectation that counts like a few more seeds.
- The choice of validation images. A block may suit some images and not others. This part does not shrink with more
  seeds. It is measured by how far the seeds agree on where the two networks differ.

With n seeds, the mean d, the sum of squares S = sum of (d_s - d)^2, and of the image variance a part W that is
independent for each seed and a part H that all seeds share:

    squares            = PRIOR_SEEDS * seed_deviation^2 + pooled squares + S - (n - 1) W
    degrees of freedom = PRIOR_SEEDS + pooled degrees of freedom + n - 1
    expected           = W + squares / degrees of freedom, at least W
    error^2            = variance / n + H

The variance is `expected`, unless the seeds differ more than that, as in networks that have hardly learned: then it is
the estimate without the prior, or from the seeds of this candidate alone, if that is larger. d / error is compared with
Student's t, whose degrees of freedom are reduced by expected / variance. Otherwise a prior of four seeds would lend its
degrees of freedom to a variance that contradicts it, and intervals would be too narrow.
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
"""Number of seeds that the prior counts for."""
POOLED = 0.5
"""Weight of a seed of an earlier verdict in the pool. Verdicts share parents, so they are not independent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The scores of a candidate and its parent with one seed: equal data order, draws and shared initial weights."""

    candidate: Score
    parent: Score


@dataclass(frozen=True, slots=True, kw_only=True)
class PooledVariance:
    """The variance due to seeds, pooled over the verdicts of a run so far."""

    squares: float = 0.0
    """Sum of squared deviations that images do not explain, in points squared; by chance it may be negative."""
    degrees_of_freedom: float = 0.0

    @property
    def variance(self) -> float:
        """The estimate, at least 0; 0 without any verdict."""
        return max(0.0, self.squares / self.degrees_of_freedom) if self.degrees_of_freedom else 0.0

    def __add__(self, other: "PooledVariance") -> "PooledVariance":
        return PooledVariance(
            squares=self.squares + other.squares, degrees_of_freedom=self.degrees_of_freedom + other.degrees_of_freedom
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GainEstimate:
    """A gain with its standard error."""

    gain: float
    error: float
    degrees_of_freedom: float
    seeds: int

    def probability_above(self, gain: float) -> float:
        """The probability that the true gain is above this."""
        return float(stdtr(self.degrees_of_freedom, (self.gain - gain) / self.error))

    def interval(self, level: float) -> tuple[float, float]:
        """The confidence interval of the true gain."""
        half = float(stdtrit(self.degrees_of_freedom, (1 + level) / 2)) * self.error
        return self.gain - half, self.gain + half


def estimate_gain(pairs: Sequence[Pair], pooled: PooledVariance, objective: Objective = ACCURACY) -> GainEstimate:
    """Estimate the gain from pairs, given the pooled variance of earlier verdicts."""
    count, gain, squares = _squares(pairs, objective)
    own, shared = _image_variances(pairs, objective)
    prior = PooledVariance(squares=PRIOR_SEEDS * objective.seed_deviation**2, degrees_of_freedom=PRIOR_SEEDS)
    measured = pooled + PooledVariance(squares=squares - (count - 1) * own, degrees_of_freedom=count - 1)
    expected = own + (prior + measured).variance
    variance = max(expected, own + measured.variance, squares / max(1, count - 1))
    return GainEstimate(
        gain=gain,
        error=sqrt(variance / count + shared),
        degrees_of_freedom=(prior + measured).degrees_of_freedom * expected / variance,
        seeds=count,
    )


def pooled_variance(pairs: Sequence[Pair], objective: Objective = ACCURACY) -> PooledVariance:
    """What the pairs of a verdict add to the pool of the run."""
    count, _, squares = _squares(pairs, objective)
    own, _ = _image_variances(pairs, objective)
    return PooledVariance(squares=POOLED * (squares - (count - 1) * own), degrees_of_freedom=POOLED * (count - 1))


def _squares(pairs: Sequence[Pair], objective: Objective) -> tuple[int, float, float]:
    assert pairs, "a comparison needs a pair"
    gains = [objective.gain(pair.candidate, pair.parent) for pair in pairs]
    gain = fmean(gains)
    return len(gains), gain, sum((one - gain) ** 2 for one in gains)


def _image_variances(pairs: Sequence[Pair], objective: Objective) -> tuple[float, float]:
    """Variances due to images: of one seed's difference, independent for each seed, and of the mean, shared by all."""
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
    # One more image is counted as different, so that the variance of two perfect trainings is not zero.
    return (np.count_nonzero(differences) + 1) / (len(differences) + 1) - float(differences.mean()) ** 2


def _differences(pair: Pair, images: int, objective: Objective) -> Differences | None:
    """The gain on each image; None if it is not known.

    For accuracy it is 1 where only the candidate is right and -1 where only its parent is; for the negative
    log-likelihood it is in nats.
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
