"""The bounds of the looks, against drawn differences."""

import numpy as np
import pytest
from scipy.special import ndtri

from buildup.statistics.error_spending import EXPONENT, error_bounds


def test_a_single_look_may_use_the_whole_error() -> None:
    assert error_bounds(5, 5, 0.05) == pytest.approx((0.05,), rel=1e-3)


@pytest.mark.parametrize(("first", "last", "error"), [(3, 12, 0.04), (2, 8, 0.01)])
def test_all_looks_together_use_the_error_as_it_is_planned(first: int, last: int, error: float) -> None:
    random, runs, bounds = np.random.default_rng(0), 400_000, error_bounds(first, last, error)
    sums = random.normal(size=(runs, last)).cumsum(1)
    scores = sums[:, first - 1 :] / np.sqrt(np.arange(first, last + 1))
    crossed = np.logical_or.accumulate(scores > -ndtri(bounds), axis=1).mean(0)
    planned = error * (np.arange(first, last + 1) / last) ** EXPONENT
    assert crossed == pytest.approx(planned, abs=4 * (error / runs) ** 0.5)


def test_later_looks_may_use_more_and_larger_errors_have_wider_bounds() -> None:
    bounds = error_bounds(3, 12, 0.04)
    assert list(bounds) == sorted(bounds)
    assert all(wide > narrow for wide, narrow in zip(bounds, error_bounds(3, 12, 0.01), strict=True))
