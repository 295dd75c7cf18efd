"""What a model's predictions are worth, as it stands and in evaluation mode."""

from collections.abc import Iterable, Iterator
from functools import reduce
from operator import add

import torch
from torch import Tensor, nn

from buildup.diagnostics.hooks import evaluating
from buildup.training.augmentation import normalise
from buildup.training.dataset import Dataset
from buildup.training.metrics import Metrics, metrics, tally

Labelled = Iterable[tuple[Tensor, Tensor]]
"""Batches of images as a model takes them, with their labels."""


def measured(model: nn.Module, batches: Labelled) -> Metrics:
    """Measure a model on its own device; its mode stays as it is."""
    device = next(model.parameters()).device
    with torch.no_grad(), evaluating(model):
        tallies = [tally(model(images.to(device)), labels.to(device)) for images, labels in batches]
    return metrics(reduce(add, tallies))


def labelled(dataset: Dataset, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The images of a dataset, normalised, with their labels."""
    parts = zip(torch.split(dataset.images, batch_size), torch.split(dataset.labels, batch_size), strict=True)
    for images, labels in parts:
        yield normalise(images, dataset.mean, dataset.std), labels
