"""The table of all strategies: the build-up rule and its controls."""

from dataclasses import replace

from buildup.registry import Registry
from buildup.space.schema import SearchSpace
from buildup.strategies.alternet import ALTERNET, AlterNetRule
from buildup.strategies.fixed_order import EXHAUSTIVE, RANDOM
from buildup.strategies.samplers import SAMPLED, by_tpe
from buildup.strategies.strategy import Rule, Strategy
from buildup.trials.training import Candidate


def build_up_with_tpe(base: Candidate, space: SearchSpace, seed: int) -> Rule:
    """The rule of the paper; TPE chooses settings where a space has more of them than may be tried."""
    return AlterNetRule(base=base, space=space, choose=by_tpe, seed=seed)


STRATEGIES = Registry[Strategy]("strategy", group="buildup.strategies")
for _strategy in (replace(ALTERNET, make=build_up_with_tpe), RANDOM, EXHAUSTIVE, *SAMPLED):
    STRATEGIES.register(_strategy)
