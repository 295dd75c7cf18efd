"""Objectives: what a search improves, such as accuracy or negative log-likelihood.

Values are in hundredths for every objective. A gain is positive where the candidate is better, also for objectives
that are minimised.

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
    """Accuracy, or the metric of the same name."""

    name: str
    title: str
    unit: str
    sign: int
    """1 if higher is better, -1 if lower is."""
    largest: float
    """Largest valid value in a table of scores: percent for accuracy, a share or nats for others."""
    seed_deviation: float
    """Expected standard deviation of a paired difference due to the seed, in the unit."""
    assumed_variance: float = 0.0
    """Variance of a paired difference due to single images, in the unit squared, used where it can't be measured; 0 if
    it is part of `seed_deviation`."""
    per_image: Literal["correct", "losses"] | None = None
    """The per-image record of a score whose mean the objective is."""

    def value(self, score: Score) -> float:
        """The value of a score in the unit: 70.3 points of accuracy, 121.5 hundredths of a nat."""
        return score.accuracy if self.name == "accuracy" else 100 * score.metrics[self.name]

    def gain(self, ours: Score, theirs: Score) -> float:
        return self.sign * (self.value(ours) - self.value(theirs))

    def at(self, epoch: Epoch) -> float | None:
        """The value after an epoch, in the unit; None if it was not measured."""
        found = epoch.metrics.get(self.name)
        return found if found is None or self.name == "accuracy" else 100 * found

    def score(self, value: float, seconds: float) -> Score:
        """A score made from its value in the unit alone."""
        if self.name == "accuracy":
            return Score(accuracy=value, seconds=seconds)
        return Score(accuracy=0.0, metrics={self.name: value / 100}, seconds=seconds)

    @property
    def scale(self) -> str:
        """The unit of scores in text: percent for points, or centinats."""
        return "%" if self.unit == "points" else self.unit

    def shown(self, value: float) -> str:
        """A score as text.

        >>> OBJECTIVES["accuracy"].shown(70.3), OBJECTIVES["nll"].shown(121.5)
        ('70.30 %', '121.50 centinats')
        """
        return f"{value:.2f} {self.scale}"

    def best(self, score: Score) -> float:
        """A sort key that is largest for the best score."""
        return self.sign * self.value(score)

    @property
    def said(self) -> str:
        """The unit of gains in text.

        >>> OBJECTIVES["accuracy"].said, OBJECTIVES["nll"].said
        ('points', 'centinats (less nll is better)')
        """
        return self.unit if self.sign > 0 else f"{self.unit} (less {self.name} is better)"


ASSUMED_DISAGREEMENT = 0.17
"""Share of images on which two trainings of one network disagree, measured for ResNet-50 on CIFAR-100. It is used where
per-image correctness is not known, as in a table of scores."""
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
        seed_deviation=0.25,  # measured: 0 to 0.4
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
        seed_deviation=0.7,  # not a mean over images, so their variance is included
    )
)
