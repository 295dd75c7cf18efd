"""What a search was asked for, resolved: every value of it stands in `run.yaml`, and `resume` reads it from there."""

import re
from dataclasses import asdict, dataclass, field
from typing import Any

from buildup.errors import RunError
from buildup.models.pretrained import Pretrained
from buildup.training.execution import Execution

REMOVED: dict[str, object] = {"early_drop": None, "inherit": None}
"""Settings that version 0.1.0 had and verdicts stood on, with the values of runs that did not use them."""
IGNORED = frozenset({"prior"})
"""Settings that version 0.1.0 had and no verdict stood on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of a run. Names are those of the flags."""

    base: str
    dataset: str
    data_dir: str | None = None
    image_size: int
    space: str
    recipe: str
    epochs: int
    seeds: int
    strategy: str
    judge: str
    workers: int
    gpus_per_trial: float = 0.0
    threads: int
    """CPU threads of one training. It stands in `run.yaml` because sums depend on it in their last digits."""
    device: str
    execution: Execution = field(default_factory=Execution)
    """Chosen once for the whole run, so that candidate and parent are computed alike wherever they are trained."""
    fraction: str
    seed: int
    look_ahead: bool = False
    """Whether the space looks ahead whatever it says itself."""
    storage: str | None = None
    ray: str | None = None
    max_trials: int | None = None
    time_budget: float | None = None
    """Seconds."""
    allow_weak_base: bool = False
    pretrained: Pretrained | None = None
    """The trained weights that the base's own blocks begin with."""
    max_params: int | None = None
    max_macs: int | None = None
    objective: str = "accuracy"
    reuse: bool = False
    """Whether trainings that another run has finished are taken over."""


def settings_to_values(settings: Settings) -> dict[str, Any]:
    """The settings, ready for YAML."""
    return asdict(settings)


def settings_from_values(values: dict[str, Any]) -> Settings:
    """The settings that `settings_to_values` wrote down.

    Raises:
        RunError: The run used a setting that was removed.
    """
    if used := [name for name, unused in REMOVED.items() if values.get(name, unused) != unused]:
        raise RunError(f"this run used {' and '.join(used)}, which was removed; buildup 0.1.0 can read it.")
    start = values.get("pretrained")
    return Settings(
        **{
            **{name: value for name, value in values.items() if name not in REMOVED.keys() | IGNORED},
            "execution": Execution(**values["execution"]),
            "pretrained": Pretrained(**start) if start else None,
        }
    )


def parse_duration(text: str) -> float:
    """Seconds of a duration.

    >>> parse_duration("1h30m")
    5400.0
    """
    match = re.fullmatch(
        r"\s*(?:(\d+(?:\.\d+)?)d)?\s*(?:(\d+(?:\.\d+)?)h)?\s*(?:(\d+(?:\.\d+)?)m)?\s*(?:(\d+(?:\.\d+)?)s?)?\s*", text
    )
    seconds = (
        sum(float(part or 0) * unit for part, unit in zip(match.groups(), (86400, 3600, 60, 1), strict=True))
        if match
        else 0
    )
    if not seconds > 0:
        raise ValueError(f"{text!r} is not a duration; write it like 90m, 2h30m or 45s.")
    return float(seconds)
