"""`places`: how near new blocks of a pretrained network come to what they replace, place by place.

As in the trainings of a search, only the new block learns, without labels, until the classifier gets the base's
features. What error it ends with is known for a tenth of the cost of a training, or less. How well such errors order
the gains of fine-tuned networks is measured by `bench/order.py`. They decide nothing: verdicts are for searches.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from math import inf
from tempfile import TemporaryDirectory
from typing import Any

from buildup.engine.problems import Problems
from buildup.engine.train import prepare_job
from buildup.errors import SearchError
from buildup.graph.layout import layout
from buildup.graph.network import Edit, Network, apply
from buildup.report.text_table import aligned
from buildup.settings import PlacesSettings, TrainSettings
from buildup.space.load import load
from buildup.space.schema import SearchSpace
from buildup.strategies.moves import moves
from buildup.training.data import forget_data
from buildup.training.fit import imitation_error
from buildup.training.recipe import load_recipe
from buildup.training.transplant import new_blocks
from buildup.trials.outcome import Failed

log = logging.getLogger("buildup")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a new block at one place comes to."""

    stage: int
    """Counted from 1, as in the `order` of a space."""
    edit: str
    layout: str
    error: float
    """Of the features, relative to their variance; 0 for a block that starts as the one that it replaces."""
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """The places of a base, and what follows for a search."""

    tried: tuple[Place, ...]
    """From the last stage to the first, as the rule tries them."""
    order: tuple[int, ...]
    """All stages, by the error of the place that the rule tries first in them; those without a place at the end."""


def measure_places(name: str, settings: PlacesSettings) -> Places:
    """Let new blocks imitate, one place after the other."""
    forget_data()
    _check(settings)
    asked = {key: value for key, value in vars(settings).items() if key != "everywhere"}
    asked["pretrained"] = True if settings.pretrained is None else settings.pretrained
    with TemporaryDirectory() as folder:  # nothing is written there; a training has a folder
        job, _ = prepare_job(name, TrainSettings(**asked, to=folder))
    tried = list(_tried(job.network, load(settings.space), everywhere=settings.everywhere))
    found = list[Place]()
    for stage, edit in tried:
        network, began = apply(job.network, edit), time.perf_counter()
        try:
            error = imitation_error(replace(job, network=network))
        except Failed as failed:
            raise SearchError(f"{layout(network)}: {failed.message}") from failed
        if error is None and new_blocks(network):
            raise SearchError(f"{layout(network)}: its new block has no weights, so it can't imitate another one.")
        place = Place(
            stage=stage,
            edit=str(edit),
            layout=layout(network),
            error=error or 0.0,
            seconds=time.perf_counter() - began,
        )
        log.info(f"{len(found) + 1} of {len(tried)}  {place.layout}  error {place.error:.3f}, {place.seconds:.0f} s")
        found.append(place)
    return Places(tried=tuple(found), order=order_of_stages(found, len(job.network.stages)))


def _check(settings: PlacesSettings) -> None:
    problems = Problems()
    problems.checked(None, load, settings.space)
    epochs = problems.whole("--epochs", settings.epochs, 0)
    recipe = problems.checked(None, load_recipe, settings.recipe, settings.set, epochs)
    if recipe and not recipe.transplant:
        problems.found.append(
            f"recipe {recipe.name} has no imitation (transplant is 0). Take finetune, or add --set transplant=0.1."
        )
    problems.raise_any()


def _tried(base: Network, space: SearchSpace, *, everywhere: bool) -> Iterator[tuple[int, Edit]]:
    """The number of the stage and the edit of each place, in the usual order of the rule."""
    for number, allowed in reversed(list(enumerate(moves(base, space), 1))):
        for move in allowed if everywhere else allowed[:1]:
            yield number, move.edit(base)


def order_of_stages(places: Sequence[Place], stages: int) -> tuple[int, ...]:
    """The stages by the error of the place that the rule tries first in them, the least first.

    >>> from functools import partial
    >>> at = partial(Place, edit="", layout="", seconds=1.0)
    >>> order_of_stages([at(stage=3, error=0.3), at(stage=2, error=0.1), at(stage=2, error=0.9)], stages=3)
    (2, 3, 1)
    """
    first: dict[int, float] = {}
    for place in places:
        first.setdefault(place.stage, place.error)
    return tuple(sorted(range(stages, 0, -1), key=lambda stage: first.get(stage, inf)))


def table_of_places(found: Places) -> str:
    """The places and the order of stages for a terminal."""
    rows = [[str(one.stage), one.edit, one.layout, f"{one.error:.3f}", f"{one.seconds:.0f} s"] for one in found.tried]
    usual = found.order == tuple(range(len(found.order), 0, -1))
    return "\n".join(
        [
            *aligned([["stage", "edit", "layout", "error", "took"], *rows], right={0, 3, 4}),
            "",
            "This is the order in which the rule tries stages anyway."
            if usual
            else f"By this error, a search begins with other stages. In its space file: order: {list(found.order)}",
            "An error is no verdict: it says what a new block can copy, not what it gains once all is trained.",
        ]
    )


def places_values(found: Places) -> dict[str, Any]:
    return {"places": [asdict(one) for one in found.tried], "order": list(found.order)}
