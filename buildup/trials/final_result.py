"""What `final` found: networks trained anew, measured on test images, and the claim that follows."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, Literal

Part = Literal["base", "winner", "control"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What may be said of a gain that was measured anew."""

    against: str
    """What the winner is compared with."""
    gain: float
    ci: tuple[float, float]
    level: float
    claimed: bool
    """Whether a gain is claimed: if and only if the whole interval is gain, and no training of the two failed."""
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A network trained anew, with what each of its seeds reached on the test images."""

    part: Part
    layout: str
    fingerprint: str
    params: int
    macs: int
    scores: Mapping[str, float]
    """By seed: accuracy in percent, or another objective in its unit."""
    ci: tuple[float, float] | None
    """Of the mean over seeds, at 95 %; None for a single seed."""
    failures: Mapping[str, str]
    """Why a seed has no score."""

    @property
    def mean(self) -> float | None:
        """The mean over the seeds; None without any."""
        return fmean(self.scores.values()) if self.scores else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Final:
    """All of it: one a run, for the test set is opened once."""

    contenders: tuple[Contender, ...]
    claims: tuple[Claim, ...]
    """Of the winner, against the base first."""
    objective: str = "accuracy"
    """What is compared."""
    seeds: tuple[int, ...]
    recipe: str
    epochs: int
    train_images: int
    test_images: int
    opened: str
    """When the test set was."""

    @property
    def verdict(self) -> str:
        """What it came to, as sentences."""
        return " ".join(claim.sentence for claim in self.claims)


def final_to_values(final: Final) -> dict[str, Any]:
    """A final, ready for JSON."""
    values = asdict(final)
    means = ({"mean": one.mean} for one in final.contenders)
    values["contenders"] = [{**one, **mean} for one, mean in zip(values["contenders"], means, strict=True)]
    return {**values, "verdict": final.verdict}


def final_from_values(values: Mapping[str, Any]) -> Final:
    """The final that `final_to_values` wrote down."""
    known = dict(values)
    known.pop("verdict")
    contenders = [{name: value for name, value in one.items() if name != "mean"} for one in known.pop("contenders")]
    claims = known.pop("claims")
    return Final(
        **{**known, "seeds": tuple(known["seeds"])},
        contenders=tuple(Contender(**{**one, "ci": one["ci"] and tuple(one["ci"])}) for one in contenders),
        claims=tuple(Claim(**{**one, "ci": tuple(one["ci"])}) for one in claims),
    )
