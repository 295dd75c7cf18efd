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
