"""What `simulate` can be asked for, and which of its flags each study reads: no other one is ignored in silence."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

WHERE = frozenset({"base", "layout", "space", "look_ahead", "scores"})
DRAWN = frozenset({"judge", "seeds", "seed", "runs"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """One thing that `simulate` does."""

    reads: frozenset[str]
    does: str
    """Why any other flag would say nothing."""
    has_own_start: bool = False
    """Whether it repeats searches of its own where nobody says where to start."""


STUDIES: Mapping[str, Study] = {
    "aa": Study(
        reads=WHERE | DRAWN | {"noise"},
        does="--aa draws which images are right, in searches by the build-up rule",
        has_own_start=True,
    ),
    "power": Study(
        reads=(WHERE | DRAWN | {"noise"}) - {"judge"},
        does="--power draws which images are right, in searches by the build-up rule and each judge in turn",
        has_own_start=True,
    ),
    "speedup": Study(
        reads=WHERE | DRAWN | {"strategy", "default_score"},
        does="--speedup follows the table and drawn scores on 1 to 64 workers, without noise",
    ),
}
"""By the flag that asks for it."""
TABLE = Study(
    reads=WHERE | (DRAWN - {"runs"}) | {"strategy", "objective", "workers", "noise", "default_score"},
    does="a table is followed once",
)
"""What is done when none of them is asked for."""


def study_of(flags: Mapping[str, Any]) -> str | None:
    """The study that is asked for; None for following the table once."""
    return next((name for name in STUDIES if _given(flags, name)), None)


def unread(flags: Mapping[str, Any]) -> Iterator[str]:
    """The flags that the study asked for would ignore, a sentence each."""
    asked = [name for name in STUDIES if _given(flags, name)]
    if len(asked) > 1:
        yield f"{' and '.join(map(_flag, asked))} are {len(asked)} studies; ask for one of them."
    study = STUDIES[asked[0]] if asked else TABLE
    for name in flags:
        if name in {*STUDIES, "json", "command"} or not _given(flags, name):
            continue
        if name not in study.reads:
            yield f"{_flag(name)}: {study.does}. Leave it out."
        elif study.has_own_start and name in WHERE and not (flags["base"] or flags["layout"]):
            yield (
                f"{_flag(name)}: without --base or --layout, {_flag(asked[0])} repeats searches of its own. Say where "
                "yours starts, or leave it out."
            )


def _given(flags: Mapping[str, Any], name: str) -> bool:
    return flags[name] not in (None, False)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
