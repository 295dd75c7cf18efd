"""Where a run stands, rebuilt from its study by replay: for all who look at a run, and for those who go on with it."""

from buildup.models.cost import cost
from buildup.rules.limits import Limits
from buildup.rules.procedure import Procedure, View
from buildup.rules.strategies import procedure_of
from buildup.search.folder import Run
from buildup.search.strategies import STRATEGIES
from buildup.search.study import read_history
from buildup.trials.candidate import Candidate
from buildup.trials.history import History
from buildup.trials.objective import OBJECTIVES


def procedure(run: Run) -> Procedure:
    """The rule and the judge of a run."""
    settings = run.settings
    return procedure_of(
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


def state_of(run: Run) -> tuple[View, History]:
    """What a run has decided and what it waits for, without touching it."""
    history = read_history(run.folder, run.settings.storage, run.study, len(run.earlier), run.apart)
    return procedure(run).view(history), history


def costs_of(candidate: Candidate) -> tuple[int, int]:
    """Parameters and MACs of a candidate."""
    known = cost(candidate.network)
    return known.params, known.macs
