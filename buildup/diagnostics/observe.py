"""What the units of a model give out, while it runs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from buildup.diagnostics.hooks import acting, evaluating
from buildup.diagnostics.units import Unit

See = Callable[[Unit, Tensor], None]
"""Is given a unit and its output, which later units may overwrite: what is to be kept must be copied."""


@contextmanager
def watching(model: nn.Module, units: Sequence[Unit], see: See) -> Iterator[None]:
    """Show each unit's output as soon as it is there; the model runs as it would otherwise."""

    def shown(unit: Unit) -> Callable[[Tensor, object], None]:
        return lambda output, _: see(unit, output)

    with acting(model, {unit.site: shown(unit) for unit in units}):
        yield


def observe(model: nn.Module, units: Sequence[Unit], images: Tensor) -> tuple[Tensor, ...]:
    """The outputs of units for images, in evaluation mode."""
    found: dict[int, Tensor] = {}

    def keep(unit: Unit, output: Tensor) -> None:
        found[unit.index] = output.clone()

    with torch.no_grad(), evaluating(model), watching(model, units, keep):
        model(images)
    return tuple(found[unit.index] for unit in units)


def see_maps(model: nn.Module, units: Sequence[Unit], images: Tensor, see: See) -> None:
    """Show the outputs of those units that give out maps, as images x channels x height x width."""

    def show(unit: Unit, output: Tensor) -> None:
        maps = unit.as_map(output)
        if maps is not None:
            see(unit, maps)

    with torch.no_grad(), evaluating(model), watching(model, units, show):
        model(images)
