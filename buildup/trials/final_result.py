"""The result of `final`: networks trained anew and measured on test images, and the claims that follow."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, Literal

Part = Literal["base", "winner", "control"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The claim on a gain that was measured with fresh seeds."""

    against: str
    gain: float
    ci: tuple[float, float]
    level: float
    claimed: bool
    """Whether a gain is claimed: the whole interval is above zero, and no training of the two failed."""
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A network trained anew, with its scores on the test images."""

    part: Part
    layout: str
    fingerprint: str
    params: int
    macs: int
    scores: Mapping[str, float]
    """Scores by seed, in the unit of the objective."""
    ci: tuple[float, float] | None
    """95 % confidence interval of the mean over seeds; None for a single seed."""
    failures: Mapping[str, str]

    @property
    def mean(self) -> float | None:
        return fmean(self.scores.values()) if self.scores else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Final:
    """The whole result. A run has one, because the test set is used once."""

    contenders: tuple[Contender, ...]
    claims: tuple[Claim, ...]
    """Claims on the winner; the one against the base comes first."""
    objective: str = "accuracy"
    seeds: tuple[int, ...]
    recipe: str
    epochs: int
    train_images: int
    fraction: str = "all"
    """`same` if the trainings had as many images as those of the search, `all` if they had all training images."""
    test_images: int
    opened: str
    """When the test set was first used."""

    @property
    def verdict(self) -> str:
        return " ".join(claim.sentence for claim in self.claims)


def final_to_values(final: Final) -> dict[str, Any]:
    contenders = [{**asdict(one), "mean": one.mean} for one in final.contenders]
    return {**asdict(final), "contenders": contenders, "verdict": final.verdict}


def final_from_values(values: Mapping[str, Any]) -> Final:
    known = dict(values)
    known.pop("verdict")
    known["seeds"] = tuple(known["seeds"])
    known["claims"] = tuple(Claim(**{**one, "ci": tuple(one["ci"])}) for one in known["claims"])
    contenders = [{name: value for name, value in one.items() if name != "mean"} for one in known["contenders"]]
    known["contenders"] = tuple(Contender(**{**one, "ci": one["ci"] and tuple(one["ci"])}) for one in contenders)
    return Final(**known)
