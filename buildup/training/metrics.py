"""What the predictions for a set of images are worth (paper.md 8.8), in one pass and with batches of any size.

Each batch becomes a `Tally` of sums where its logits are, tallies add up, and `metrics` divides at the end:

    >>> sure = tally(torch.tensor([[9.0, 0.0], [0.0, 9.0]]), torch.tensor([0, 0]))
    >>> metrics(sure + sure).accuracy
    50.0
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Accuracies in percent, the rest as shares and means."""

    accuracy: float
    top5: float
    nll: float
    """Clean: by the labels alone, and finite for any finite logits."""
    ece: float
    """Distance between confidence and accuracy, over the bins."""
    ecse: float
    """The same with its sign: below zero for a network that is right more often than it says."""
    brier: float
    acc90: float | None
    """Accuracy among the confident predictions; None where there are none."""
    unc90: float | None
    """Share of the wrong predictions that are not confident; None where none is wrong."""
    freq90: float
    """Share of the predictions that are confident."""
    iou: float
    """Mean over the classes of hits / (images of the class or taken for it)."""
    iou90: float | None
    """The same among the confident predictions."""
    bins: tuple[Bin, ...]
    correct: Tensor
    """One truth value an image, in the order given."""
    losses: Tensor
    """The negative log-likelihood of each image, in the same order."""

    @property
    def values(self) -> dict[str, float]:
        """The numbers alone, for an epoch's line; those that mean nothing for these images are left out."""
        named = {field.name: getattr(self, field.name) for field in fields(self)[:-3]}
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """The sums over some images."""

    sums: Tensor
    """Of hits in the first five, negative log-likelihoods, Brier scores."""
    bins: Tensor
    """Images, hits and summed confidence of each bin."""
    classes: Tensor
    """Hits, predictions and labels of each class; and then the same among the confident predictions."""
    wrong: Tensor
    """Wrong predictions, and among them those that are not confident."""
    correct: tuple[Tensor, ...]
    losses: tuple[Tensor, ...]

    def __add__(self, other: "Tally") -> "Tally":
        """Of both."""
        return Tally(
            sums=self.sums + other.sums,
            bins=self.bins + other.bins,
            classes=self.classes + other.classes,
            wrong=self.wrong + other.wrong,
            correct=self.correct + other.correct,
            losses=self.losses + other.losses,
        )


def measure(logits: Tensor, labels: Tensor, *, bins: int = BINS) -> Metrics:
    """Measure logits (images x classes) against labels."""
    return metrics(tally(logits, labels, bins=bins))


def tally(logits: Tensor, labels: Tensor, *, bins: int = BINS) -> Tally:
    """The sums over a batch, in float64 and without waiting for its device.

    A class that shares the top logit with another counts as the lower index, as argmax has it.
    """
    logits = logits.detach()
    if logits.device.type == "mps":  # it has no float64
        logits, labels = logits.cpu(), labels.cpu()
    classes = logits.shape[1]
    # log_softmax, because log(softmax) is minus infinity for one confident error.
    log_p = logits.double().log_softmax(dim=1)
    p = log_p.exp()
    confidence, predicted = p.max(dim=1)
    correct, sure = predicted == labels, confidence > CONFIDENT
    in_five = (logits.topk(min(5, classes), dim=1).indices == labels[:, None]).any(dim=1)
    truth, guess = F.one_hot(labels, classes).double(), F.one_hot(predicted, classes).double()
    edges = torch.arange(1, bins, device=p.device, dtype=p.dtype) / bins
    inside = F.one_hot(torch.bucketize(confidence, edges), bins).double()  # closed on the right, so 1.0 is in the last
    seen = torch.stack([truth * guess, guess, truth])
    losses = -(log_p * truth).sum(1)
    return Tally(
        sums=torch.stack([in_five.double(), losses, (p - truth).square().sum(1)]).sum(1),
        bins=torch.stack([torch.ones_like(confidence), correct.double(), confidence]) @ inside,
        classes=torch.stack([seen.sum(1), (seen * sure[:, None]).sum(1)]),
        wrong=torch.stack([~correct, ~correct & ~sure]).sum(1),
        correct=(correct,),
        losses=(losses,),
    )


def metrics(found: Tally) -> Metrics:
    """What the sums say."""
    correct = torch.cat([part.cpu() for part in found.correct])
    images = len(correct)
    top5, nll, brier = (found.sums / images).tolist()
    count, hits, confidence = found.bins.cpu()
    # For one bin: all its images times (accuracy - confidence), so an empty one counts nothing.
    gaps = hits - confidence
    wrong, unsure = found.wrong.tolist()
    sure_hits, sure, _ = found.classes[1].sum(1).tolist()
    low = torch.arange(len(count), dtype=torch.float64) / len(count)
    share = count.clamp(min=1)
    return Metrics(
        accuracy=100 * correct.double().mean().item(),
        top5=100 * top5,
        nll=nll,
        ece=gaps.abs().sum().item() / images,
        ecse=-gaps.sum().item() / images,
        brier=brier,
        acc90=100 * sure_hits / sure if sure else None,
        unc90=unsure / wrong if wrong else None,
        freq90=sure / images,
        iou=_iou(found.classes[0]) or 0.0,
        iou90=_iou(found.classes[1]),
        bins=tuple(
            Bin(low=start, high=start + 1 / len(count), images=round(held), accuracy=right, confidence=mean)
            for start, held, right, mean in zip(
                low.tolist(), count.tolist(), (hits / share).tolist(), (confidence / share).tolist(), strict=True
            )
        ),
        correct=correct,
        losses=torch.cat([part.cpu() for part in found.losses]),
    )


def _iou(classes: Tensor) -> float | None:
    """The mean over the classes that are there, as a label or as a prediction."""
    hits, predictions, labels = classes.cpu()
    union = predictions + labels - hits
    there = union > 0
    return (hits[there] / union[there]).mean().item() if there.any() else None
