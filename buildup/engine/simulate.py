"""`simulate`: the same rule, judge and loop, on a table of scores and virtual workers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from buildup.engine.graph_cache import recall, remember
from buildup.engine.loop import NullObserver, run
from buildup.engine.problems import Problems
from buildup.engine.replay import Replay
from buildup.errors import LayoutError, RequestError
from buildup.execution.simulated import Memory, Row, SimulatedEvaluator, read_scores
from buildup.graph.network import Network, sketch
from buildup.graph.serialize import network_from_values, network_to_values
from buildup.report.text_table import decisions_table
from buildup.space.load import load
from buildup.space.schema import SearchSpace
from buildup.strategies.builtin import ALTERNET, make_replay
from buildup.strategies.by_name import STRATEGIES
from buildup.strategies.moves import start, with_look_ahead
from buildup.trials.candidate import Candidate
from buildup.trials.history import History
from buildup.trials.objective import OBJECTIVES

PIXELS, CLASSES = 32, 100
"""A table names layouts, not images; networks are followed at the size of the published trace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSearch:
    """A search on a table of scores."""

    procedure: Replay
    table: Mapping[str, Row]
    default: Row | None
    """Of layouts that the table lacks."""
    left_unused: str | None
    """The settings of the space that its strategy does not read, in a sentence."""


def simulate(
    flags: Mapping[str, Any], read: Callable[..., Network], costs: Callable[[Candidate], tuple[int, int]]
) -> tuple[str, dict[str, Any]]:
    """Follow the rule; the trace as text and as values.

    `read` makes the graph of a base that no cache knows, and `costs` counts parameters and MACs of a network of it.
    """
    problems = Problems()
    workers = problems.whole("--workers", flags["workers"], 1, most=100_000)
    noise = problems.number("--noise", flags["noise"], 0.0, most=100.0)
    search = table_search(flags, problems, read, costs)
    procedure, judge = search.procedure, search.procedure.judge
    evaluator = SimulatedEvaluator(
        table=search.table,
        workers=workers,
        noise=noise,
        seed=procedure.first_seed,
        objective=judge.objective,
        default=search.default,
    )
    view, history = run(
        procedure, evaluator, Memory(), NullObserver(), History(), lambda history: None, lambda history: None
    )
    busy = evaluator.busy / (evaluator.clock * workers) if evaluator.clock else 0.0
    asked_for = procedure.required_ids(view)
    in_vain = [outcome.seconds for key, outcome in history.outcomes.items() if key not in asked_for]
    trainings, wasted = len(history.outcomes) - len(in_vain), evaluator.wasted + sum(in_vain)
    values = {
        "verdicts": [
            {"layout": decision.layout, "verdict": decision.verdict, "reason": decision.reason}
            for decision in view.decisions
        ],
        "layout": view.best.layout,
        "trainings": trainings,
        "trained_in_vain": len(in_vain),
        "makespan": evaluator.clock,
        "busy": busy,
        "wasted": wasted,
        "workers": workers,
        "judge": judge.name,
        "objective": judge.objective.name,
        "seeds": procedure.seeds,
    }
    text = "\n".join(
        [
            *([search.left_unused, ""] if search.left_unused else []),
            decisions_table(view.decisions),
            "",
            f"{view.best.layout} is left after {trainings} trainings, the base included (judge {judge.name}).",
            f"makespan {evaluator.clock:g} s on {workers} worker{'s' if workers > 1 else ''}, "
            f"{busy:.0%} busy, {wasted:g} worker seconds wasted on what no verdict needed.",
        ]
    )
    return text, values


def table_search(
    flags: Mapping[str, Any],
    problems: Problems,
    read: Callable[..., Network],
    costs: Callable[[Candidate], tuple[int, int]],
) -> TableSearch:
    """The search that the flags describe; what is wrong with them is raised together with the problems so far."""
    seeds = problems.whole("--seeds", flags["seeds"], 1, most=1000)
    seed = problems.whole("--seed", flags["seed"], 0, least=0, most=2**31 - 1)
    space = None
    with problems.caught():
        space = space_of(flags)
    judge = problems.judge(flags["judge"], space.judge if space else "likely", seeds)
    objective = OBJECTIVES[problems.choice("objective", flags["objective"], "accuracy", tuple(OBJECTIVES))]
    default = problems.number("--default-score", flags["default_score"], 0.0, most=min(objective.largest, 1e9))
    strategy = ALTERNET
    with problems.caught():
        strategy = STRATEGIES[flags["strategy"] or ALTERNET.name]
    network, table = None, None
    with problems.caught():
        network = network_of(flags["base"], flags["layout"], space, read)
    if not flags["scores"]:
        problems.found.append("--scores is missing: a CSV file with the columns layout,score[,seconds].")
    elif network:
        with problems.caught():
            ends = space is not None and space.place == "end"
            table = read_scores(Path(flags["scores"]), network, ends=ends, objective=objective)
    if strategy.weighs and flags["layout"]:
        problems.found.append(
            f"--strategy {strategy.name} weighs {strategy.weighs}, which letters do not have. Use --base, or another "
            "strategy."
        )
    procedure = None
    if network and space:
        with problems.caught():
            procedure = make_replay(
                network,
                space,
                strategy=strategy,
                judge=judge,
                objective=objective,
                seeds=seeds,
                first_seed=seed,
                costs=costs if strategy.weighs else None,
            )
    problems.raise_any()
    assert procedure is not None
    assert table is not None
    return TableSearch(
        procedure=procedure,
        table=table,
        default=Row(score=default) if flags["default_score"] is not None else None,
        left_unused=strategy.unused(space) if space else None,
    )


def space_of(flags: Mapping[str, Any]) -> SearchSpace:
    """The space asked for, `alternet` without a wish."""
    space = load(flags["space"] or "alternet")
    return with_look_ahead(space) if flags["look_ahead"] else space


def network_of(
    base: str | None, letters: str | None, space: SearchSpace | None, read: Callable[..., Network]
) -> Network:
    """Where to start: from letters, which need neither torch nor timm, or from a base."""
    if bool(base) == bool(letters):
        raise RequestError("give one of --base NAME and --layout LAYOUT, to say where the rule starts.")
    network = sketch(letters.strip()) if letters else _cached_graph(str(base), space.stem if space else "auto", read)
    if letters and set(letters) - set("C|"):
        raise LayoutError(f"--layout {letters}: the rule starts from Conv blocks alone, so only C may stand in it.")
    return start(network, space) if space else network


def _cached_graph(base: str, stem: str, read: Callable[..., Network]) -> Network:
    """The staged graph of a base. Reading it takes torch and timm seconds."""
    name = f"graph-{base.replace('/', '_')}-{stem}"
    try:
        return network_from_values(recall(name))
    except (AttributeError, KeyError, TypeError, ValueError):
        pass  # not there, or not what was kept: made anew
    network = read(base, input_shape=(3, PIXELS, PIXELS), num_classes=CLASSES, stem=stem)
    remember(name, network_to_values(network))
    return network
