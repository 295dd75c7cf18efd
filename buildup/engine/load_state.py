"""Where a run stands, rebuilt from its study by replay: for all who look at a run, and for those who go on with it."""

from buildup.engine.replay import Replay, View
from buildup.models.cost import cost
from buildup.store.run_record import RunRecord
from buildup.store.study_reader import read_history
from buildup.strategies.builtin import make_replay
from buildup.strategies.by_name import STRATEGIES
from buildup.strategies.limits import Limits
from buildup.trials.candidate import Candidate
from buildup.trials.history import History
from buildup.trials.objective import OBJECTIVES


def replay_of(run: RunRecord) -> Replay:
    """The rule and the judge of a run."""
    settings = run.settings
    return make_replay(
        run.network,
        run.space,
        strategy=STRATEGIES[settings.strategy],
        judge=settings.judge,
        objective=OBJECTIVES[settings.objective],
        seeds=settings.seeds,
        first_seed=settings.seed,
        costs=costs_of,
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
