"""How likely a replacement is to be kept, guessed from what the replaced block is worth: for the look-ahead alone.

A guess orders what free workers train ahead of verdicts, and touches no verdict. So it may be as rough as this one: a
block that the trained base hardly misses leaves room for another, one that it leans on loses more than it gains. Only
the order of the lesion costs counts, for what a point is worth differs from base to base, and no cost is trusted
further than `STRONGEST`: whether they predict anything is what `analyze RUN --verdicts` asks.
"""

from collections.abc import Mapping

from buildup.graph.network import Network
from buildup.rules.moves import moves
from buildup.space.schema import SearchSpace

Prior = Mapping[str, float]
"""By the path of a block, how likely a replacement there is to be kept; others are as likely as not."""

PRIORS = ("none", "lesion")
"""By what the look-ahead can be led, beside the verdicts so far."""
STRONGEST = 2 / 3
"""Of the block that is missed least; that which is missed most has what is left."""


def from_lesions(costs: Mapping[str, float]) -> Prior:
    """The guesses that follow from the points that a base loses without each block; equal costs are guessed alike.

    >>> {path: round(share, 2) for path, share in from_lesions({"a": 9.0, "b": 0.5, "c": 2.0}).items()}
    {'a': 0.33, 'b': 0.67, 'c': 0.5}
    """
    if len(costs) < 2:
        return dict.fromkeys(costs, 0.5)
    shares = {}
    for path, cost in costs.items():
        dearer = sum((other > cost) + (other == cost) / 2 for other in costs.values()) - 0.5
        shares[path] = 1 - STRONGEST + (2 * STRONGEST - 1) * dearer / (len(costs) - 1)
    return shares


def replaceable(network: Network, space: SearchSpace) -> tuple[str, ...]:
    """The blocks that a space lets a search replace, by their paths; a block that would be added replaces none.

    >>> from buildup.graph.network import sketch
    >>> replaceable(sketch("CC|CCC"), SearchSpace(name="s", description=""))
    ('c1.1', 'c2.2')
    """
    return tuple(move.path for stage in moves(network, space) for move in stage if move.added_to is None)
