"""The size of networks: limits on candidates, and the control of equal size.

A winner may be better than its base only because it is larger. The control is the base with more blocks of its own,
added at the ends of stages until its number of parameters is as close to the winner's as blocks allow.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from itertools import combinations_with_replacement

from buildup.errors import RequestError
from buildup.graph.network import Append, Network, apply, edits_between
from buildup.trials.training import Candidate

MOST_ADDED = 12
"""Maximum number of blocks that the control adds; no more than the winner has changed are added either."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The maximum cost of candidates. A candidate above a limit is dropped untrained."""

    max_params: int | None = None
    max_macs: int | None = None

    def passed(self, params: int, macs: int) -> str | None:
        """The limit that a candidate exceeds, in words; None if it fits.

        >>> Limits(max_params=30_000_000).passed(33_013_028, 1_510_000_000)
        '33,013,028 parameters are more than --max-params 30,000,000'
        """
        if self.max_params is not None and params > self.max_params:
            return f"{params:,} parameters are more than --max-params {self.max_params:,}"
        if self.max_macs is not None and macs > self.max_macs:
            return f"{macs:,} MACs are more than --max-macs {self.max_macs:,}"
        return None


def control_of(base: Candidate, winner: Network, params: Callable[[Network], int]) -> Candidate:
    """The base with blocks added. Among equally close networks, the fewest blocks and then later stages are preferred.

    Raises:
        RequestError: No network of the base's own blocks is closer to the winner's size than the base.
    """
    network = base.network
    own, wanted = params(network), params(winner)
    edits = [Append(stage=stage.name) for stage in reversed(network.stages) if not stage.closed]
    added = {edit: params(apply(network, edit)) - own for edit in edits}
    chosen: tuple[Append, ...] = ()
    nearest = abs(wanted - own)
    for count in range(1, min(MOST_ADDED, len(edits_between(network, winner))) + 1):
        for some in combinations_with_replacement(edits, count):
            distance = abs(wanted - own - sum(added[edit] for edit in some))
            if distance < nearest:
                chosen, nearest = some, distance
    if not chosen:
        smallest = (
            f"; one block more has at least {min(added.values()):,} more" if added else "; none can be added to it"
        )
        raise RequestError(
            f"--control: the winner has {wanted:,} parameters and the base {own:,}{smallest}. No network of the base's "
            f"own blocks is nearer to the winner's size than the base itself, so the base is the control. "
            f"Leave --control out."
        )
    return Candidate(network=reduce(apply, chosen, network), parent=base, edits=chosen)
