"""How the blocks of a base are made, as far as a block that takes their place has to follow them.

A form is read once from the base and kept with the network, so that what was trained is built the same way again,
whatever later versions find out about its family.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Norm:
    """A normalisation, without the number of its channels."""

    kind: Literal["batch", "group", "layer", "rms", "frn"]
    eps: float
    momentum: float | None = None
    """Of batch norm's running averages."""
    groups: int | None = None
    """Of group norm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockStyle:
    """The habits of one block of a base. Paths are timm's own, inside that block; empty where it has no such part."""

    order: Literal["pre", "post"]
    """Whether norms and activations stand before the convolutions or after them (paper.md 2.2)."""
    norm: Norm
    act: str = ""
    """The activation that follows the sum."""
    drop_path: str = ""
    scale: str = ""
    """The weights that scale the residual branch (layer scale)."""
    standardised: float | None = None
    """The eps of convolutions with standardised weights, where the base has those."""
    channels_last: bool = False
    """Whether the block takes maps as height, width, channels."""


def style_to_values(style: BlockStyle) -> dict[str, Any]:
    """A form as plain values, without what it lacks."""
    return {**_given(asdict(style)), "norm": _given(asdict(style.norm))}


def style_from_values(values: dict[str, Any]) -> BlockStyle:
    """The form that `style_to_values` wrote down."""
    return BlockStyle(**{**values, "norm": Norm(**values["norm"])})


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in (None, "", False)}
