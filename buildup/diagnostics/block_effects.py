"""The effect of blocks: the accuracy lost without them, and their effect on variance and on high frequencies.

The units of `units.py` describe a whole model, one residual sum after the other. Here a block is a module that a search
replaces: its output has the shape of its input. So it can be removed in every family by returning its input, and its
output can be compared with its input directly.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from math import exp, log
from statistics import fmean
from typing import Any

from torch import Tensor, nn

from buildup.diagnostics.analysis import LabelledBatches
from buildup.diagnostics.feature_maps import LEAST_SIDE, spatial_variance, spectrum
from buildup.diagnostics.predictions import evaluate

BlockAction = Callable[[str, Tensor, Tensor], Tensor | None]
"""Receives a block's path, input and output. Returns a replacement of the output, or None to keep it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockEffect:
    """The effect of some blocks."""

    lesion: float
    """Points of accuracy lost when all of them are removed at once. Batch norms keep their statistics."""
    variance: float | None
    """The spatial variance of a block's output divided by that of its input; geometric mean over the blocks."""
    frequency: float | None
    """The increase of the log amplitude of the highest frequency; mean over the blocks. None below 3 x 3 pixels."""


@dataclass(slots=True)
class _Sums:
    """Sums over the images of one block."""

    images: int = 0
    before: float = 0.0
    after: float = 0.0
    rise: float = 0.0
    has_frequencies: bool = False


def measure_blocks(
    model: nn.Module, paths: Sequence[str], batches: Callable[[], LabelledBatches], *, channels_last: bool = False
) -> BlockEffect:
    """The effect of the blocks at these paths, whose outputs have the shape of their inputs. The model stays as it is.

    `batches` returns the same images with labels at each call. With `channels_last`, the maps of the blocks are height
    x width x channels.
    """
    sums = {path: _Sums() for path in paths}

    def add(path: str, inputs: Tensor, outputs: Tensor) -> None:
        before, after = (tensor.permute(0, 3, 1, 2) if channels_last else tensor for tensor in (inputs, outputs))
        one, count = sums[path], len(outputs)
        one.images += count
        one.before += count * spatial_variance(before)
        one.after += count * spatial_variance(after)
        if min(after.shape[2:]) >= LEAST_SIDE:
            one.has_frequencies = True
            one.rise += count * (spectrum(after).high - spectrum(before).high)

    with hook_blocks(model, paths, add):
        intact = evaluate(model, batches())
    with hook_blocks(model, paths, lambda path, inputs, outputs: inputs):
        without = evaluate(model, batches())
    ratios = [one.after / one.before for one in sums.values() if one.before > 0 and one.after > 0]
    rises = [one.rise / one.images for one in sums.values() if one.has_frequencies]
    return BlockEffect(
        lesion=intact.accuracy - without.accuracy,
        variance=exp(fmean(map(log, ratios))) if len(ratios) == len(paths) else None,
        frequency=fmean(rises) if len(rises) == len(paths) else None,
    )


@contextmanager
def hook_blocks(model: nn.Module, paths: Sequence[str], action: BlockAction) -> Iterator[None]:
    """Pass inputs and outputs of blocks to an action, which may replace the output. No hook is left afterwards."""
    inputs: dict[str, Tensor] = {}

    def before(path: str, module: nn.Module, args: Any) -> None:
        # A copy, because a block may overwrite its input.
        inputs[path] = args[0].clone()

    def after(path: str, module: nn.Module, args: Any, outputs: Tensor) -> Tensor | None:
        return action(path, inputs.pop(path), outputs)

    with ExitStack() as stack:
        for path in paths:
            block = model.get_submodule(path)
            stack.enter_context(block.register_forward_pre_hook(partial(before, path)))
            stack.enter_context(block.register_forward_hook(partial(after, path)))
        yield
