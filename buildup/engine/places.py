"""`places`: how near new blocks of a pretrained network come to what they replace, place by place.

As in the trainings of a search, only the new block learns, without labels, until the classifier gets the base's
features. What error it ends with is known before a training begins; docs/pretrained.md has its cost, and how well such
errors order the gains of fine-tuned networks. They decide nothing: verdicts are for searches.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from math import inf
from tempfile import TemporaryDirectory
from typing import Any

from buildup.engine.train import prepare_job
from buildup.errors import RecipeError, SearchError
from buildup.graph.layout import layout
from buildup.graph.network import Edit, Network, apply
from buildup.report.text_table import aligned
from buildup.settings import PlacesSettings, TrainSettings
from buildup.space.load import load
from buildup.space.schema import SearchSpace
from buildup.strategies.moves import moves
from buildup.training.data import forget_data
from buildup.training.fit import imitation_error
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
    usual: tuple[int, ...]
    """All stages in the order of the space, as the rule tries them."""

    @property
    def order(self) -> tuple[int, ...]:
        """The stages by the error of the place that the rule tries first in them; those without a place at the end.

        >>> from functools import partial
        >>> at = partial(Place, edit="", layout="", seconds=1.0)
        >>> tried = at(stage=3, error=0.3), at(stage=2, error=0.1), at(stage=2, error=0.9)
        >>> Places(tried=tried, usual=(3, 2, 1)).order
        (2, 3, 1)
        """
        first: dict[int, float] = {}
        for place in self.tried:
            first.setdefault(place.stage, place.error)
        return tuple(sorted(self.usual, key=lambda stage: first.get(stage, inf)))


def measure_places(name: str, settings: PlacesSettings) -> Places:
    """Let new blocks imitate, one place after the other."""
    forget_data()
    asked = {key: value for key, value in vars(settings).items() if key != "everywhere"}
    asked["pretrained"] = True if settings.pretrained is None else settings.pretrained
    with TemporaryDirectory() as folder:  # nothing is written there; a training has a folder
        job, _ = prepare_job(name, TrainSettings(**asked, to=folder))
    if not job.recipe.transplant:
        said = f"recipe {job.recipe.name} has no imitation (transplant is 0)"
        raise RecipeError(f"{said}. Take finetune, or add --set transplant=0.1.")
    space = load(settings.space)
    usual = tuple(index + 1 for index in space.stage_order(len(job.network.stages)))
    tried = list(_tried(job.network, space, usual, everywhere=settings.everywhere))
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
    return Places(tried=tuple(found), usual=usual)


def _tried(base: Network, space: SearchSpace, usual: Sequence[int], *, everywhere: bool) -> Iterator[tuple[int, Edit]]:
    """The number of the stage and the edit of each place, in the order of the space."""
    allowed = moves(base, space)
    for number in usual:
        for move in allowed[number - 1] if everywhere else allowed[number - 1][:1]:
            yield number, move.edit(base)


def table_of_places(found: Places) -> str:
    """The places and the order of stages for a terminal."""
    rows = [[str(one.stage), one.edit, one.layout, f"{one.error:.3f}", f"{one.seconds:.0f} s"] for one in found.tried]
    return "\n".join(
        [
            *aligned([["stage", "edit", "layout", "error", "took"], *rows], right={0, 3, 4}),
            "",
            "This is the order in which the rule tries stages anyway."
            if found.order == found.usual
            else f"By this error, a search begins with other stages. In its space file: order: {list(found.order)}",
            "An error is no verdict: it says what a new block can copy, not what it gains once all is trained.",
        ]
    )


def places_values(found: Places) -> dict[str, Any]:
    return {"places": [asdict(one) for one in found.tried], "order": list(found.order)}
