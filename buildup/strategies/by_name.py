"""All strategies by name: the rules, with Optuna where they draw, and the controls that it leads."""

from buildup.space.schema import SearchSpace
from buildup.strategies.alternet import AlterNetRule
from buildup.strategies.builtin import LISTED, MakeRule
from buildup.strategies.samplers import SAMPLED, WEIGHING
from buildup.strategies.step import Rule
from buildup.strategies.tpe_variants import by_tpe
from buildup.trials.candidate import Candidate


def build_up(base: Candidate, space: SearchSpace, seed: int) -> Rule:
    """The rule of the paper, which draws settings where a space has more of them than may be tried."""
    return AlterNetRule(base=base, space=space, choose=by_tpe, seed=seed)


__all__ = ["STRATEGIES", "WEIGHING"]

STRATEGIES: dict[str, MakeRule] = {**LISTED, **SAMPLED, "alternet": build_up}
