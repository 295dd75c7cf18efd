"""What the predictions for a set of images are worth (paper.md 8.8), in one pass and with batches of any size.

A metric is a sum over the images of a batch and what the added sums say at the end. Each batch becomes a `Tally` where
its logits are, tallies add up, and `metrics` asks every metric for its value:

    >>> sure = tally(torch.tensor([[9.0, 0.0], [0.0, 9.0]]), torch.tensor([0, 0]))
    >>> metrics(sure + sure).accuracy
    50.0
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from buildup.registry import Registry

BINS = 10
CONFIDENT = 0.9
"""Of the metrics that end in 90: what a prediction's probability must exceed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """One bar of the reliability diagram: the images whose predictions are about equally probable."""

    low: float
    high: float
    """The bin's right end, which belongs to it."""
    images: int
    accuracy: float
    """A share, as the mean probability below; both 0 in an empty bin."""
    confidence: float


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """The predictions for a batch of images, and what several metrics need of them."""

    logits: Tensor
    """Images x classes, as what is derived from them in float64."""
    labels: Tensor
    bins: int = BINS

    @cached_property
    def log_p(self) -> Tensor:
        """By log_softmax, because log(softmax) is minus infinity for one confident error."""
        return self.logits.double().log_softmax(dim=1)

    @cached_property
    def p(self) -> Tensor:
        """Probabilities."""
        return self.log_p.exp()

    @cached_property
    def top(self) -> tuple[Tensor, Tensor]:
        """The largest probability and its class; of equal ones the lower class, as argmax has it."""
        confidence, predicted = self.p.max(dim=1)
        return confidence, predicted

    @cached_property
    def correct(self) -> Tensor:
        """Truth values."""
        return self.top[1] == self.labels

    @cached_property
    def sure(self) -> Tensor:
        """Truth values, too."""
        return self.top[0] > CONFIDENT

    @cached_property
    def truth(self) -> Tensor:
        """Labels as distributions."""
        return F.one_hot(self.labels, self.logits.shape[1]).double()

    @cached_property
    def losses(self) -> Tensor:
        """The negative log-likelihood of each image."""
        return -(self.log_p * self.truth).sum(1)

    @cached_property
    def reliability(self) -> Tensor:
        """Images, hits and summed confidence of each bin."""
        confidence = self.top[0]
        edges = torch.arange(1, self.bins, device=confidence.device, dtype=confidence.dtype) / self.bins
        inside = F.one_hot(torch.bucketize(confidence, edges), self.bins)  # closed on the right, so 1.0 is in the last
        return torch.stack([torch.ones_like(confidence), self.correct.double(), confidence]) @ inside.double()

    @cached_property
    def classes(self) -> Tensor:
        """Of each image and class, whether it is a hit, a prediction and a label."""
        guess = F.one_hot(self.top[1], self.logits.shape[1]).double()
        return torch.stack([self.truth * guess, guess, self.truth])


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A number that says what predictions are worth."""

    name: str
    sums: Callable[[Predictions], Tensor]
    """Over the images of a batch, on its device and without waiting for it; sums of batches are added."""
    value: Callable[[Tensor, int], float | None]
    """What the added sums of so many images say; None where that means nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """What all metrics say of a set of images."""

    values: Mapping[str, float]
    """Accuracies in percent, the rest as shares and means; those that mean nothing for these images are left out."""
    bins: tuple[Bin, ...]
    correct: Tensor
    """One truth value an image, in the order given."""
    losses: Tensor
    """The negative log-likelihood of each image, in the same order."""

    @property
    def accuracy(self) -> float:
        """In percent."""
        return self.values["accuracy"]

    @property
    def nll(self) -> float:
        """Clean: by the labels alone, and finite for any finite logits."""
        return self.values["nll"]

    @property
    def ece(self) -> float:
        """Distance between confidence and accuracy, over the bins."""
        return self.values["ece"]

    @property
    def brier(self) -> float:
        """Squared distance between probabilities and labels."""
        return self.values["brier"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """The sums over some images."""

    sums: Mapping[str, Tensor]
    """Of each metric."""
    reliability: Tensor
    correct: tuple[Tensor, ...]
    losses: tuple[Tensor, ...]

    def __add__(self, other: "Tally") -> "Tally":
        """Of both."""
        return Tally(
            sums={name: mine + other.sums[name] for name, mine in self.sums.items()},
            reliability=self.reliability + other.reliability,
            correct=self.correct + other.correct,
            losses=self.losses + other.losses,
        )


METRICS = Registry[Metric]("metric", group="buildup.metrics")


def measure(logits: Tensor, labels: Tensor, *, bins: int = BINS) -> Metrics:
    """Measure logits (images x classes) against labels."""
    return metrics(tally(logits, labels, bins=bins))


def tally(logits: Tensor, labels: Tensor, *, bins: int = BINS) -> Tally:
    """The sums over a batch, in float64 and without waiting for its device."""
    logits = logits.detach()
    if logits.device.type == "mps":  # it has no float64
        logits, labels = logits.cpu(), labels.cpu()
    seen = Predictions(logits=logits, labels=labels, bins=bins)
    return Tally(
        sums={metric.name: metric.sums(seen) for metric in METRICS.values()},
        reliability=seen.reliability,
        correct=(seen.correct,),
        losses=(seen.losses,),
    )


def metrics(found: Tally) -> Metrics:
    """What the sums say."""
    correct = torch.cat([part.cpu() for part in found.correct])
    values = {name: METRICS[name].value(sums.cpu(), len(correct)) for name, sums in found.sums.items()}
    count, hits, confidence = found.reliability.cpu()
    low = torch.arange(len(count), dtype=torch.float64) / len(count)
    share = count.clamp(min=1)
    return Metrics(
        values={name: value for name, value in values.items() if value is not None},
        bins=tuple(
            Bin(low=start, high=start + 1 / len(count), images=round(held), accuracy=right, confidence=mean)
            for start, held, right, mean in zip(
                low.tolist(), count.tolist(), (hits / share).tolist(), (confidence / share).tolist(), strict=True
            )
        ),
        correct=correct,
        losses=torch.cat([part.cpu() for part in found.losses]),
    )


def _mean(sums: Tensor, images: int) -> float:
    return sums.item() / images


def _percent(sums: Tensor, images: int) -> float:
    return 100 * (sums.item() / images)


def _ratio(sums: Tensor, images: int) -> float | None:
    above, below = sums.tolist()
    return above / below if below else None


def _in_five(seen: Predictions) -> Tensor:
    five = seen.logits.topk(min(5, seen.logits.shape[1]), dim=1).indices
    return (five == seen.labels[:, None]).any(dim=1).sum()


def _acc90(sums: Tensor, images: int) -> float | None:
    hits, sure = sums.tolist()
    return 100 * hits / sure if sure else None


def _gaps(reliability: Tensor) -> Tensor:
    """For each bin all its images times (accuracy - confidence), so an empty one counts nothing."""
    return reliability[1] - reliability[2]


def _iou(classes: Tensor, images: int) -> float | None:
    """The mean over the classes that are there, as a label or as a prediction, of hits / (labels or predictions)."""
    hits, predictions, labels = classes
    union = predictions + labels - hits
    there = union > 0
    return (hits[there] / union[there]).mean().item() if there.any() else None


for _metric in (
    Metric(name="accuracy", sums=lambda seen: seen.correct.sum(), value=_percent),
    Metric(name="top5", sums=_in_five, value=_percent),
    Metric(name="nll", sums=lambda seen: seen.losses.sum(), value=_mean),
    Metric(name="ece", sums=lambda seen: seen.reliability, value=lambda sums, n: _gaps(sums).abs().sum().item() / n),
    # The same with its sign: below zero for a network that is right more often than it says.
    Metric(name="ecse", sums=lambda seen: seen.reliability, value=lambda sums, n: -_gaps(sums).sum().item() / n),
    Metric(name="brier", sums=lambda seen: (seen.p - seen.truth).square().sum(1).sum(), value=_mean),
    # Accuracy of the confident predictions, share of the wrong ones that are not confident, share of confident ones.
    Metric(
        name="acc90", sums=lambda seen: torch.stack([(seen.correct & seen.sure).sum(), seen.sure.sum()]), value=_acc90
    ),
    Metric(
        name="unc90",
        sums=lambda seen: torch.stack([(~seen.correct & ~seen.sure).sum(), (~seen.correct).sum()]),
        value=_ratio,
    ),
    Metric(name="freq90", sums=lambda seen: seen.sure.sum(), value=_mean),
    Metric(name="iou", sums=lambda seen: seen.classes.sum(1), value=_iou),
    Metric(name="iou90", sums=lambda seen: (seen.classes * seen.sure[:, None]).sum(1), value=_iou),
):
    METRICS.register(_metric)
