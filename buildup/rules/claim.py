"""The claim that `final` makes once: is the winner of a search better than its base?

A winner was chosen by its scores, so those scores flatter it, and no interval around them holds. The claim corrects
for that by using none of them: base and winner are trained anew with seeds that no verdict saw, and are compared on
test images that no verdict saw, so that choosing has no part in what is measured. What is left to correct for is the
number of claims made side by side, as when a control of equal size is compared, too. Only what the search showed of
the seeds (`Spread`), which is no score of anyone, is carried over.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from buildup.rules.paired import Pair, Spread, estimate

ERROR = 0.05
"""The claims of one `final` are wrong together in at most this share, half of it on either side of their intervals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What may be said of a gain that was measured anew."""

    gain: float
    ci: tuple[float, float]
    level: float
    claimed: bool
    """Whether a gain is claimed: if and only if the whole interval is gain."""
    sentence: str


def claim(pairs: Sequence[Pair], spread: Spread, claims: int = 1) -> Claim:
    """The claim on pairs of fresh trainings; `claims` are made side by side in all."""
    found = estimate(pairs, spread)
    level = 1 - ERROR / claims
    low, high = found.interval(level)
    ci = f"{100 * level:.4g} % CI {low:+.2f} to {high:+.2f}, {found.seeds} fresh seeds"
    if low > 0:
        sentence = f"a gain of {found.gain:+.2f} points is proven ({ci})"
    elif high < 0:
        sentence = f"a loss of {found.gain:+.2f} points is proven ({ci})"
    else:
        sentence = f"{found.gain:+.2f} points are not enough to tell a gain from chance ({ci})"
    return Claim(gain=found.gain, ci=(low, high), level=level, claimed=low > 0, sentence=sentence)
