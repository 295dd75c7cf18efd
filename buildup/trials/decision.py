"""A verdict on a candidate, with the scores it stands on and the reason in a sentence."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Keep = Literal["keep", "drop"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a judge says of a candidate. It cannot be built without its reason."""

    verdict: Keep
    gain: float
    """Mean gain over the parent: what is better is above zero."""
    ci: tuple[float, float]
    """Its interval at `level`. Interval and verdict never disagree: kept if and only if all of it is gain, or all of it
    above the least gain that the space asks for."""
    level: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A verdict in its place in the search: one line of `decisions.jsonl`."""

    step: int
    candidate: str
    parent: str
    edit: str
    layout: str
    scores: tuple[float, ...]
    parent_scores: tuple[float, ...]
    gain: float
    ci: tuple[float, float]
    verdict: Keep
    reason: str
    judge: str
    level: float
    looks: int
    seeds: int
    params: int | None = None
    macs: int | None = None
    objective: str = "accuracy"
    """What scores and gain are of, and in which unit."""
    unit: str = "points"

    @property
    def kept(self) -> bool:
        """Whether the candidate is what the search goes on from."""
        return self.verdict == "keep"


def decision_to_values(decision: Decision) -> dict[str, Any]:
    """A decision, ready for JSON."""
    values = asdict(decision)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def decision_from_values(values: dict[str, Any]) -> Decision:
    """The decision that `decision_to_values` wrote down."""
    settings = dict(values)
    for key in ("scores", "parent_scores"):
        settings[key] = tuple(settings[key])
    low, high = settings.pop("ci")
    settings.pop("epoch", None)  # of version 0.1.0, where curves could drop a candidate
    return Decision(**settings, ci=(low, high))
