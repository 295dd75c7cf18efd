"""`--prior lesion`: what the trained base loses without each block that may be replaced, as guesses for the look-ahead.

Measured once, when the base is trained, and kept in the run's folder, so that a run which goes on has the same guesses.
They touch no verdict, so a run whose guesses can't be had goes on without them, and says so.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from buildup.commands.probe import Extent, probe_of
from buildup.commands.progress import say
from buildup.diagnostics.places import lesion_costs
from buildup.errors import BuildupError, RunError
from buildup.rules.prior import Prior, from_lesions, replaceable
from buildup.rules.procedure import Procedure
from buildup.search.evaluate import trained_weights
from buildup.search.files import write_whole
from buildup.search.folder import Run
from buildup.training.device import check_device
from buildup.trials.history import History
from buildup.trials.training import WEIGHTS, Training

PRIOR = "prior.json"
EXTENT = Extent(images=1024, hessian_batches=0, seeds=3)
"""A guess is worth seconds."""


def foreteller(run: Run, steps: Procedure) -> Callable[[History], Prior]:
    """What guesses for a run, once its base is trained."""

    def foretell(history: History) -> Prior:
        if run.settings.prior != "lesion":
            return {}
        try:
            costs = kept(run.folder / PRIOR) or _measured(run, steps)
        except BuildupError as error:
            say(f"--prior lesion: left out, which changes no verdict. {error}")
            return {}
        return from_lesions(costs)

    return foretell


def kept(path: Path) -> Mapping[str, float]:
    """The lesion costs that an earlier process of a run measured, in points; nothing where none did."""
    if not path.is_file():
        return {}
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {str(place): float(cost) for place, cost in values["lesion"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        what = f"{type(problem).__name__}: {problem}"
        raise RunError(f"{path}: damaged, or not written by this version of buildup ({what}). Remove it.") from None


def _measured(run: Run, steps: Procedure) -> Mapping[str, float]:
    places = replaceable(run.network, run.space)
    row = range(steps.first_seed, steps.first_seed + steps.seeds)
    base = [Training(candidate=steps.base, seed=seed) for seed in row]
    trained = [training for training in base if trained_weights(run.trainings / training.id)][: EXTENT.seeds]
    if not trained:
        raise RunError(f"{run.trainings}: the base has no {WEIGHTS} that could be measured.")
    probe = probe_of(run, EXTENT, seed=run.settings.seed, device=_device(run), curved=False)
    measured = [lesion_costs(probe.model(training), places, probe.labelled) for training in trained]
    costs = {place: fmean(one[place] for one in measured) for place in places}
    order = sorted(costs, key=lambda place: costs[place])
    say(f"prior      points lost without a block: {', '.join(f'{place} {costs[place]:.1f}' for place in order)}")
    values = {"lesion": costs, "of": [training.id for training in trained], "on": probe.identity["images"]}
    write_whole(run.folder / PRIOR, json.dumps(values, indent=2).encode())
    return costs


def _device(run: Run) -> str:
    """The run's device, where the driver has it: its workers may be elsewhere."""
    try:
        return check_device(run.settings.device)
    except BuildupError:
        return "cpu"
