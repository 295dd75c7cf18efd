"""Checks of the base by one more training each, whose gains stand beside those of the verdicts.

**Does it still climb?** With too few epochs, a block that only learns faster looks like a better one. The learning rate
falls to zero at the end of each training, so the end of a curve is flat for any number of epochs. So the base is
trained once more, for `LONGER` times the epochs with the same seed: equal first weights, order of images and validation
images.

**Do pretrained weights hold it back?** A learning rate that is too low for them favours whatever is drawn anew, which
learns faster than what it replaces. So a pretrained base is also trained at `RATE` times the rate, and with its last
block drawn anew. Of all that gains, what gains most stands beside the verdicts.

**How much does rounding matter?** The base is trained once more with the same seed, and each first weight is the next
larger float32. Such a difference grows over a training, as those do that another machine makes by summing in another
order. So this is what another machine may do to a score.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from buildup.errors import percent
from buildup.statistics.mixed_model import unshrunken
from buildup.statistics.paired_difference import Comparison, Pair, disagreement
from buildup.trials.decision import Decision
from buildup.trials.objective import ACCURACY, Objective
from buildup.trials.training import LONGER, RATE, Check

GAINING: Mapping[Check, tuple[str, str, str, str, str]] = {
    "longer": (
        "still climbing",
        "The base {is} still climbing",
        f"with {LONGER:g} times the epochs it",
        "faster learning, and smaller losses from slower learning",
        "More epochs would tell.",
    ),
    "rate": (
        "low rate",
        "The learning rate {is} too low for these weights",
        f"at {RATE} times the rate the base",
        "weights that learn faster because they are new",
        "Search again with a larger --set lr.",
    ),
    "fresh": (
        "new weights",
        "New weights alone {help}",
        "with its last block drawn anew the base",
        "weights that are new, whatever the block computes",
        "A higher learning rate or more epochs would tell.",
    ),
}
"""Checks that may gain: the mark of a verdict with a smaller gain or loss, and the parts of the warning."""
ERROR = 0.05
"""Of the intervals of all checks of a run together."""
ONE_DEVIATION = 0.16
"""The share of a normal distribution that is more than a standard error below its mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Climb:
    """The gain of the base by a longer training, or by what another check changes."""

    gain: float
    least: float
    """The gain less its standard error. A verdict with a smaller gain or loss may have the same cause."""
    interval: tuple[float, float]
    level: float = 1 - ERROR
    objective: Objective = ACCURACY
    check: Check = "longer"

    @property
    def mark(self) -> str:
        """The word beside a verdict with a smaller gain or loss."""
        return GAINING[self.check][0]

    def marks(self, decision: Decision) -> bool:
        """Whether the gain or loss of a verdict is smaller than `least`; not so for an untrained candidate."""
        return bool(decision.scores) and abs(decision.gain) < self.least

    def warning(self, decisions: Sequence[Decision]) -> str | None:
        """The warning that the base could be better; None if no verdict is marked."""
        marked = sum(map(self.marks, decisions))
        if not marked:
            return None
        low, high = self.interval
        _, state, change, cause, advice = GAINING[self.check]
        sure = {"is": "is", "help": "help"} if low > 0 else {"is": "may be", "help": "may help"}
        return (
            f"{state.format_map(sure)}: {change} gains {self.gain:+.2f} {self.objective.said} "
            f"({percent(self.level)} interval {low:+.2f} to {high:+.2f}, one seed). Smaller gains may come from "
            f"{cause}: {marked} of {len(decisions)} verdicts {'is' if marked == 1 else 'are'} marked. {advice}"
        )


def climb(
    longer: Comparison,
    others: Sequence[Comparison] = (),
    objective: Objective = ACCURACY,
    check: Check = "longer",
    *,
    checks: int = 1,
) -> Climb:
    """The gain of the training of a check over the usual one with the same seed, one of so many checks.

    One seed tells nothing of the noise due to seeds. It is taken from the other comparisons of the run.
    """
    found = unshrunken(longer, tuple(others), objective.seed_deviation)
    level = 1 - ERROR / checks
    return Climb(
        gain=longer.gain,
        least=found.quantile(ONE_DEVIATION),
        interval=found.interval(level),
        level=level,
        objective=objective,
        check=check,
    )


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
    """`pair` holds the base with nudged first weights and the base as it is."""
    difference = objective.gain(pair.candidate, pair.parent)
    return Rounding(difference=difference, images=disagreement(pair), objective=objective)
