"""Rules by name, and the whole procedure of a search: a new strategy is one entry here."""

from collections.abc import Callable

from buildup.graph.network import Network
from buildup.rules.alternet import AlterNetRule
from buildup.rules.base import Procedure, Rule
from buildup.rules.judge import JUDGES
from buildup.space.schema import SearchSpace
from buildup.trials.candidate import Candidate

STRATEGIES: dict[str, Callable[[Candidate, SearchSpace], Rule]] = {
    "alternet": lambda base, space: AlterNetRule(base=base, space=space),
}


def procedure_of(
    network: Network,
    space: SearchSpace,
    *,
    strategy: str = "alternet",
    judge: str,
    seeds: int,
    first_seed: int = 0,
    costs: Callable[[Candidate], tuple[int, int]] | None = None,
) -> Procedure:
    """The procedure that starts from a network."""
    return Procedure(
        rule=STRATEGIES[strategy](Candidate(network=network), space),
        judge=JUDGES[judge],
        seeds=seeds,
        first_seed=first_seed,
        costs=costs,
    )
