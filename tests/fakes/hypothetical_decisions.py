"""Decisions without scores, to ask a rule what would follow from them."""

from collections.abc import Iterable

from buildup.strategies.strategy import Step
from buildup.trials.decision import Decision
from buildup.trials.training import Candidate


def hypothetical(candidate: Candidate, kept: bool) -> Decision:
    return Decision(
        step=0,
        candidate=candidate.id,
        parent=candidate.parent.id if candidate.parent else "",
        edit=candidate.edit,
        layout=candidate.layout,
        scores=(),
        parent_scores=(),
        gain=0.0,
        ci=(0.0, 0.0),
        verdict="keep" if kept else "drop",
        reason="hypothetical",
        judge="",
        level=0.0,
        looks=0,
        seeds=0,
    )


def walk(first: Step | None, decisions: Iterable[Decision]) -> Step | None:
    """The step after some decisions; None at the end of the search."""
    step = first
    for decision in decisions:
        if step is None:
            break
        step = step.after(decision)
    return step
