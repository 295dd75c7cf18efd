"""All strategies by name: the rules, with Optuna where they draw, and the controls that it leads."""

from dataclasses import replace

from buildup.registry import Registry
from buildup.rules.alternet import AlterNetRule
from buildup.rules.listed import EXHAUSTIVE, RANDOM
from buildup.rules.sampled import SAMPLED
from buildup.rules.step import Rule, Strategy
from buildup.rules.strategies import ALTERNET
from buildup.rules.tuned import by_tpe
from buildup.space.schema import SearchSpace
from buildup.trials.candidate import Candidate


def build_up(base: Candidate, space: SearchSpace, seed: int) -> Rule:
    """The rule of the paper, which draws settings where a space has more of them than may be tried."""
    return AlterNetRule(base=base, space=space, choose=by_tpe, seed=seed)


STRATEGIES = Registry[Strategy]("strategy", group="buildup.strategies")
for _strategy in (replace(ALTERNET, make=build_up), RANDOM, EXHAUSTIVE, *SAMPLED):
    STRATEGIES.register(_strategy)
