"""What may stand at a place of a network: one frozen value a kind, named by one letter in layouts.

A new kind is one class in `KINDS` here, and one entry in `models/blocks.py` that builds its module.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from buildup.errors import LayoutError


@dataclass(frozen=True, slots=True, kw_only=True)
class Conv:
    """The base's own block, exactly as timm makes it."""

    letter: ClassVar[str] = "C"
    name: ClassVar[str] = "conv"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalAttention:
    """Self-attention inside non-overlapping windows (paper.md 2.1), with 1x1 convolutions around it.

    The block keeps the habit of its base: pre-activation where the replaced block is (paper.md 2.2),
    post-activation elsewhere.
    """

    letter: ClassVar[str] = "M"
    name: ClassVar[str] = "msa"

    heads: int
    window: int
    head_size: int = 64

    def __post_init__(self) -> None:
        wrong = [
            f"{field.name} is {getattr(self, field.name)!r}"
            for field in fields(self)
            if not _is_count(getattr(self, field.name))
        ]
        if wrong:
            raise LayoutError(f"msa block: {', '.join(wrong)}; a whole number of at least 1 is needed.")


Kind = Conv | LocalAttention

KINDS: dict[str, type[Conv] | type[LocalAttention]] = {kind.letter: kind for kind in (Conv, LocalAttention)}


def describe(kind: Kind) -> str:
    """A kind in one short phrase, with the settings that are not the usual ones.

    >>> describe(LocalAttention(heads=24, window=4))
    'msa(heads=24, window=4)'
    """
    unusual = (field.name for field in fields(kind) if getattr(kind, field.name) != field.default)
    settings = ", ".join(f"{name}={getattr(kind, name)}" for name in unusual)
    return f"{kind.name}({settings})" if settings else kind.name


def to_values(kind: Kind) -> dict[str, Any]:
    """A kind as plain values, for files."""
    return {"kind": kind.letter, **asdict(kind)}


def from_values(values: dict[str, Any]) -> Kind:
    """The kind that `to_values` wrote down."""
    settings = dict(values)
    letter = settings.pop("kind", None)
    if letter not in KINDS:
        raise LayoutError(f"block kind {letter!r} is not known; known are {', '.join(KINDS)}.")
    known = {field.name for field in fields(KINDS[letter])}
    if wrong := sorted(settings.keys() - known):
        raise LayoutError(
            f"block kind {letter}: unknown settings {', '.join(wrong)}; known are {', '.join(sorted(known)) or 'none'}."
        )
    return KINDS[letter](**settings)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
