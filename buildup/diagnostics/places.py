"""What blocks do where they stand: what is lost without them, and what they do to variance and to high frequencies.

The units of `units.py` say what a whole model does, one residual sum after the other. Here a place is a block that a
search replaces: a module that gives out maps like those it takes. So it can be left out in every family, by handing on
what it was given, and what it gives out can be compared with what it takes, which no other place has a part in.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import exp, log
from statistics import fmean
from typing import Any

from torch import Tensor, nn

from buildup.diagnostics.fourier import LEAST_SIDE, spectrum
from buildup.diagnostics.predictions import Labelled, measured
from buildup.diagnostics.variance import spatial_variance

Act = Callable[[str, Tensor, Tensor], Tensor | None]
"""Given a block's path, what it took and what it gives out: what is to stand in place of that, or None to leave it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What the blocks at some places do."""

    lesion: float
    """Points of accuracy that are lost when all of them are left out at once. Batch norms keep their statistics."""
    variance: float | None
    """The spatial variance of what a block gives out over that of what it takes, the geometric mean over the blocks."""
    frequency: float | None
    """By how much a block raises the logarithm of the amplitude of the highest frequency, the mean over the blocks.

    None for maps of less than 3 x 3, which have none.
    """


@dataclass(slots=True)
class _Sums:
    """What was seen at one place, images times values."""

    images: int = 0
    before: float = 0.0
    after: float = 0.0
    rise: float = 0.0
    has_frequencies: bool = False

    def see(self, inputs_of: Tensor, outputs_of: Tensor) -> None:
        count = len(outputs_of)
        self.images += count
        self.before += count * spatial_variance(inputs_of)
        self.after += count * spatial_variance(outputs_of)
        if min(outputs_of.shape[2:]) >= LEAST_SIDE:
            self.has_frequencies = True
            self.rise += count * (spectrum(outputs_of).high - spectrum(inputs_of).high)


def effect(
    model: nn.Module, paths: Sequence[str], batches: Callable[[], Labelled], *, channels_last: bool = False
) -> Effect:
    """What the blocks at these paths do in a model that runs in evaluation mode; it stays as it is.

    Args:
        model: On the device where it is to run.
        paths: Blocks that give out maps like those they take.
        batches: Gives the same images with labels at each call.
        channels_last: Whether the blocks take maps as height, width, channels.
    """
    sums = {path: _Sums() for path in paths}

    def see(path: str, inputs_of: Tensor, outputs_of: Tensor) -> None:
        maps = (tensor.permute(0, 3, 1, 2) if channels_last else tensor for tensor in (inputs_of, outputs_of))
        sums[path].see(*maps)

    with at_blocks(model, paths, see):
        intact = measured(model, batches())
    with at_blocks(model, paths, lambda path, inputs_of, outputs_of: inputs_of):
        without = measured(model, batches())
    ratios = [one.after / one.before for one in sums.values() if one.before > 0 and one.after > 0]
    rises = [one.rise / one.images for one in sums.values() if one.has_frequencies]
    return Effect(
        lesion=intact.accuracy - without.accuracy,
        variance=exp(fmean(map(log, ratios))) if len(ratios) == len(paths) else None,
        frequency=fmean(rises) if len(rises) == len(paths) else None,
    )


@contextmanager
def at_blocks(model: nn.Module, paths: Sequence[str], act: Act) -> Iterator[None]:
    """Let something see, and replace, what blocks give out; no hook is left afterwards."""
    taken: dict[str, Tensor] = {}

    def before(path: str) -> Callable[[nn.Module, Any], None]:
        # A copy, for a block may begin by overwriting what it takes.
        return lambda module, args: taken.update({path: args[0].clone()})

    def after(path: str) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
        return lambda module, args, outputs_of: act(path, taken.pop(path), outputs_of)

    with ExitStack() as stack:
        for path in paths:
            block = model.get_submodule(path)
            stack.enter_context(block.register_forward_pre_hook(before(path)))
            stack.enter_context(block.register_forward_hook(after(path)))
        yield
