"""The scores of a candidate and its parent, compared seed by seed.

Candidate and parent are trained with the same seeds. A seed also chooses the validation images, so each seed s gives
one difference d_s on images that both networks saw. It deviates from the true gain for three reasons:

- Single images. Two trainings of one network disagree on some images (17 % were measured), which alone gives a standard
  deviation of 0.58 points for 5,000 images. This part is measured from the per-image correctness.
- The effect of a seed on a whole network. `mixed_model.py` estimates it over the run.
- The choice of validation images. A block may suit some images and not others. Where seeds validate on different
  images, this is part of the first variance, and fades with more seeds. Where they share images, it does not fade. It
  is measured by how far the seeds agree on the images that they share.

The image variance is divided into a part W that is independent for each seed and a part H of the mean that more seeds
don't reduce. With the deviation e_s(i) of image i from d_s, divided by the number of images of that seed,

    H + W / n = (1 / n^2) * sum over images of (sum over seeds of e_s(i))^2

while the sum of e_s(i)^2 for one seed is its whole image variance. Two equations give both parts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import numpy.typing as npt

from buildup.trials.objective import ACCURACY, Objective
from buildup.trials.outcome import Score


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The scores of a candidate and its parent with one seed: equal images, data order, draws and shared weights."""

    candidate: Score
    parent: Score


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What the seeds say about a candidate and its parent, in points or in the unit of another objective."""

    candidate: str = "candidate"
    parent: str = "parent"
    gain: float
    """The mean difference."""
    seeds: int
    squares: float
    """The sum of squared deviations of the differences from their mean."""
    image_variance: float = 0.0
    """The image variance W of the difference of one seed, independent for each seed."""
    shared_variance: float = 0.0
    """The image variance H of the mean difference, from images that seeds share."""


def compare(
    pairs: Sequence[Pair],
    objective: Objective = ACCURACY,
    *,
    candidate: str = "candidate",
    parent: str = "parent",
) -> Comparison:
    assert pairs, "a comparison needs a pair"
    gains = [objective.gain(pair.candidate, pair.parent) for pair in pairs]
    gain = fmean(gains)
    own, shared = _image_variances(pairs, objective)
    return Comparison(
        candidate=candidate,
        parent=parent,
        gain=gain,
        seeds=len(pairs),
        squares=sum((one - gain) ** 2 for one in gains),
        image_variance=own,
        shared_variance=shared,
    )


def disagreement(pair: Pair) -> float | None:
    """The share of the validation images that only one of two trainings gets right; None if it is not known."""
    _, differences = _image_differences(pair, ACCURACY)
    return None if differences is None else float(np.abs(differences).mean())


def _image_variances(pairs: Sequence[Pair], objective: Objective) -> tuple[float, float]:
    """The image variances W, of the difference of one seed, and H, of the mean over seeds."""
    count = len(pairs)
    each, total = 0.0, np.zeros(0)
    for pair in pairs:
        places, differences = _image_differences(pair, objective)
        if differences is None:
            return objective.assumed_variance, 0.0
        images = len(differences)
        deviations = (differences - differences.mean()) / images
        variance = float(differences.var())
        if objective.per_image == "correct":
            # One more image is counted as different, so that the variance of two perfect trainings is not zero.
            variance = (np.count_nonzero(differences) + 1) / (images + 1) - float(differences.mean()) ** 2
        each += 1e4 * max(variance, 1 / images**2) / images / count
        if len(places) and places[-1] >= len(total):
            total = np.concatenate((total, np.zeros(places[-1] + 1 - len(total))))
        total[places] += deviations
    if count == 1:
        return each, 0.0
    mean = 1e4 * float(total @ total) / count**2
    own = min(each, max(each - mean, 0.0) * count / (count - 1))
    return own, max(0.0, mean - own / count)


def _image_differences(pair: Pair, objective: Objective) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64] | None]:
    """The validation images, and the gain on each; None if it is not known.

    For accuracy it is 1 where only the candidate is right and -1 where only its parent is; for the negative
    log-likelihood it is in nats.
    """
    ours, theirs = pair.candidate, pair.parent
    unknown = np.zeros(0, dtype=np.intp), None
    if ours.images != theirs.images or ours.validated != theirs.validated:
        return unknown
    places = np.arange(ours.images)
    if ours.validated is not None:
        places = np.flatnonzero(np.unpackbits(np.frombuffer(ours.validated, dtype=np.uint8)))
    if objective.per_image == "losses" and ours.losses is not None and theirs.losses is not None:
        mine, others = (np.frombuffer(one, dtype="<f2").astype(np.float64) for one in (ours.losses, theirs.losses))
        return places, others - mine
    if objective.per_image != "correct" or ours.correct is None or theirs.correct is None:
        return unknown
    right, wrong = (
        np.unpackbits(np.frombuffer(one, dtype=np.uint8), count=ours.images).astype(np.float64)
        for one in (ours.correct, theirs.correct)
    )
    return places, right - wrong
