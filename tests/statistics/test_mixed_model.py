"""The joint estimate: closed forms, laws, and what it makes of known worlds."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multivariate_normal, t

from buildup.statistics import mixed_model
from buildup.statistics.mixed_model import posterior, total_gain, unshrunken
from buildup.statistics.paired_difference import Comparison
from buildup.trials.objective import ACCURACY

UNIT = ACCURACY.seed_deviation


def one(gain: float, seeds: int = 3, deviation: float = 0.6, **more: object) -> Comparison:
    values = {"gain": gain, "seeds": seeds, "squares": (seeds - 1) * deviation**2, "image_variance": 0.34} | more
    return Comparison(**values)  # type: ignore[arg-type]


comparisons = st.builds(
    one, gain=st.floats(-3, 3), seeds=st.integers(2, 12), deviation=st.floats(0, 4), image_variance=st.floats(0.01, 6)
)


@given(current=comparisons, earlier=st.lists(comparisons, max_size=5), level=st.floats(0.1, 0.999))
def test_the_interval_holds_the_probability_that_it_says(
    current: Comparison, earlier: list[Comparison], level: float
) -> None:
    for estimate in (posterior, unshrunken):
        found = estimate(current, tuple(earlier), UNIT)
        low, high = found.interval(level)
        inside = found.probability_above(low) - found.probability_above(high)
        assert inside == pytest.approx(level, abs=1e-6)


def test_one_point_of_the_grid_is_the_normal_posterior_of_the_textbook(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("SIZES", (2.0,)), ("SIZE_WEIGHTS", (1,)), ("SHIFTS", (-1.0,))):
        monkeypatch.setattr(mixed_model, name, value)
    monkeypatch.setattr(mixed_model, "DEVIATIONS", (1.0,))
    monkeypatch.setattr(mixed_model, "DEVIATION_WEIGHTS", (1,))
    posterior.cache_clear()
    # Base b, a candidate x kept on 3 seeds, and y on top of it with 5; by hand from the covariance of network means.
    first = one(0.7, candidate="x", parent="b")
    second = one(-0.2, seeds=5, candidate="y", parent="x", shared_variance=0.1)
    each = (0.34 + UNIT**2) / 2
    noise = np.array([[2 * each / 3, -each / 5], [-each / 5, 2 * each / 5 + 0.1]])
    size, mean = 2.0 * UNIT, -2.0 * UNIT
    covariance = np.linalg.inv(np.linalg.inv(noise) + np.eye(2) / size**2)
    expected = covariance @ (np.linalg.inv(noise) @ [0.7, -0.2] + mean / size**2)
    found = posterior(second, (first,), UNIT)
    assert found.means == pytest.approx(expected[1:])
    assert found.deviations**2 == pytest.approx(covariance[1:, 1])
    both = total_gain([first, second], [True, True], UNIT)
    assert both.means == pytest.approx([expected.sum()])
    assert both.deviations**2 == pytest.approx([covariance.sum()])
    posterior.cache_clear()


def test_sizes_are_weighed_by_their_likelihood(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("SIZES", (1.0, 8.0)), ("SIZE_WEIGHTS", (1, 1)), ("SHIFTS", (0.0,)), ("SAME_SIZE", 1.0)):
        monkeypatch.setattr(mixed_model, name, value)
    monkeypatch.setattr(mixed_model, "DEVIATIONS", (1.0,))
    monkeypatch.setattr(mixed_model, "DEVIATION_WEIGHTS", (1,))
    posterior.cache_clear()
    rows = [one(gain, candidate=f"c{number}", parent="b") for number, gain in enumerate((1.5, -2.0, 0.4))]
    each = (0.34 + UNIT**2) / 3
    noise = each * (np.eye(3) / 2 + 0.5)
    densities = [
        multivariate_normal.pdf([1.5, -2.0, 0.4], [0] * 3, noise + (size * UNIT) ** 2 * np.eye(3)) for size in (1, 8)
    ]
    assert posterior(rows[2], tuple(rows[:2]), UNIT).weights == pytest.approx(np.array(densities) / sum(densities))
    posterior.cache_clear()


def test_the_sum_of_kept_gains_is_weighed_by_the_likelihood_of_each_size(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"SIZES": (1.0, 8.0), "SIZE_WEIGHTS": (3, 1), "SHIFTS": (0.0, 0.5)}
    for name, value in (values | {"DEVIATIONS": (1.0,), "DEVIATION_WEIGHTS": (1,)}).items():
        monkeypatch.setattr(mixed_model, name, value)
    posterior.cache_clear()
    gains, taken = np.array([1.5, 0.4, -2.0]), np.array([1, 1, 0])
    rows = [one(gain, candidate=f"c{number}", parent=f"b{number}") for number, gain in enumerate(gains)]
    noise = (0.34 + UNIT**2) / 3 * np.eye(3)
    weights, means, variances = [], [], []
    for size, prior in ((1.0, 3), (8.0, 1)):
        for shift in (0.0, 0.5):
            deviation, mean = size * UNIT, shift * size * UNIT
            prior_covariance = deviation**2 * np.eye(3)
            gained = prior_covariance @ np.linalg.inv(prior_covariance + noise)
            weights.append(prior * multivariate_normal.pdf(gains, [mean] * 3, prior_covariance + noise))
            means.append(taken @ (mean + gained @ (gains - mean)))
            variances.append(taken @ (prior_covariance - gained @ prior_covariance) @ taken)
    found = total_gain(rows, [True, True, False], UNIT)
    expected = np.array(weights) / sum(weights)
    assert found.weights == pytest.approx(expected)
    assert found.means - found.mean == pytest.approx(np.array(means) - expected @ np.array(means))
    assert found.deviations**2 == pytest.approx(variances)
    posterior.cache_clear()


def test_without_a_prior_the_tail_is_near_that_of_students_t_where_seeds_differ_much() -> None:
    for count in (4, 8, 12):
        found = unshrunken(one(3.0, seeds=count, deviation=4.0), (), UNIT)
        expected = t.sf(3.0 / (4.0 / count**0.5), count - 1)
        assert 1 - found.probability_above(0) == pytest.approx(expected, rel=0.35)


@given(gains=st.permutations([0.1, 0.7, -0.4, 1.1]))
def test_earlier_verdicts_count_in_any_order(gains: list[float]) -> None:
    rows = [one(gain, candidate=f"{gain}", parent="b") for gain in gains]
    current = one(0.5, candidate="c", parent="b")
    usual = posterior(current, tuple(sorted(rows, key=lambda row: row.gain)), UNIT)
    assert posterior(current, tuple(rows), UNIT).mean == pytest.approx(usual.mean)


@given(current=comparisons, times=st.integers(2, 4))
def test_more_of_the_same_evidence_never_widens_the_interval(current: Comparison, times: int) -> None:
    more = replace(current, seeds=times * current.seeds, squares=times * current.squares)
    for level in (0.6, 0.95):
        less_low, less_high = unshrunken(current, (), UNIT).interval(level)
        more_low, more_high = unshrunken(more, (), UNIT).interval(level)
        assert more_high - more_low <= less_high - less_low + 1e-6


def test_gains_shrink_and_more_where_they_are_less_sure() -> None:
    sure = posterior(one(0.6, seeds=12), (), UNIT)
    unsure = posterior(one(0.6, image_variance=6.0, deviation=2.4), (), UNIT)
    assert abs(unsure.mean) < sure.mean < 0.6  # the prior says that edits rather harm


def test_large_gains_are_hardly_shrunk_once_a_few_seeds_agree() -> None:
    assert posterior(one(8.0, seeds=5), (), UNIT).mean == pytest.approx(8.0, abs=0.3)


def test_the_size_of_gains_is_learned_from_the_run() -> None:
    large = [one(gain, candidate=f"{gain}", parent="b") for gain in (2.0, -2.5, 3.0)]
    small = [one(gain, candidate=f"{gain}", parent="b") for gain in (0.1, 0.0, -0.1)]
    current = one(0.5, candidate="c", parent="b")
    assert posterior(current, tuple(large), UNIT).mean > posterior(current, tuple(small), UNIT).mean


def test_a_lucky_parent_does_not_count_against_every_later_candidate() -> None:
    dropped = [one(-1.0, candidate=f"c{number}", parent="b") for number in range(3)]
    current = one(-0.3, candidate="c", parent="b")
    elsewhere = [replace(row, parent=f"b{number}") for number, row in enumerate(dropped)]
    assert posterior(current, tuple(dropped), UNIT).mean > posterior(current, tuple(elsewhere), UNIT).mean


def test_the_sum_of_what_was_kept_is_the_gain_of_the_winner() -> None:
    rows = [one(1.0, candidate="x", parent="b"), one(-0.8, candidate="y", parent="x")]
    whole, first = total_gain(rows, [True, False], UNIT), posterior(rows[0], (), UNIT)
    assert whole.mean == pytest.approx(first.mean, abs=0.2)
    assert total_gain(rows, [True, True], UNIT).mean < whole.mean


def test_the_first_kept_step_counts_after_however_many_verdicts() -> None:
    first = one(1.0, candidate="x", parent="b")
    later = [one(-0.5, candidate=f"c{number}", parent="x") for number in range(100)]
    found = total_gain([first, *later], [True, *[False] * 100], UNIT)
    assert found.mean == total_gain([first, *later[-30:]], [True, *[False] * 30], UNIT).mean
    assert 0 < found.mean < 1.0


def test_an_estimate_knows_so_many_earlier_verdicts_and_no_more() -> None:
    earlier = tuple(one(gain, candidate=f"c{gain}", parent="b") for gain in np.linspace(-1, 1, 60))
    current = one(0.5, candidate="c", parent="b")
    for estimate in (posterior, unshrunken):
        last = estimate(current, earlier[-mixed_model.MOST_EARLIER :], UNIT)
        assert estimate(current, earlier, UNIT).interval(0.9) == last.interval(0.9)
        assert estimate(current, earlier[1 - mixed_model.MOST_EARLIER :], UNIT).interval(0.9) != last.interval(0.9)


def test_no_kept_step_is_forgotten_for_many_dropped_ones() -> None:
    names = ["b", *(f"x{number}" for number in range(6))]
    steps = [one(1.0, candidate=own, parent=parent) for parent, own in pairwise(names)]

    def total(drops: int) -> float:
        dropped = [one(-1.0, candidate=f"c{number}", parent="x5") for number in range(drops)]
        return total_gain([*steps, *dropped], [True] * 6 + [False] * drops, UNIT).mean

    assert total(25) == total(40) == pytest.approx(6, abs=0.4)


def test_gains_drawn_from_the_prior_lie_in_their_intervals_as_often_as_stated() -> None:
    random, inside, runs = np.random.default_rng(0), 0, 1000

    def drawn(values: tuple[float, ...], weights: tuple[float, ...]) -> float:
        return UNIT * float(random.choice(values, p=np.array(weights) / sum(weights)))

    for _ in range(runs):
        size = drawn(mixed_model.SIZES, mixed_model.SIZE_WEIGHTS)
        deviation = drawn(mixed_model.DEVIATIONS, mixed_model.DEVIATION_WEIGHTS)
        gain = random.normal(size * random.choice(mixed_model.SHIFTS), size)
        differences = random.normal(gain, (0.34 + deviation**2) ** 0.5, 5)
        squares = float(np.var(differences)) * 5
        current = Comparison(gain=float(differences.mean()), seeds=5, squares=squares, image_variance=0.34)
        low, high = posterior(current, (), UNIT).interval(0.8)
        inside += low < gain < high
    # At a share of 0.8, one of 1,000 such counts is outside of 3.3 deviations.
    assert inside / runs == pytest.approx(0.8, abs=3.3 * (0.16 / runs) ** 0.5)
