"""Block kinds: the blocks that may stand at a place of a network, each named by one letter in layouts.

A kind is a frozen dataclass. Its fields are its settings; its class attributes describe it. Kinds are registered by
`register_kind`, or by an entry point in the group `buildup.kinds` of an installed package.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib.metadata import entry_points
from types import MappingProxyType, NoneType
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_origin, get_type_hints

from buildup.errors import KindError, LayoutError

GROUP = "buildup.kinds"
RESERVED = {"kind", "path", "module", "in_shape", "out_shape", "form", "added", "params", "expansion", "fixed"}
"""Keys of a block in network files, which no setting of a kind may use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockKind:
    """The base class of kinds. A kind is a frozen dataclass derived from it.

    The fields `heads`, `head_size`, `width` and `window` are filled in to fit the place. A search space may set every
    field but `width`. Annotations define the valid values: `int` is a count of at least 1, `Literal` a choice.
    """

    letter: ClassVar[str]
    """One capital letter, for layouts."""
    name: ClassVar[str]
    """The name in edits and tables, in small letters."""
    label: ClassVar[str]
    colour: ClassVar[tuple[str, str]] = ("#6b7785", "#9fadbc")
    """Of its boxes in diagrams, on light and dark pages."""
    module: ClassVar[str]
    """`package.module:Class` of the torch module."""
    branch: ClassVar[bool] = False
    """Whether the module is one layer of a residual block that has the norms and activations of the replaced block.

    Such a module takes `in_chs` and `out_chs`, and its last layer is called `out`. Any other module is the whole block
    and takes `chs`.
    """
    within: ClassVar[bool] = False
    """Whether the module takes the place of a convolution inside of the base's block, of which all else stays.

    Such a module takes `conv`, that convolution with its weights, whether trained or fresh.
    """
    attention: ClassVar[bool] = False
    """Whether it counts as attention in the trial parameters."""

    def __post_init__(self) -> None:
        problems = {name: self.problem(name, getattr(self, name)) for name in settings_of(type(self))}
        if wrong := [f"{name} is {getattr(self, name)!r}; {problem}" for name, problem in problems.items() if problem]:
            raise LayoutError(*(f"{self.name} block: {problem}." for problem in wrong))

    @classmethod
    def problem(cls, name: str, value: object) -> str | None:
        """What is wrong with the value of a setting; None if it is valid."""
        hint = settings_of(cls)[name]
        if get_origin(hint) is Literal:
            return None if value in get_args(hint) else f"it must be {' or '.join(map(str, get_args(hint)))}"
        if (value is None and NoneType in get_args(hint)) or int not in (hint, *get_args(hint)):
            return None
        fits = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        return None if fits else "a whole number of at least 1 is needed"

    def misfit(self, size: tuple[int, int]) -> str | None:
        """Why it doesn't fit maps of this height and width; None if it does."""
        return None

    def reach(self, size: tuple[int, int]) -> int:
        """The side of the area that one position attends to, for the trial parameters."""
        return max(size)

    def trial_params(self, size: tuple[int, int]) -> Mapping[str, int]:
        """Its part of the trial parameters of its stage.

        `msa` and `others` are summed over the blocks of a stage; of `window` and `heads` the maximum is taken.
        """
        if not self.attention:
            return {"others": 1}
        return {"msa": 1, "window": self.reach(size), "heads": getattr(self, "heads", 0)}

    def arguments(self, chs: int, width: int) -> dict[str, Any]:
        """The arguments of its module, for maps with `chs` channels of which a branch reads `width`."""
        settings = {name: getattr(self, name) for name in settings_of(type(self)) if name != "width"}
        if self.within:
            return settings
        return {"in_chs": width, "out_chs": chs, **settings} if self.branch else {"chs": chs, **settings}


Registered = TypeVar("Registered", bound=type[BlockKind])

_REGISTERED: dict[str, type[BlockKind]] = {}
"""The kinds by letter, without those of entry points that are not loaded yet."""


