from pathlib import Path

import pytest

from buildup.search.rehearsal import rehearse, times
from buildup.trials.outcome import Score


def slept(worker: int, *spans: tuple[float, float]) -> list[Score]:
    return [Score(accuracy=50, metrics={"pid": worker, "began": first, "ended": last}) for first, last in spans]


def test_the_busy_share_counts_what_was_slept_after_all_workers_had_begun() -> None:
    scores = slept(1, (10, 11), (11, 12), (12.5, 13.5)) + slept(2, (11, 12), (12, 13.5))
    start_up, busy, handovers = times(scores, 2, 1.0, began=4.0)
    assert start_up == 7.0
    assert busy == pytest.approx((1 + 1 + 1 + 1) / (2 * 2.5))
    assert sorted(handovers) == [0.0, 0.0, 0.5]


@pytest.mark.slow
def test_a_rehearsal_on_real_workers_measures_each_part_apart(tmp_path: Path) -> None:
    found = rehearse(tmp_path / "run", workers=2, seconds=0.2, epochs=3, marks=(6, 12))
    assert found.trials == 12
    assert 0 < found.busy <= 1
    assert 0 < found.handover <= found.longest_handover
    assert [cost.trials for cost in found.costs] == [6, 12]
    for cost in found.costs:
        assert cost.tune > 0
        assert cost.optuna >= cost.optuna_cpu > 0
        assert cost.rule > 0
