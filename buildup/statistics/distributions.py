"""Distribution functions of scipy, which is loaded by the first call: reading recorded decisions needs none of them."""

from typing import Any


def normal_cdf(values: Any) -> Any:
    """The standard normal distribution function, of a number or an array."""
    from scipy.special import ndtr

    return ndtr(values)


def t_quantile(degrees: int, probability: float) -> float:
    """A quantile of Student's t distribution.

    >>> round(t_quantile(4, 0.975), 3)
    2.776
    """
    from scipy.special import stdtrit

    return float(stdtrit(degrees, probability))


def share_interval(successes: int, count: int) -> tuple[float, float]:
    """The exact 95 % interval of Clopper and Pearson for a share: successes out of a count of independent tries.

    >>> [round(end, 3) for end in share_interval(8, 11)]
    [0.39, 0.94]
    """
    from scipy.special import betaincinv

    error, failures = 0.025, count - successes
    low = 0.0 if successes == 0 else float(betaincinv(successes, failures + 1, error))
    high = 1.0 if failures == 0 else float(betaincinv(successes + 1, failures, 1 - error))
    return low, high
