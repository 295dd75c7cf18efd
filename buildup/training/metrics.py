"""Metrics of the predictions for a set of images, in one pass and with batches of any size.

A metric is a sum over the images of a batch, and a value computed from the sum of all batches. Each batch becomes a
`Tally` on the device of its logits. Tallies are added, and `metrics` computes the values:

    >>> sure = tally(torch.tensor([[9.0, 0.0], [0.0, 9.0]]), torch.tensor([0, 0]))
    >>> metrics(sure + sure).accuracy
    50.0
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor
from torch.nn import functional as F

from buildup.registry import Registry

BINS = 10
"""Of equal width, for the calibration error."""
CONFIDENT = 0.9
"""The metrics that end in 90 count predictions as confident whose probability exceeds this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """One bar of the reliability diagram: the images whose predictions have about the same probability."""

    low: float
    high: float
    """The bin's right end, which belongs to it."""
    images: int
    accuracy: float
    """A share, like the mean probability `confidence`; both are 0 in an empty bin."""
    confidence: float


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """The predictions for a batch of images, with intermediate results that several metrics share."""

    logits: Tensor
    """Images x classes. All results are float64."""
    labels: Tensor

    @cached_property
    def log_p(self) -> Tensor:
        """Log probabilities, by log_softmax: log(softmax) is minus infinity for a confident error."""
        return self.logits.double().log_softmax(dim=1)

    @cached_property
    def p(self) -> Tensor:
        return self.log_p.exp()

    @cached_property
    def top(self) -> tuple[Tensor, Tensor]:
        """The largest probability and its class; the lower class of equal ones, like argmax."""
        highest = self.p.max(dim=1)
        return highest.values, highest.indices

    @cached_property
    def correct(self) -> Tensor:
        return self.top[1] == self.labels

    @cached_property
    def sure(self) -> Tensor:
        return self.top[0] > CONFIDENT

    @cached_property
    def truth(self) -> Tensor:
        return F.one_hot(self.labels, self.logits.shape[1]).double()

    @cached_property
    def losses(self) -> Tensor:
        return -(self.log_p * self.truth).sum(1)

    @cached_property
    def reliability(self) -> Tensor:
        """The number of images, the hits and the summed confidence of each bin."""
        confidence = self.top[0]
        edges = torch.arange(1, BINS, device=confidence.device, dtype=confidence.dtype) / BINS
        inside = F.one_hot(torch.bucketize(confidence, edges), BINS)  # closed on the right, so 1.0 is in the last
        return torch.stack([torch.ones_like(confidence), self.correct.double(), confidence]) @ inside.double()

    @cached_property
    def classes(self) -> Tensor:
        """For each image and class, whether it is a hit, a prediction and a label."""
        guess = F.one_hot(self.top[1], self.logits.shape[1]).double()
        return torch.stack([self.truth * guess, guess, self.truth])


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A number computed from predictions and labels."""

    name: str
    sums: Callable[[Predictions], Tensor]
    """Sums over the images of a batch, on its device and without waiting for it. Sums of batches are added."""
    value: Callable[[Tensor, int], float | None]
    """The value, by the added sums and the number of images; None where it is undefined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """The values of all metrics for a set of images."""

    values: Mapping[str, float]
    """Accuracies in percent, the others as shares and means. Undefined ones are left out."""
    bins: tuple[Bin, ...]
    correct: Tensor
    """Whether each image is classified correctly, in the given order."""
    losses: Tensor
    """The negative log-likelihood of each image, in the same order."""

    @property
    def accuracy(self) -> float:
        """In percent."""
        return self.values["accuracy"]

    @property
    def nll(self) -> float:
        """Negative log-likelihood of the labels, without smoothing; finite for finite logits."""
        return self.values["nll"]

    @property
    def ece(self) -> float:
        """Expected calibration error: the distance between confidence and accuracy, over the bins."""
        return self.values["ece"]

    @property
    def brier(self) -> float:
        """Brier score: the squared distance between probabilities and labels."""
        return self.values["brier"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """The sums over some images."""

    sums: Mapping[str, Tensor]
    """By the name of the metric."""
    reliability: Tensor
    correct: tuple[Tensor, ...]
    losses: tuple[Tensor, ...]

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            sums={name: mine + other.sums[name] for name, mine in self.sums.items()},
            reliability=self.reliability + other.reliability,
            correct=self.correct + other.correct,
            losses=self.losses + other.losses,
        )


METRICS = Registry[Metric]("metric", group="buildup.metrics")


