import random

import pytest

from buildup.rules.cheap import early_rankings, full_means, ranking
from buildup.trials.history import History
from buildup.trials.objective import ACCURACY, OBJECTIVES
from buildup.trials.outcome import Epoch, Failure, Reason, Score
from buildup.trials.training import training_id

NAMES = [f"{number:x}" for number in range(10, 16)]


def searched(curves: dict[str, list[float]], seeds: int = 2, metric: str = "accuracy") -> History:
    history = History()
    for name, values in curves.items():
        for seed in range(seeds):
            key = training_id(name, seed)
            for number, value in enumerate(values, start=1):
                history = history.with_epoch(key, Epoch(number=number, metrics={metric: value + seed}))
            metrics = {} if metric == "accuracy" else {metric: values[-1] + seed}
            history = history.with_outcome(key, Score(accuracy=values[-1] + seed, metrics=metrics))
    return history


def test_curves_that_never_cross_rank_perfectly_at_every_epoch() -> None:
    history = searched({name: [level, level + 5, level + 8, level + 9] for level, name in enumerate(NAMES)})
    found = early_rankings(history, NAMES, range(2), 4, ACCURACY)
    assert [one.cheap for one in found] == ["epoch 1 of 4", "epoch 2 of 4", "epoch 3 of 4"]
    assert all(one.tau == 1.0 and one.high == 1.0 and one.best and one.candidates == 6 for one in found)


def test_curves_that_all_cross_rank_the_other_way_round() -> None:
    history = searched({name: [-level, 0.0, level, 2.0 * level] for level, name in enumerate(NAMES)})
    first, middle, last = early_rankings(history, NAMES, range(2), 4, ACCURACY)
    assert (first.tau, first.best) == (-1.0, False)
    assert middle.tau == 0.0
    assert last.tau == 1.0
    assert first.low <= first.tau <= first.high < 0


def test_less_is_better_where_the_objective_says_so() -> None:
    losses = {name: [3.0, 2.0, 1.5 + level, 1.0 + level] for level, name in enumerate(NAMES)}
    means = full_means(searched(losses, metric="nll"), NAMES, range(2), OBJECTIVES["nll"])
    assert max(means, key=means.__getitem__) == NAMES[0]
    assert means[NAMES[0]] == pytest.approx(-150.0)


def test_only_candidates_with_all_seeds_of_both_scores_are_ranked() -> None:
    history = searched({name: [level, level, level, level] for level, name in enumerate(NAMES)})
    failed = Failure(reason=Reason.DIVERGED, message="nan")
    history = history.with_outcome(training_id(NAMES[0], 1), failed)
    [*_, last] = early_rankings(history, NAMES, range(2), 4, ACCURACY)
    assert last.candidates == len(NAMES) - 1
    assert early_rankings(history, NAMES[:3], range(2), 4, ACCURACY) == ()
    assert early_rankings(history, NAMES, range(3), 4, ACCURACY) == ()


def test_the_interval_narrows_with_the_candidates() -> None:
    draw = random.Random(0)
    full = {str(number): draw.gauss(0, 1) for number in range(40)}
    cheap = {name: value + draw.gauss(0, 0.7) for name, value in full.items()}
    few = ranking("cheap", 0.5, cheap, dict(list(full.items())[:8]))
    many = ranking("cheap", 0.5, cheap, full)
    assert few is not None
    assert many is not None
    assert many.high - many.low < few.high - few.low
    assert many.low > 0
