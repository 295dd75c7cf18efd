"""Read the state of a run: its history from the study, its decisions by replay, the plan and result of its final."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from buildup.engine.graph_cache import costs_of
from buildup.engine.replay import MIXED, CountCosts, Replay, View, make_replay
from buildup.errors import RunError, command, some
from buildup.graph.network import Network
from buildup.settings import RunSettings
from buildup.space.schema import SearchSpace
from buildup.statistics.mixed_model import NormalMixture
from buildup.store.run_dir import UNREADABLE
from buildup.store.run_record import RunRecord
from buildup.store.study_reader import read_history
from buildup.strategies.network_size import Limits
from buildup.strategies.registered import STRATEGIES
from buildup.trials.final_result import Final, final_from_values
from buildup.trials.history import History
from buildup.trials.objective import OBJECTIVES
from buildup.trials.outcome import Score
from buildup.trials.training import CHECKS, USUAL_CHECKS, candidate_id

FINAL_FOLDER = "final"
FINAL_RESULT = "final.json"
PLAN = "plan.json"

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalPlan:
    """The settings of a final. They are kept, so that an interrupted final continues unchanged."""

    seeds: int
    control: bool
    recipe_name: str
    recipe: Mapping[str, Any]
    fraction: str = "all"
    """`same` as in the search, or `all` training images, as before version 0.3.0."""

    @property
    def epochs(self) -> int:
        return int(self.recipe["epochs"])


def replay_of(run: RunRecord) -> Replay:
    return replay_for(run.settings, run.network, run.space)


def replay_for(settings: RunSettings, network: Network, space: SearchSpace, costs: CountCosts | None = None) -> Replay:
    return make_replay(
        network,
        space,
        strategy=STRATEGIES[settings.strategy],
        judge=settings.judge,
        objective=OBJECTIVES[settings.objective],
        seeds=settings.seeds,
        first_seed=settings.seed,
        checks=() if settings.no_base_checks else USUAL_CHECKS if settings.pretrained is None else tuple(CHECKS),
        costs=costs or costs_of,
        limits=Limits(max_params=settings.max_params, max_macs=settings.max_macs),
    )


def state_of(run: RunRecord) -> tuple[View, History]:
    """The state of a run and its history. Nothing is written."""
    history = read_history(run.folder, run.settings.storage, run.study_name, len(run.earlier), run.other_epochs)
    check_splits(run, history)
    return replay_of(run).view(history), history


def warnings_of(run: RunRecord, view: View, history: History) -> tuple[str, ...]:
    climbing = view.climb.warning(view.decisions) if view.climb else None
    unchecked = None
    if run.status == "finished" and view.checks:
        again = command("resume", run.folder)
        unchecked = f"A check of the base is missing, so whether it still climbs is unknown. `{again}` makes up for it."
    found = (*run.warnings, climbing, unchecked, _mixed_devices(view, history))
    return tuple(warning for warning in found if warning)


def winner_gain(run: RunRecord, view: View) -> NormalMixture | None:
    """The gain of the winner over the base, corrected for the selection of its steps; None where it is not known.

    Where candidates are no steps from a kept parent, as in a random search, its intervals would be too narrow: of 73
    drawn searches of 10 random layouts that kept something, 81 % had the true gain in them.
    """
    return view.gain(OBJECTIVES[run.settings.objective]) if STRATEGIES[run.settings.strategy].builds_up else None


def _mixed_devices(view: View, history: History) -> str | None:
    """Which candidates were trained on which kind of device; None if all were on one."""
    names = {one.id: f"step {number}" if number else "the base" for number, one in enumerate(view.candidates)}
    kinds: dict[str, dict[str, None]] = {}
    for key, outcome in history.outcomes.items():
        if isinstance(outcome, Score) and outcome.device and (name := names.get(candidate_id(key))):
            kinds.setdefault(outcome.device, {})[name] = None
    if len(kinds) < 2:
        return None
    where = "; ".join(f"{kind}: {', '.join(found)}" for kind, found in kinds.items())
    marked = sum(MIXED in decision.reason for decision in view.decisions)
    return (
        f"The networks were {MIXED} ({where}), on which one network gets different scores. {marked} of "
        f"{len(view.decisions)} verdicts {'compares' if marked == 1 else 'compare'} over several kinds; their reasons "
        "say so. On a cluster, --accelerator chooses one kind."
    )


def check_splits(run: RunRecord, history: History) -> None:
    """Refuse trainings that were validated on other images than those of the one split of a run before 0.3.0.

    They can't be compared seed by seed with the others.
    """
    own = [key for key, one in history.outcomes.items() if isinstance(one, Score) and one.validated is not None]
    if own and run.data.split_seed is not None:
        raise RunError(
            f"{run.folder}: all seeds of this run validate on the same images (split by seed {run.data.split_seed}), "
            f"but those of {some(own)} have images of their own, so "
            "they can't be compared. Put the run back from a copy, or start a new search of this base and dataset."
        )


def read_final(folder: Path) -> Final | None:
    return _read_json(folder / FINAL_RESULT, final_from_values)


def read_plan(run: RunRecord) -> FinalPlan | None:
    """The settings of a final that has begun; None if none has."""
    return _read_json(run.folder / FINAL_FOLDER / PLAN, lambda values: FinalPlan(**values))


def _read_json(path: Path, from_values: Callable[[dict[str, Any]], Value]) -> Value | None:
    if not path.is_file():
        return None
    try:
        return from_values(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, *UNREADABLE) as problem:
        raise RunError(f"{path}: this can't be read ({problem}). Put it back from a copy of the run.") from None