def register_kind(kind: Registered) -> Registered:
    """Register a kind; a decorator for its class. Raises `KindError` if it is not valid."""
    said = f"{kind.__module__}.{kind.__qualname__}"
    if not (isinstance(kind, type) and issubclass(kind, BlockKind) and "__dataclass_fields__" in vars(kind)):
        raise KindError(f"{said} is no block kind. Derive it from BlockKind and make it a frozen dataclass.")
    if missing := [name for name in ("letter", "name", "label", "module") if not hasattr(kind, name)]:
        raise KindError(f"{said} has no {', '.join(missing)}. A block kind says these as class attributes.")
    for name, pattern, wanted in (
        ("letter", "[A-Z]", "one capital letter"),
        ("name", "[a-z][a-z0-9-]*", "small letters, digits and hyphens"),
        ("module", r"[\w.]+:\w+", "'package.module:Class'"),
        ("colour", "#[0-9a-f]{6} #[0-9a-f]{6}", "two of #000000 to #ffffff, for light and dark pages"),
    ):
        value = getattr(kind, name)
        if not re.fullmatch(pattern, " ".join(value) if isinstance(value, tuple) else str(value)):
            raise KindError(f"{said}: {name} is {value!r}; it must be {wanted}.")
    if reserved := sorted(RESERVED & settings_of(kind).keys()):
        raise KindError(f"{said}: no setting can be called {' or '.join(reserved)}. Give it another name.")
    for other in _REGISTERED.values():
        if other is kind:
            return kind
        for name in ("letter", "name"):
            if getattr(kind, name) == getattr(other, name):
                raise KindError(
                    f"{said}: its {name} {getattr(kind, name)!r} is taken by {other.__module__}.{other.__qualname__}. "
                    f"Give one of them another {name}."
                )
    _REGISTERED[kind.letter] = kind
    return kind


@cache
def known_kinds() -> Mapping[str, type[BlockKind]]:
    """All kinds by their letters, those of installed packages included."""
    for entry in entry_points(group=GROUP):
        try:
            register_kind(entry.load())
        except Exception as error:  # importing a package may raise anything
            source = f" of {entry.dist.name}" if entry.dist else ""
            raise KindError(
                f"The entry point {entry.name} = {entry.value}{source} ({GROUP}) gives no block kind: "
                f"{type(error).__name__}: {error} Repair or remove that package."
            ) from error
    return MappingProxyType(_REGISTERED)


_SETTINGS: dict[type[BlockKind], dict[str, Any]] = {}


def settings_of(kind: type[BlockKind]) -> dict[str, Any]:
    """The settings of a kind, with their annotations."""
    if kind not in _SETTINGS:
        hints = get_type_hints(kind)
        _SETTINGS[kind] = {field.name: hints[field.name] for field in fields(kind)}
    return _SETTINGS[kind]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conv(BlockKind):
    """The base's own block, exactly as timm makes it."""

    letter: ClassVar[str] = "C"
    name: ClassVar[str] = "conv"
    label: ClassVar[str] = "the base’s own"
    colour: ClassVar[tuple[str, str]] = ("#e3e8ee", "#303b48")
    module: ClassVar[str] = ""

    def trial_params(self, size: tuple[int, int]) -> Mapping[str, int]:
        return {}


_REGISTERED[Conv.letter] = Conv  # without a module: timm makes it


@register_kind
@dataclass(frozen=True, slots=True, kw_only=True)
class LocalAttention(BlockKind):
    """Self-attention inside non-overlapping windows, with 1x1 convolutions around it.

    It follows the replaced block: pre-activation where that is, post-activation elsewhere.
    """

    letter: ClassVar[str] = "M"
    name: ClassVar[str] = "msa"
    label: ClassVar[str] = "local attention"
    colour: ClassVar[tuple[str, str]] = ("#0b69ad", "#62b6ec")
    module: ClassVar[str] = "buildup.models.layers:LocalAttention2d"
    branch: ClassVar[bool] = True
    attention: ClassVar[bool] = True

    heads: int
    window: int
    head_size: int = 64
    width: int | None = None
    """Channels that attention reads; None for those of the replaced ResNet block."""
    tables: Literal["shared", "heads"] = "shared"
    """Whether all heads share one position table, as in the paper, or each has its own."""

    def misfit(self, size: tuple[int, int]) -> str | None:
        if self.window <= min(size):
            return None
        return (
            f"window {self.window} does not fit into its {size[0]}x{size[1]} map. Use a window of at most {min(size)}."
        )

    def reach(self, size: tuple[int, int]) -> int:
        return self.window


@register_kind
@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalAttention(BlockKind):
    """Self-attention over the whole map, without a position table, so that it fits any size."""

    letter: ClassVar[str] = "G"
    name: ClassVar[str] = "global-msa"
    label: ClassVar[str] = "global attention"
    colour: ClassVar[tuple[str, str]] = ("#4a1942", "#f3d3ee")
    module: ClassVar[str] = "buildup.models.layers:GlobalAttention2d"
    branch: ClassVar[bool] = True
    attention: ClassVar[bool] = True

    heads: int
    head_size: int = 64
    width: int | None = None


