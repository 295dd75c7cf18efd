"""Measure a model on images in evaluation mode: those that a training is validated on, or all of a set."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import reduce
from operator import add

import torch
from torch import nn

from buildup.models.trace import evaluation_mode
from buildup.training.dataset import Dataset
from buildup.training.execution import ieee_float32, no_kernel_search, reading_processes
from buildup.training.execution_words import Execution
from buildup.training.feed import Feed, StreamedDataset, on_device
from buildup.training.metrics import Metrics, metrics, tally
from buildup.training.recipe import Recipe
from buildup.training.train_step import to_memory_format


def evaluate_model(model: nn.Module, images: Dataset | StreamedDataset, recipe: Recipe, *, threads: int) -> Metrics:
    """Measure a model on all images of a set, as a training by this recipe measures it on the validation images."""
    device, everything = next(model.parameters()).device, torch.arange(len(images.labels))
    images = on_device(images, device) if isinstance(images, Dataset) else images
    workers = reading_processes(device, threads)
    feed = Feed(
        recipe=recipe, dataset=images, train=everything[:0], val=everything, seed=0, device=device, workers=workers
    )
    return validate(model, feed, Execution())


def validate(model: nn.Module, feed: Feed, execution: Execution, every: int = 1) -> Metrics:
    """Measure a model in evaluation mode on each `every`-th validation image of a feed. Its own mode is restored."""
    device = next(model.parameters()).device
    with evaluating(model, execution):
        tallies = [
            tally(model(to_memory_format(inputs, execution)), labels.to(device))
            for inputs, labels in feed.validation(every)
        ]
    return metrics(reduce(add, feed.group.gather(reduce(add, tallies))))


@contextmanager
def evaluating(model: nn.Module, execution: Execution) -> Iterator[None]:
    """Evaluation mode, without gradients, as an execution computes."""
    device = next(model.parameters()).device
    with (
        evaluation_mode(model),
        torch.inference_mode(),
        ieee_float32(device) if execution.precision == "float32" else nullcontext(),
        # Compiling blocks, or searching for the fastest kernels, again for evaluation would cost more than it saves.
        torch.compiler.set_stance("force_eager"),
        no_kernel_search(),
        torch.autocast(device.type, torch.bfloat16, enabled=execution.precision == "bf16"),
    ):
        yield
