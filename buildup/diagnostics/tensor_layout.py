"""Where height, width and channels are in what a unit gives out, so that it can be looked at as maps."""

from dataclasses import dataclass
from math import gcd, isqrt, prod
from typing import Literal

from torch import Tensor

from buildup.diagnostics.flow import Flow

MOST_PREFIX = 16
"""Class, distillation and register tokens that may stand before those of the map."""

LAST_AXIS = frozenset(("linear", "layer_norm", "rms_norm"))
"""Functions that read channels from the last axis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a tensor holds maps."""

    order: Literal["nchw", "nhwc", "tokens", "none"]
    size: tuple[int, int] | None = None
    prefix: int = 0
    """Tokens before those of the map."""

    def channels(self, shape: tuple[int, ...]) -> int:
        """How many channels a tensor of a shape has."""
        return shape[1] if self.order == "nchw" else shape[-1] if shape else 0


def to_map(output: Tensor, layout: Layout) -> Tensor | None:
    """A tensor as images x channels x height x width; None where it holds no maps."""
    match layout.order:
        case "nchw":
            return output
        case "nhwc":
            return output.permute(0, 3, 1, 2)
        case "tokens":
            assert layout.size is not None
            tokens = output[:, layout.prefix :].transpose(1, 2)
            return tokens.reshape(*tokens.shape[:2], *layout.size)
        case "none":
            return None


def find_layout(flow: Flow, number: int, image: tuple[int, int], before: Layout | None = None) -> Layout:
    """The layout of what a call gives out; where both orders fit, that of the unit before it, if it had one."""
    shape = flow.nodes[number].shape or ()
    if len(shape) not in (3, 4) or shape[0] != (flow.nodes[0].shape or ())[0]:
        return Layout(order="none")
    if len(shape) == 4:
        first, last = shape[1:3], shape[2:4]
        known = before is not None and before.order in ("nchw", "nhwc")
        is_last = before.order == "nhwc" if before and known else _is_read_last(flow, number)
        if _has_ratio(first, image) and (not _has_ratio(last, image) or is_last):
            return Layout(order="nhwc", size=(first[0], first[1]))
        return Layout(order="nchw", size=(last[0], last[1]))
    return _tokens(flow, number, shape[1], image)


_NONE = Layout(order="none")


def _tokens(flow: Flow, number: int, tokens: int, image: tuple[int, int]) -> Layout:
    """Tokens of the last map before them, or of the largest one in the proportions of the image."""
    sizes = []
    for node in flow.nodes[number::-1]:
        if len(node.shape or ()) == 4 and (node.function.startswith("conv") or "pool" in node.function):
            assert node.shape is not None
            sizes.append((node.shape[2], node.shape[3]))
            break
    factor = gcd(*image)
    high, wide = image[0] // factor, image[1] // factor
    times = isqrt(tokens // (high * wide))
    sizes.append((high * times, wide * times))
    for size in sizes:
        prefix = tokens - prod(size)
        if size[0] and 0 <= prefix <= min(MOST_PREFIX, prod(size)):
            return Layout(order="tokens", size=size, prefix=prefix)
    return _NONE


def _has_ratio(sides: tuple[int, ...], image: tuple[int, int]) -> bool:
    """Whether two sides are those of an image made smaller, each rounded by up to a pixel."""
    (high, wide), (tall, broad) = sides, image
    return high <= tall and wide <= broad and abs(high * broad - wide * tall) <= max(tall, broad) // 2


def _is_read_last(flow: Flow, number: int) -> bool:
    """Whether a function of the last axis reads it, or made it."""
    names = {node.function for node in flow.nodes if number in node.parents} | {flow.nodes[number].function}
    names |= {flow.nodes[parent].function for parent in flow.nodes[number].parents}
    return bool(names & LAST_AXIS)
