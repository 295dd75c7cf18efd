"""The whole procedure of a search, by default with the rule of the paper.

`strategies/by_name.py` has all strategies by name; some need Optuna, and this file loads without it.
"""

from collections.abc import Callable
from dataclasses import replace

from buildup.engine.replay import Replay
from buildup.graph.network import Network
from buildup.space.schema import SearchSpace
from buildup.statistics.judges import JUDGES
from buildup.strategies.alternet import AlterNetRule
from buildup.strategies.limits import Limits
from buildup.strategies.step import Rule, Strategy
from buildup.trials.candidate import Candidate
from buildup.trials.objective import ACCURACY, Objective


def build_up(base: Candidate, space: SearchSpace, seed: int) -> Rule:
    """The rule of the paper. Nothing is drawn: of too many settings at a place, the first ones are tried."""
    return AlterNetRule(base=base, space=space)


ALTERNET = Strategy(name="alternet", make=build_up, builds_up=True)


def make_replay(
    network: Network,
    space: SearchSpace,
    *,
    strategy: Strategy = ALTERNET,
    judge: str,
    objective: Objective = ACCURACY,
    seeds: int,
    first_seed: int = 0,
    costs: Callable[[Candidate], tuple[int, int]] | None = None,
    limits: Limits | None = None,
) -> Replay:
    """The procedure that starts from a network."""
    return Replay(
        rule=strategy.make(Candidate(network=network), space, first_seed),
        judge=replace(JUDGES[judge], min_gain=space.min_gain, objective=objective),
        seeds=seeds,
        first_seed=first_seed,
        costs=costs,
        limits=limits or Limits(),
    )