def measure_logits(logits: Tensor, labels: Tensor) -> Metrics:
    return metrics(tally(logits, labels))


def tally(logits: Tensor, labels: Tensor) -> Tally:
    """The sums over a batch, in float64 and without waiting for its device."""
    logits = logits.detach()
    if logits.device.type == "mps":  # it has no float64
        logits, labels = logits.cpu(), labels.cpu()
    seen = Predictions(logits=logits, labels=labels)
    return Tally(
        sums={metric.name: metric.sums(seen) for metric in METRICS.values()},
        reliability=seen.reliability,
        correct=(seen.correct,),
        losses=(seen.losses,),
    )


def metrics(found: Tally) -> Metrics:
    correct = torch.cat(found.correct).cpu()
    values = {name: METRICS[name].value(sums, len(correct)) for name, sums in _on_host(found.sums).items()}
    count, hits, confidence = found.reliability.cpu()
    low = torch.arange(BINS, dtype=torch.float64) / BINS
    share = count.clamp(min=1)
    return Metrics(
        values={name: value for name, value in values.items() if value is not None},
        bins=tuple(
            Bin(low=start, high=start + 1 / BINS, images=round(held), accuracy=right, confidence=mean)
            for start, held, right, mean in zip(
                low.tolist(), count.tolist(), (hits / share).tolist(), (confidence / share).tolist(), strict=True
            )
        ),
        correct=correct,
        losses=torch.cat(found.losses).cpu(),
    )


def _on_host(sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Sums in float64 on the host, copied together, because each copy waits for the device."""
    flat = torch.cat([each.double().flatten() for each in sums.values()]).cpu()
    parts = torch.split(flat, [each.numel() for each in sums.values()])
    return {name: part.view(each.shape) for (name, each), part in zip(sums.items(), parts, strict=True)}


def _mean(sums: Tensor, images: int, *, scale: float = 1) -> float:
    return scale * (sums.item() / images)


def _ratio(sums: Tensor, images: int, *, scale: float = 1) -> float | None:
    above, below = sums.tolist()
    return scale * above / below if below else None


def _top5_hits(seen: Predictions) -> Tensor:
    five = seen.logits.topk(min(5, seen.logits.shape[1]), dim=1).indices
    return (five == seen.labels[:, None]).any(dim=1).sum()


def _calibration_error(reliability: Tensor, images: int, *, signed: bool) -> float:
    # For each bin its images times (confidence - accuracy), so that an empty bin counts nothing.
    gaps = reliability[2] - reliability[1]
    return (gaps if signed else gaps.abs()).sum().item() / images


def _mean_iou(classes: Tensor, images: int) -> float | None:
    """The mean of hits / (labels or predictions), over the classes that occur as a label or as a prediction."""
    hits, predictions, labels = classes
    union = predictions + labels - hits
    occurs = union > 0
    return (hits[occurs] / union[occurs]).mean().item() if occurs.any() else None


for _metric in (
    Metric(name="accuracy", sums=lambda seen: seen.correct.sum(), value=partial(_mean, scale=100)),
    Metric(name="top5", sums=_top5_hits, value=partial(_mean, scale=100)),
    Metric(name="nll", sums=lambda seen: seen.losses.sum(), value=_mean),
    Metric(name="ece", sums=lambda seen: seen.reliability, value=partial(_calibration_error, signed=False)),
    # Below zero for a network that is right more often than it says.
    Metric(name="ecse", sums=lambda seen: seen.reliability, value=partial(_calibration_error, signed=True)),
    Metric(name="brier", sums=lambda seen: (seen.p - seen.truth).square().sum(1).sum(), value=_mean),
    # Accuracy of the confident predictions, share of the wrong ones that are not confident, share of confident ones.
    Metric(
        name="acc90",
        sums=lambda seen: torch.stack([(seen.correct & seen.sure).sum(), seen.sure.sum()]),
        value=partial(_ratio, scale=100),
    ),
    Metric(
        name="unc90",
        sums=lambda seen: torch.stack([(~seen.correct & ~seen.sure).sum(), (~seen.correct).sum()]),
        value=_ratio,
    ),
    Metric(name="freq90", sums=lambda seen: seen.sure.sum(), value=_mean),
    Metric(name="iou", sums=lambda seen: seen.classes.sum(1), value=_mean_iou),
    Metric(name="iou90", sums=lambda seen: (seen.classes * seen.sure[:, None]).sum(1), value=_mean_iou),
):
    METRICS.register(_metric)
