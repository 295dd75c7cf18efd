"""Where a run stands, rebuilt from its study by replay: for all who look at a run, and for those who go on with it."""

from collections.abc import Callable

from buildup.engine.replay import Replay, View, make_replay
from buildup.graph.network import Network
from buildup.models.cost import cost
from buildup.settings import RunSettings
from buildup.space.schema import SearchSpace
from buildup.store.run_record import RunRecord
from buildup.store.study_reader import read_history
from buildup.strategies.network_size import Limits
from buildup.strategies.registered import STRATEGIES
from buildup.trials.history import History
from buildup.trials.objective import OBJECTIVES
from buildup.trials.training import Candidate

CountCosts = Callable[[Candidate], tuple[int, int]]
"""Counts parameters and MACs of a candidate."""


def replay_of(run: RunRecord) -> Replay:
    """The rule and the judge of a run."""
    return replay_for(run.settings, run.network, run.space)


def replay_for(settings: RunSettings, network: Network, space: SearchSpace, costs: CountCosts | None = None) -> Replay:
    """The rule and the judge that settings ask for.

    Args:
        settings: Of a search.
        network: Where it starts.
        space: What it may try.
        costs: Counts parameters and MACs; `costs_of` unless a faster way is known.
    """
    return make_replay(
        network,
        space,
        strategy=STRATEGIES[settings.strategy],
        judge=settings.judge,
        objective=OBJECTIVES[settings.objective],
        seeds=settings.seeds,
        first_seed=settings.seed,
        costs=costs or costs_of,
        limits=Limits(max_params=settings.max_params, max_macs=settings.max_macs),
    )


def state_of(run: RunRecord) -> tuple[View, History]:
    """What a run has decided and what it waits for, without touching it."""
    history = read_history(run.folder, run.settings.storage, run.study_name, len(run.earlier), run.other_epochs)
    return replay_of(run).view(history), history


def costs_of(candidate: Candidate) -> tuple[int, int]:
    """Parameters and MACs of a candidate."""
    known = cost(candidate.network)
    return known.params, known.macs
