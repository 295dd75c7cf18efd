import pytest

from buildup.trials.decision import Decision, decision_from_values, decision_to_values

DECISION = Decision(
    step=1,
    candidate="b",
    parent="a",
    edit="c2.1: conv -> msa(heads=12, window=4)",
    layout="CC|CM",
    scores=(81.0, 80.0),
    parent_scores=(80.0, 80.0),
    gain=0.5,
    ci=(0.1, 0.9),
    verdict="keep",
    reason="kept",
    judge="likely",
    level=0.6,
    looks=1,
    seeds=2,
)


@pytest.mark.parametrize("older", [{}, {"epoch": None}, {"epoch": 4}])
def test_a_decision_reads_as_it_was_written_also_by_a_version_that_told_an_epoch(older: dict[str, int | None]) -> None:
    assert decision_from_values({**decision_to_values(DECISION), **older}) == DECISION
