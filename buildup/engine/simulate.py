"""Simulate a search: the rule, the judge and the loop run on a table of scores with simulated workers.

Torch and timm are loaded only for a base that is not in the cache, and for a strategy that weighs costs.
"""

from dataclasses import dataclass
from pathlib import Path

from buildup.engine.graph_cache import cached_graph, costs_of
from buildup.engine.loop import run_loop
from buildup.engine.problems import Problems
from buildup.engine.replay import Replay, make_replay
from buildup.errors import LayoutError, RequestError
from buildup.execution.simulated import InMemoryWriter, Lookup, ScoreRow, SimulatedEvaluator, read_scores
from buildup.graph.network import Network, sketch
from buildup.settings import SimulateSettings
from buildup.space.load import load
from buildup.space.schema import SearchSpace
from buildup.strategies.alternet import ALTERNET
from buildup.strategies.moves import start, steered
from buildup.strategies.registered import STRATEGIES
from buildup.trials.decision import Decision
from buildup.trials.history import History
from buildup.trials.objective import OBJECTIVES


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """The result of a simulated search."""

    decisions: tuple[Decision, ...]
    layout: str
    """The layout of the winner."""
    trainings: int
    """The number of trainings that verdicts needed, including those of the base."""
    trained_in_vain: int
    """The number of trainings that no verdict needed."""
    makespan: float
    """The duration in simulated seconds."""
    busy: float
    """The share of worker time that was used."""
    wasted: float
    """Worker seconds of trainings that no verdict needed."""
    workers: int
    judge: str
    objective: str
    seeds: int
    left_unused: str | None
    """A warning on settings of the space that the strategy does not use."""


def run_simulation(settings: SimulateSettings) -> Simulation:
    """Simulate a search on a table of scores. All problems of the settings are raised as one `RequestError`."""
    problems = Problems()
    workers = problems.whole("--workers", settings.workers, 1)
    noise = problems.number("--noise", settings.noise, 0.0, most=100.0)
    replay, look = table_search(settings, problems)
    judge = replay.judge
    evaluator = SimulatedEvaluator(
        table=look, workers=workers, noise=noise, seed=replay.first_seed, objective=judge.objective
    )
    view, history = run_loop(replay, evaluator, InMemoryWriter(), History())
    asked_for = replay.required_ids(view)
    in_vain = [outcome.seconds for key, outcome in history.outcomes.items() if key not in asked_for]
    return Simulation(
        decisions=tuple(view.decisions),
        layout=view.best.layout,
        trainings=len(history.outcomes) - len(in_vain),
        trained_in_vain=len(in_vain),
        makespan=evaluator.clock,
        busy=evaluator.busy / (evaluator.clock * workers) if evaluator.clock else 0.0,
        wasted=evaluator.wasted + sum(in_vain),
        workers=workers,
        judge=judge.name,
        objective=judge.objective.name,
        seeds=replay.seeds,
        left_unused=STRATEGIES[settings.strategy].unused(space_of(settings)),
    )


def table_search(settings: SimulateSettings, problems: Problems) -> tuple[Replay, Lookup]:
    """Check the settings of a simulated search, and read the table. Problems found before are raised, too."""
    seeds = problems.whole("--seeds", settings.seeds, 1)
    seed = problems.whole("--seed", settings.seed, 0)
    space = problems.checked(None, space_of, settings)
    judge = problems.judge(settings.judge, space.judge if space else "likely", seeds)
    objective = OBJECTIVES[problems.choice("objective", settings.objective, "accuracy", OBJECTIVES)]
    default = problems.number("--default-score", settings.default_score, 0.0, most=min(objective.largest, 1e9))
    strategy = ALTERNET
    with problems.caught():
        strategy = STRATEGIES[settings.strategy]
    network = problems.checked(None, start_network, settings.base, settings.layout, space)
    table = None
    if not settings.scores:
        problems.found.append("--scores is missing: a CSV file with the columns layout,score[,seconds].")
    elif network:
        ends = space is not None and space.place == "end"
        table = problems.checked(None, read_scores, Path(settings.scores), network, ends=ends, objective=objective)
    if strategy.weighs and settings.layout:
        problems.found.append(
            f"--strategy {strategy.name} weighs {strategy.weighs}, which letters do not have. Use --base, or "
            "another strategy."
        )
    replay = None
    if network and space:
        replay = problems.checked(
            None,
            make_replay,
            network,
            space,
            strategy=strategy,
            judge=judge,
            objective=objective,
            seeds=seeds,
            first_seed=seed,
            costs=costs_of if strategy.weighs else None,
        )
    problems.raise_any()
    assert replay is not None
    assert table is not None
    scores, rest = table, ScoreRow(score=default) if settings.default_score is not None else None
    return replay, lambda training: scores.get(training.candidate.layout, rest)


def space_of(settings: SimulateSettings) -> SearchSpace:
    space = load(settings.space)
    return steered(space, look_ahead=settings.look_ahead, places=settings.places)


def start_network(base: str | None, layout: str | None, space: SearchSpace | None) -> Network:
    """The network of a layout, which needs neither torch nor timm, or of a base."""
    if bool(base) == bool(layout):
        raise RequestError("give one of --base NAME and --layout LAYOUT, to say where the rule starts.")
    network = sketch(layout.strip()) if layout else cached_graph(str(base), space.stem if space else "auto")
    if layout and set(layout) - set("C|"):
        raise LayoutError(f"--layout {layout}: the rule starts from Conv blocks alone, so only C may stand in it.")
    return start(network, space) if space else network
