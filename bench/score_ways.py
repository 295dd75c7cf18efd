"""Trainings of one network that are each scored in many ways: averaged weights, averaged views, and both.

A training runs as `fit` runs it, and its averages of the weights are kept beside it.
"""

import base64
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from buildup.models.read import read_network
from buildup.space.load import load
from buildup.strategies.moves import from_layout
from buildup.training.augmentation import epoch_seed
from buildup.training.data import load_data
from buildup.training.dataset import Dataset, split
from buildup.training.execution_words import Execution
from buildup.training.feed import Feed, batch_starts
from buildup.training.metrics import measure_logits
from buildup.training.recipe import learning_rate, load_recipe
from buildup.training.train_step import Stepper, create_training_model, make_optimizer, prepare_model, to_memory_format

BASE = "test_resnet"
EXECUTION = Execution(channels_last=True)
PLAIN = "last"
"""The score as the product takes it: the last weights, each image as it is."""
MOST_SCORED = 1500
"""The most validation images that are scored: all the ways would take longer than the training."""

State = dict[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What the pairs of a kind are trained on."""

    name: str
    dataset: str
    classes: int | None = None
    """Only the first classes of the dataset."""
    fraction: float = 1.0
    epochs: int
    layout: str | None = None
    """Another one than that of the base."""


TASKS = (
    Task(name="digits", dataset="digits", epochs=6),
    Task(name="digits 1/4", dataset="digits", fraction=0.25, epochs=6),
    Task(name="digits 1/4, CC|CM|CC", dataset="digits", fraction=0.25, epochs=6, layout="CC|CM|CC"),
    # With all classes a network learns too little in so few steps: 5.6 % after two epochs on 1/20 of the images.
    Task(name="cifar100, 10 classes, 1/2", dataset="cifar100", classes=10, fraction=0.5, epochs=8),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Which steps of a training an average of its weights covers."""

    name: str
    start: float = 0.0
    """The share of the steps after which it starts."""
    horizon: float = 1.0
    """The mean age of the weights in an exponential average, as a share of all steps; 1 for a plain mean."""

    def rate(self, step: int, steps: int) -> float:
        """The share of the weights after a step, counted from 0, in the average; 0 before it starts."""
        first = int(self.start * steps)
        return 0.0 if step < first else max(1 / (step - first + 1), 1 / (self.horizon * steps))


WINDOWS = (
    Window(name="ema 5 %", horizon=0.05),
    Window(name="ema 20 %", horizon=0.2),
    Window(name="mean of last 25 %", start=0.75),
    Window(name="mean of last 50 %", start=0.5),
)
SHIFTS = ((1, 0), (-1, 0), (0, 1), (0, -1))


def train(task: Task, seed: int, data_dir: str | None = None) -> dict[str, Any]:
    """Train with a seed and score in all ways. Seeds 2n and 2n + 1 have the same images."""
    dataset = load_data(task.dataset, data_dir)
    if task.classes is not None:
        some = dataset.part(torch.nonzero(dataset.labels < task.classes)[:, 0])
        dataset = replace(some, class_names=dataset.class_names[: task.classes])
    shape = (dataset.channels, dataset.image_size, dataset.image_size)
    network = read_network(BASE, input_shape=shape, num_classes=dataset.num_classes, stem="base")
    if task.layout is not None:
        network = from_layout(task.layout, network, load("alternet"))
    kept, held = split(dataset, seed // 2, fraction=task.fraction)
    held = held[:: ceil(len(held) / MOST_SCORED)]
    recipe = load_recipe("quick").with_epochs(task.epochs).resolved(train_images=len(kept))
    device = torch.device("cpu")
    feed = Feed(recipe=recipe, dataset=dataset, train=kept, val=held, seed=seed, device=device)
    model = prepare_model(create_training_model(network, recipe, seed=seed, device=device), network, EXECUTION)
    stepper = Stepper(model, make_optimizer(model, recipe, EXECUTION), recipe, EXECUTION)

    started = time.perf_counter()
    averages = _train(stepper, feed, seed)
    trained = time.perf_counter()
    scores, losses = score(model, averages, feed, dataset)
    return {
        "task": task.name,
        "seed": seed,
        "seconds": trained - started,
        "scoring_seconds": time.perf_counter() - trained,
        "images": len(held),
        "scores": scores,
        "losses": base64.b64encode(losses.numpy().astype("<f2").tobytes()).decode(),
    }


def _train(stepper: Stepper, feed: Feed, seed: int) -> dict[str, State]:
    """Train as `fit` does, and return the averages of the weights."""
    recipe, model = feed.recipe, stepper.model
    steps = len(batch_starts(len(feed.train), recipe.batch_size))
    weights = dict(model.named_parameters())
    averages = {window.name: {name: one.detach().clone() for name, one in weights.items()} for window in WINDOWS}
    step = 0
    for number in range(1, recipe.epochs + 1):
        torch.manual_seed(epoch_seed(seed, number, "network"))
        model.train()
        for inputs, targets in feed.epoch(number):
            stepper(inputs, targets, learning_rate(recipe, step, steps))
            for window in WINDOWS:
                if rate := window.rate(step, steps * recipe.epochs):
                    now = [one.detach() for one in weights.values()]
                    torch._foreach_lerp_([*averages[window.name].values()], now, rate)
            step += 1
    return averages


def score(
    model: nn.Module, averages: Mapping[str, State], feed: Feed, dataset: Dataset
) -> tuple[dict[str, dict[str, Any]], Tensor]:
    """The scores of a model in all ways, and the losses of the plain one."""
    batches = [to_memory_format(inputs, EXECUTION) for inputs, _ in feed.epoch(feed.recipe.epochs + 1)][::2]
    validation = list(feed.validation())
    images, labels = (torch.cat(parts) for parts in zip(*validation, strict=True))
    flips = [images.flip(3)] if dataset.mirror else []
    found: dict[str, dict[str, Any]] = {}
    plain = _log_p(model, [images])
    scored = {PLAIN: plain, "last, shifts": _mean([*plain, *_log_p(model, shifted(images))])}
    if flips:
        scored["last, flip"] = _mean([*plain, *_log_p(model, flips)])
    last = {name: one.detach().clone() for name, one in model.named_parameters()}
    for name, weights in {"last, restated": last, **averages}.items():
        model.load_state_dict(weights, strict=False)
        restate(model, batches)
        own = _log_p(model, [images])
        scored[name] = own
        if flips:
            scored[f"{name}, flip"] = _mean([*own, *_log_p(model, flips)])
    for name, (log_p,) in scored.items():
        metrics = measure_logits(log_p, labels)
        packed = np.packbits(metrics.correct.numpy()).tobytes()
        found[name] = {"accuracy": metrics.accuracy, "nll": metrics.nll, "correct": base64.b64encode(packed).decode()}
    return found, measure_logits(plain[0], labels).losses


def restate(model: nn.Module, batches: Sequence[Tensor]) -> None:
    """Estimate the batch norm statistics anew, as their mean over batches of training images."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean
        norm.train()
    with torch.inference_mode():
        for inputs in batches:
            model(inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def shifted(images: Tensor) -> list[Tensor]:
    """The images, moved by a pixel in each direction."""
    padded, size = F.pad(images, (1, 1, 1, 1), mode="replicate"), images.shape[-1]
    return [padded[..., 1 + down : 1 + down + size, 1 + right : 1 + right + size] for down, right in SHIFTS]


def _log_p(model: nn.Module, views: Sequence[Tensor]) -> list[Tensor]:
    """Log probabilities of the images in each view."""
    model.eval()
    with torch.inference_mode():
        return [
            torch.cat([model(to_memory_format(part, EXECUTION)) for part in torch.split(view, 256)])
            .double()
            .log_softmax(1)
            for view in views
        ]


def _mean(views: Sequence[Tensor]) -> list[Tensor]:
    """The log of the mean probability over views."""
    return [torch.stack([*views]).logsumexp(0) - np.log(len(views))]
