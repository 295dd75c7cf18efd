"""Checks of the base by one more training each, whose gains stand beside those of the verdicts.

**Does it still climb?** With too few epochs, a block that only learns faster looks like a better one. The learning rate
falls to zero at the end of each training, so the end of a curve is flat for any number of epochs. So the base is
trained once more, for `LONGER` times the epochs with the same seed: equal first weights, order of images and validation
images.

**How much does rounding matter?** The base is trained once more with the same seed, and each first weight is the next
larger float32. Such a difference grows over a training, as those do that another machine makes by summing in another
order. So this is what another machine may do to a score.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from buildup.statistics.paired_difference import Comparison, Pair, disagreement
from buildup.trials.decision import Decision
from buildup.trials.objective import ACCURACY, Objective
from buildup.trials.training import LONGER

NORMAL_95 = 1.96
"""Standard errors from the mean to the ends of a 95 % interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Climb:
    """The gain of the base by a longer training."""

    gain: float
    error: float
    """Its standard error."""
    objective: Objective = ACCURACY

    @property
    def least(self) -> float:
        """The gain less its standard error. At a verdict on less than that, faster or slower learning may be why."""
        return self.gain - self.error

    def marks(self, decision: Decision) -> bool:
        """Whether longer training gains more than a verdict is about."""
        return bool(decision.scores) and abs(decision.gain) < self.least

    def warning(self, decisions: Sequence[Decision]) -> str | None:
        """The warning that the base is still climbing; None if it gains less than each verdict is about."""
        marked = sum(map(self.marks, decisions))
        if not marked:
            return None
        low, high = (self.gain + side * NORMAL_95 * self.error for side in (-1, 1))
        return (
            f"The base is still climbing: with {LONGER:g} times the epochs it gains {self.gain:+.2f} "
            f"{self.objective.said} (95 % interval {low:+.2f} to {high:+.2f}, one seed). Smaller gains may come from "
            f"faster learning, and smaller losses from slower learning: {marked} of {len(decisions)} verdicts "
            f"{'is' if marked == 1 else 'are'} marked. More epochs would tell."
        )


def climb(longer: Comparison, others: Sequence[Comparison] = (), objective: Objective = ACCURACY) -> Climb:
    """The gain of the longer training over the usual one with the same seed.

    One seed tells nothing of the noise due to seeds. It is taken from the other comparisons of the run, as far as these
    have several seeds; the expected noise counts as one more difference.
    """
    expected = longer.image_variance + objective.seed_deviation**2
    squares, degrees = sum(one.squares for one in others), sum(one.seeds - 1 for one in others)
    return Climb(gain=longer.gain, error=sqrt((expected + squares) / (1 + degrees)), objective=objective)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounding:
    """How far two trainings are apart that differ by rounding only."""

    difference: float
    images: float | None
    """The share of the validation images that only one of the two gets right, if known."""
    objective: Objective = ACCURACY

    def __str__(self) -> str:
        """As a sentence.

        >>> print(Rounding(difference=-0.348, images=0.0418))
        Rounding alone, with the same seed, moves a score of the base by -0.35 points, and 4.2 % of the images.
        """
        images = "" if self.images is None else f", and {100 * self.images:.1f} % of the images"
        moved = f"{self.difference:+.2f} {self.objective.said}{images}"
        return f"Rounding alone, with the same seed, moves a score of the base by {moved}."


def rounding(pair: Pair, objective: Objective = ACCURACY) -> Rounding:
    """The effect of rounding, from the base with nudged first weights and as it is."""
    difference = objective.gain(pair.candidate, pair.parent)
    return Rounding(difference=difference, images=disagreement(pair), objective=objective)