@register_kind
@dataclass(frozen=True, slots=True, kw_only=True)
class ConvAttention(BlockKind):
    """Convolution-shaped self-attention: each position attends to the k x k positions around it."""

    letter: ClassVar[str] = "K"
    name: ClassVar[str] = "conv-msa"
    label: ClassVar[str] = "k×k attention"
    colour: ClassVar[tuple[str, str]] = ("#35a583", "#239a72")
    module: ClassVar[str] = "buildup.models.layers:ConvAttention2d"
    branch: ClassVar[bool] = True
    attention: ClassVar[bool] = True

    heads: int
    kernel: int = 3
    head_size: int = 64
    width: int | None = None
    borders: Literal["masked", "attended"] = "masked"
    """Whether positions outside the map are masked, or attended to as zeros, as in the reference code."""

    @classmethod
    def problem(cls, name: str, value: object) -> str | None:
        # super() without arguments fails in a dataclass with slots.
        if problem := super(ConvAttention, cls).problem(name, value):
            return problem
        if name == "kernel" and isinstance(value, int) and value % 2 == 0:
            return f"an odd number is needed, such as {value + 1}"
        return None

    def reach(self, size: tuple[int, int]) -> int:
        return self.kernel


@register_kind
@dataclass(frozen=True, slots=True, kw_only=True)
class Smoothing(BlockKind):
    """Spatial smoothing: a bounded activation and a small mean filter, without weights."""

    letter: ClassVar[str] = "S"
    name: ClassVar[str] = "smoothing"
    label: ClassVar[str] = "smoothing"
    colour: ClassVar[tuple[str, str]] = ("#f4b63c", "#e8a820")
    module: ClassVar[str] = "buildup.models.layers:Smoothing2d"

    kernel: int = 2
    temperature: int = 10
    """The bound t of activations: ReLU(t * tanh(z / t))."""
    borders: Literal["replicate", "grow"] = "replicate"
    """Whether the map keeps its size, or grows by one dark pixel as in the reference code."""

    def arguments(self, chs: int, width: int) -> dict[str, Any]:
        return {"kernel": self.kernel, "temperature": self.temperature, "borders": self.borders}


@register_kind
@dataclass(frozen=True, slots=True, kw_only=True)
class GatedAttention(BlockKind):
    """Attention in place of the last 3x3 convolution of the base's block, from which it starts.

    Each of nine heads first sees one of the 3x3 positions, as the convolution does, and a gate opens it to attention
    over all nine. So a pretrained block goes on from what it computes. All else of the block stays.
    """

    letter: ClassVar[str] = "T"
    name: ClassVar[str] = "gated-msa"
    label: ClassVar[str] = "gated 3×3 attention"
    colour: ClassVar[tuple[str, str]] = ("#b0562f", "#e39a77")
    module: ClassVar[str] = "buildup.models.layers:GatedAttention2d"
    within: ClassVar[bool] = True
    attention: ClassVar[bool] = True
    heads: ClassVar[int] = 9

    def reach(self, size: tuple[int, int]) -> int:
        return 3


def describe(kind: BlockKind) -> str:
    """A kind in one short phrase, with the settings that are not the usual ones.

    >>> describe(LocalAttention(heads=24, window=4))
    'msa(heads=24, window=4)'
    """
    _, *unusual = to_values(kind).items()
    settings = ", ".join(f"{name}={value}" for name, value in unusual)
    return f"{kind.name}({settings})" if settings else kind.name


def to_values(kind: BlockKind) -> dict[str, Any]:
    """A kind as plain values, for files: its letter and the settings that are not the usual ones.

    So a setting that a later version adds changes neither files nor fingerprints of earlier networks.
    """
    values = {field.name: (getattr(kind, field.name), field.default) for field in fields(kind)}
    return {"kind": kind.letter, **{name: value for name, (value, default) in values.items() if value != default}}


def from_values(values: dict[str, Any]) -> BlockKind:
    settings = dict(values)
    letter = settings.pop("kind", None)
    kinds = known_kinds()
    if letter not in kinds:
        raise LayoutError(f"block kind {letter!r} is not known; known are {', '.join(kinds)}.")
    known = set(settings_of(kinds[letter]))
    if wrong := sorted(settings.keys() - known):
        raise LayoutError(
            f"block kind {letter}: unknown settings {', '.join(wrong)}; known are {', '.join(sorted(known)) or 'none'}."
        )
    return kinds[letter](**settings)


def placed_kind(letter: str, values: Mapping[str, Any], fitting: Mapping[str, Any]) -> BlockKind:
    """A kind with these settings, and with those of `fitting` that it has."""
    own = settings_of(known_kinds()[letter]) if letter in known_kinds() else {}
    return from_values({"kind": letter, **values, **{name: fitting[name] for name in own if name in fitting}})
