"""What the logits of a set of images are worth, in one pass over them."""

from dataclasses import dataclass

import torch
from torch import Tensor

BINS = 10
"""As in the paper (paper.md 8.8)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Accuracies in percent; the rest as means over the images."""

    accuracy: float
    top5: float
    nll: float
    ece: float
    brier: float
    correct: Tensor
    """One truth value an image, in the order given."""

    @property
    def values(self) -> dict[str, float]:
        """The numbers alone, for an epoch's line."""
        return {"accuracy": self.accuracy, "top5": self.top5, "nll": self.nll, "ece": self.ece, "brier": self.brier}


def measure(logits: Tensor, labels: Tensor, *, bins: int = BINS) -> Metrics:
    """Measure logits (images x classes) against labels.

    All images are measured together, in float64, so batches of any size weigh as they should. A class that shares
    the top logit with another counts as the lower index, as argmax has it.
    """
    logits, labels = logits.detach().cpu().double(), labels.cpu()
    images, classes = logits.shape
    # log_softmax, because log(softmax) is minus infinity for one confident error.
    log_p = logits.log_softmax(dim=1)
    p = log_p.exp()
    own = labels[:, None]
    confidence, predicted = p.max(dim=1)
    correct = predicted == labels
    best = logits.topk(min(5, classes), dim=1).indices
    truth = torch.zeros_like(p).scatter_(1, own, 1.0)
    return Metrics(
        accuracy=100 * correct.double().mean().item(),
        top5=100 * (best == own).any(dim=1).double().mean().item(),
        nll=-log_p.gather(1, own).mean().item(),
        ece=_calibration_error(confidence, correct, bins) / images,
        brier=(p - truth).square().sum(dim=1).mean().item(),
        correct=correct,
    )


def _calibration_error(confidence: Tensor, correct: Tensor, bins: int) -> float:
    """Sum over the bins of |hits - confidence|; bins are closed on the right, so a confidence of 1 is in the last."""
    edges = torch.arange(1, bins, dtype=torch.float64) / bins
    index = torch.bucketize(confidence, edges)
    gaps = torch.zeros(bins, dtype=torch.float64).index_add_(0, index, correct.double() - confidence)
    return gaps.abs().sum().item()
