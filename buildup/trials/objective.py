"""What a candidate must be better at: accuracy, or how well its probabilities fit.

Every objective is told in hundredths, so that gains of all of them are read alike, and a gain is always what is
better, whether its numbers rise or fall for it.

    >>> ours, theirs = (Score(accuracy=70.0, metrics={"nll": nll}) for nll in (1.20, 1.25))
    >>> round(OBJECTIVES["nll"].gain(ours, theirs), 9)
    5.0
"""

from dataclasses import dataclass
from math import inf
from typing import Literal

from buildup.registry import Registry
from buildup.trials.outcome import Epoch, Score


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """Something that a training is measured by: accuracy, or a metric of the same name."""

    name: str
    title: str
    """What people call it."""
    unit: str
    """Of scores and gains."""
    sign: int
    """1 where more is better, -1 where less is."""
    largest: float
    """What a table of scores can hold at most: percent of accuracy, shares of other ones; nats have no end."""
    seed_deviation: float
    """Expected deviation of a paired difference from the seed itself, in the unit."""
    assumed_variance: float = 0.0
    """What chance on single images adds to the variance of a paired difference, in the unit squared, where it can't be
    measured; 0 where `seed_deviation` holds it."""
    per_image: Literal["correct", "losses"] | None = None
    """The record of each image in a score that it is the mean of."""

    def value(self, score: Score) -> float:
        """What a training reached, in the unit: 70.3 points of accuracy, 121.5 hundredths of a nat."""
        return score.accuracy if self.name == "accuracy" else 100 * score.metrics[self.name]

    def gain(self, ours: Score, theirs: Score) -> float:
        """By how much the first is better."""
        return self.sign * (self.value(ours) - self.value(theirs))

    def at(self, epoch: Epoch) -> float | None:
        """What a training had reached after an epoch, in the unit; None where that was not measured."""
        found = epoch.metrics.get(self.name)
        return found if found is None or self.name == "accuracy" else 100 * found

    def score(self, value: float, seconds: float) -> Score:
        """A score of which nothing else is known, from its value in the unit."""
        if self.name == "accuracy":
            return Score(accuracy=value, seconds=seconds)
        return Score(accuracy=0.0, metrics={self.name: value / 100}, seconds=seconds)

    @property
    def scale(self) -> str:
        """What stands behind a score: percent of accuracy and calibration error, or centinats."""
        return "%" if self.unit == "points" else self.unit

    def shown(self, value: float) -> str:
        """A score as people read it.

        >>> OBJECTIVES["accuracy"].shown(70.3), OBJECTIVES["nll"].shown(121.5)
        ('70.30 %', '121.50 centinats')
        """
        return f"{value:.2f} {self.scale}"

    def best(self, score: Score) -> float:
        """A number that is largest for the best score."""
        return self.sign * self.value(score)

    @property
    def said(self) -> str:
        """The unit of a gain in a sentence.

        >>> OBJECTIVES["accuracy"].said, OBJECTIVES["nll"].said
        ('points', 'centinats (less nll is better)')
        """
        return self.unit if self.sign > 0 else f"{self.unit} (less {self.name} is better)"


ASSUMED_DISAGREEMENT = 0.17
"""Share of images on which two trainings of one network disagree: measured for ResNet-50 on CIFAR-100; used only
where per-image correctness is not known, as in a table of scores."""
ASSUMED_IMAGES = 5_000

OBJECTIVES = Registry[Objective]("objective", group="buildup.objectives")
"""A centinat is a hundredth of the mean negative log-likelihood of an image."""
ACCURACY = OBJECTIVES.register(
    Objective(
        name="accuracy",
        title="validation accuracy",
        unit="points",
        sign=1,
        largest=100.0,
        seed_deviation=0.25,  # true ones of 0 to 0.4 were seen
        assumed_variance=1e4 * ASSUMED_DISAGREEMENT / ASSUMED_IMAGES,
        per_image="correct",
    )
)
OBJECTIVES.register(
    Objective(
        name="nll",
        title="negative log-likelihood",
        unit="centinats",
        sign=-1,
        largest=inf,
        seed_deviation=1.0,
        assumed_variance=1.0,
        per_image="losses",
    )
)
OBJECTIVES.register(
    Objective(
        name="ece",
        title="expected calibration error",
        unit="points",
        sign=-1,
        largest=1.0,
        seed_deviation=0.7,  # it is none of single images, so chance on them is in here, too
    )
)
