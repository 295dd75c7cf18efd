"""All strategies by name: the rules, and the controls that Optuna leads."""

from buildup.rules.sampled import SAMPLED
from buildup.rules.strategies import LISTED, MakeRule

STRATEGIES: dict[str, MakeRule] = {**LISTED, **SAMPLED}
