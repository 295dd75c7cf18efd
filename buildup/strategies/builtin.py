"""Rules by name, and the whole procedure of a search: a new strategy is one entry here.

Those that Optuna leads are in `sampled.py`; `strategies/by_name.py` has all of them, because this file loads without it.
"""

from collections.abc import Callable
from dataclasses import replace

from buildup.engine.replay import Replay
from buildup.graph.network import Network
from buildup.space.schema import SearchSpace
from buildup.statistics.judges import JUDGES
from buildup.strategies.alternet import AlterNetRule
from buildup.strategies.fixed_order import at_random, exhaustive
from buildup.strategies.limits import Limits
from buildup.strategies.step import Rule
from buildup.trials.candidate import Candidate
from buildup.trials.objective import ACCURACY, Objective

MakeRule = Callable[[Candidate, SearchSpace, int], Rule]
"""From where to start, what is allowed, and a seed for what is drawn."""


def build_up(base: Candidate, space: SearchSpace, seed: int) -> Rule:
    """The rule of the paper. Nothing is drawn: of too many settings at a place, the first ones are tried."""
    return AlterNetRule(base=base, space=space)


LISTED: dict[str, MakeRule] = {"alternet": build_up, "random": at_random, "exhaustive": exhaustive}


def unused(strategy: str, space: SearchSpace) -> str | None:
    """What a strategy leaves unused of a space, in words: its layouts are those of the build-up rule, not its walk.

    >>> unused("random", SearchSpace(name="mine", description="", failures=2, look_ahead=1))
    'strategy random: look_ahead, failures of space mine steer the build-up rule alone, and change nothing here.'
    """
    if strategy == "alternet" or not space.steering:
        return None
    names = ", ".join(space.steering)
    return f"strategy {strategy}: {names} of space {space.name} steer the build-up rule alone, and change nothing here."


def make_replay(
    network: Network,
    space: SearchSpace,
    *,
    strategy: MakeRule = build_up,
    judge: str,
    objective: Objective = ACCURACY,
    seeds: int,
    first_seed: int = 0,
    costs: Callable[[Candidate], tuple[int, int]] | None = None,
    limits: Limits | None = None,
) -> Replay:
    """The procedure that starts from a network."""
    return Replay(
        rule=strategy(Candidate(network=network), space, first_seed),
        judge=replace(JUDGES[judge], min_gain=space.min_gain, objective=objective),
        seeds=seeds,
        first_seed=first_seed,
        costs=costs,
        limits=limits or Limits(),
    )
