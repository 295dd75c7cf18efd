"""Count the cost of candidates.

A network is built to be counted, which takes torch and timm. They are loaded by the first count, because the state of a
run rarely needs one: the study holds the costs of candidates that were trained.
"""

from buildup.trials.training import Candidate


def costs_of(candidate: Candidate) -> tuple[int, int]:
    """Parameters and MACs of a candidate."""
    from buildup.models.cost import cost

    known = cost(candidate.network)
    return known.params, known.macs
