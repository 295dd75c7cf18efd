"""The control of equal size: the base with more blocks of its own, as large as the winner, but without its kinds.

A winner may be better than its base only because it is larger. So blocks of the base's own are added at the ends of
stages until its parameters come as near the winner's as blocks allow.
"""

from collections.abc import Callable
from functools import reduce
from itertools import combinations_with_replacement

from buildup.errors import RequestError
from buildup.graph.network import Append, Network, apply, edits_between
from buildup.trials.training import Candidate

MOST_ADDED = 12
"""More blocks would make another network of it: at most so many, and no more than the winner has changed."""


def control_of(base: Candidate, winner: Network, params: Callable[[Network], int]) -> Candidate:
    """The base with blocks added; of equally near ones that with the fewest, later stages first.

    Raises where blocks of the base's own can't come nearer to the winner's size than the base itself.
    """
    network = base.network
    own, wanted = params(network), params(winner)
    edits = [Append(stage=stage.name) for stage in reversed(network.stages) if not stage.closed]
    each = {edit: params(apply(network, edit)) - own for edit in edits}
    most = min(MOST_ADDED, len(edits_between(network, winner)))
    chosen: tuple[Append, ...] = ()
    nearest = abs(wanted - own)
    for count in range(1, most + 1):
        for some in combinations_with_replacement(edits, count):
            distance = abs(wanted - own - sum(each[edit] for edit in some))
            if distance < nearest:
                chosen, nearest = some, distance
    if not chosen:
        smallest = f"; one block more has at least {min(each.values()):,} more" if each else "; none can be added to it"
        raise RequestError(
            f"--control: the winner has {wanted:,} parameters and the base {own:,}{smallest}. No network of the base's "
            f"own blocks is nearer to the winner's size than the base itself, so the base is the control. "
            f"Leave --control out."
        )
    return Candidate(network=reduce(apply, chosen, network), parent=base, edits=chosen)
