"""How well cheap scores put candidates into the order of their full scores."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Candidates that have both a cheap and a full score."""

    cheap: str
    """What the cheap scores are: `epoch 4 of 14`."""
    share: float
    """Of the epochs of full trainings that they cost."""
    candidates: int
    tau: float
    """Kendall's, with its interval at 95 %."""
    low: float
    high: float
    best: bool
    """Whether both have the same candidate first."""
