"""All strategies by name: the rules, with Optuna where they draw, and the controls that it leads."""

from buildup.rules.alternet import AlterNetRule
from buildup.rules.sampled import SAMPLED, WEIGHING
from buildup.rules.step import Rule
from buildup.rules.strategies import LISTED, MakeRule
from buildup.rules.tuned import by_tpe
from buildup.space.schema import SearchSpace
from buildup.trials.candidate import Candidate


def build_up(base: Candidate, space: SearchSpace, seed: int) -> Rule:
    """The rule of the paper, which draws settings where a space has more of them than may be tried."""
    return AlterNetRule(base=base, space=space, choose=by_tpe, seed=seed)


__all__ = ["STRATEGIES", "WEIGHING"]

STRATEGIES: dict[str, MakeRule] = {**LISTED, **SAMPLED, "alternet": build_up}
