"""What may stand at a place of a network: one frozen value a kind, named by one letter in layouts.

A new kind is one class in `KINDS` here, and one entry in `models/blocks.py` that builds its module.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

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
    width: int | None = None
    """Channels that attention reads; those of the ResNet block it replaces where left out (paper.md 2.2)."""
    tables: Literal["shared", "heads"] = "shared"
    """Whether all heads share one table of positions, as in the paper, or each has its own."""

    def __post_init__(self) -> None:
        _check(
            self,
            heads=_count(self.heads),
            window=_count(self.window),
            head_size=_count(self.head_size),
            width=_count(self.width, optional=True),
            tables=_choice(self.tables, "shared", "heads"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalAttention:
    """Self-attention over the whole map, without a table of positions, so that it fits any size."""

    letter: ClassVar[str] = "G"
    name: ClassVar[str] = "global-msa"

    heads: int
    head_size: int = 64
    width: int | None = None

    def __post_init__(self) -> None:
        _check(
            self,
            heads=_count(self.heads),
            head_size=_count(self.head_size),
            width=_count(self.width, optional=True),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvAttention:
    """Convolution-shaped self-attention: each place attends to the k x k places around it (paper.md 8.10)."""

    letter: ClassVar[str] = "K"
    name: ClassVar[str] = "conv-msa"

    heads: int
    kernel: int = 3
    head_size: int = 64
    width: int | None = None
    borders: Literal["masked", "attended"] = "masked"
    """Whether nothing attends to what lies outside of the map, or, as in the reference code, to zeros there."""

    def __post_init__(self) -> None:
        _check(
            self,
            heads=_count(self.heads),
            kernel=_count(self.kernel) or ("an odd number is needed" if self.kernel % 2 == 0 else None),
            head_size=_count(self.head_size),
            width=_count(self.width, optional=True),
            borders=_choice(self.borders, "masked", "attended"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Smoothing:
    """Spatial smoothing: a bounded activation and a small mean filter, without weights (paper.md 9)."""

    letter: ClassVar[str] = "S"
    name: ClassVar[str] = "smoothing"

    kernel: int = 2
    temperature: int = 10
    """Activations are bounded by it: ReLU(t * tanh(z / t))."""
    borders: Literal["replicate", "grow"] = "replicate"
    """Whether the map keeps its size, or grows by one dark pixel as in the reference code."""

    def __post_init__(self) -> None:
        _check(
            self,
            kernel=_count(self.kernel),
            temperature=_count(self.temperature),
            borders=_choice(self.borders, "replicate", "grow"),
        )


Attention = LocalAttention | GlobalAttention | ConvAttention

Kind = Conv | Attention | Smoothing

KINDS: dict[str, type[Kind]] = {
    kind.letter: kind for kind in (Conv, LocalAttention, GlobalAttention, ConvAttention, Smoothing)
}


def describe(kind: Kind) -> str:
    """A kind in one short phrase, with the settings that are not the usual ones.

    >>> describe(LocalAttention(heads=24, window=4))
    'msa(heads=24, window=4)'
    """
    settings = ", ".join(f"{name}={value}" for name, value in _unusual(kind))
    return f"{kind.name}({settings})" if settings else kind.name


def to_values(kind: Kind) -> dict[str, Any]:
    """A kind as plain values, for files: its letter and the settings that are not the usual ones.

    A setting that a later version adds then changes neither files nor fingerprints of what came before it.
    """
    return {"kind": kind.letter, **dict(_unusual(kind))}


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


def _unusual(kind: Kind) -> Iterator[tuple[str, Any]]:
    for field in fields(kind):
        if getattr(kind, field.name) != field.default:
            yield field.name, getattr(kind, field.name)


def _check(kind: Kind, **problems: str | None) -> None:
    wrong = [f"{name} is {getattr(kind, name)!r}; {problem}" for name, problem in problems.items() if problem]
    if wrong:
        raise LayoutError(*(f"{kind.name} block: {problem}." for problem in wrong))


def _count(value: object, optional: bool = False) -> str | None:
    if optional and value is None:
        return None
    fits = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    return None if fits else "a whole number of at least 1 is needed"


def _choice(value: object, *choices: str) -> str | None:
    return None if value in choices else f"it must be {' or '.join(choices)}"
