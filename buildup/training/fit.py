"""One training, read from top to bottom: data, split, model, optimiser, epochs, score."""

import hashlib
import json
import math
import os
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from buildup.graph.fingerprint import fingerprint
from buildup.graph.network import Network
from buildup.models.build import build
from buildup.training import attempt
from buildup.training.augment import normalise
from buildup.training.data import load_data, split
from buildup.training.dataset import Dataset
from buildup.training.device import cpu_has_bfloat16
from buildup.training.draws import epoch_seed
from buildup.training.feed import Feed, Resident, batch_starts, on_device
from buildup.training.metrics import Metrics, metrics, tally
from buildup.training.recipe import Recipe, learning_rate, recipe_to_values
from buildup.trials.outcome import Epoch, Failed, Reason, Score

Precision = Literal["auto", "float32", "bf16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """All that a worker needs to train one candidate with one seed."""

    network: Network
    seed: int
    """Decides over first weights, data order and augmentation."""
    dataset: str
    data_dir: str | None = None
    image_size: int | None = None
    fraction: float = 1.0
    """Share of the training images; the validation images stay the same."""
    split_seed: int = 0
    recipe: Recipe
    device: str = "cpu"
    threads: int = 1
    deterministic: bool = False
    precision: Precision = "auto"
    folder: str
    """Where this attempt writes."""
    resume_from: str | None = None
    """The folder of an earlier attempt, which is only read."""


def fit(job: Job) -> Generator[Epoch, None, Score]:
    """Train, giving an epoch at a time, and give back the score.

    An attempt goes on from the checkpoint of an earlier one as if it had not been interrupted, and tells the epochs
    that it remembers once more: whoever listened then may have died before they were written down. `Failed` is raised
    for a training that diverged or did not fit into memory.
    """
    with _settings(job), _named_failures():
        device = torch.device(job.device)
        precision = resolve_precision(job.precision, job.recipe, device)
        dataset = load_data(job.dataset, job.data_dir, job.image_size)
        train, val = split(dataset, job.split_seed, fraction=job.fraction)
        recipe = job.recipe.resolved(train_images=len(train))
        feed = Resident(
            recipe=recipe, dataset=on_device(dataset, device), train=train, val=val, seed=job.seed, device=device
        )

        extra = {"drop_path_rate": recipe.drop_path} if recipe.drop_path else {}
        model = build(job.network, seed=job.seed, device=device, **extra)
        model = model.to(memory_format=memory_format(device))
        optimizer = make_optimizer(model, recipe)
        batches = batch_starts(len(train), recipe.batch_size)

        identity = _identity(job, recipe, dataset, precision)
        curve = attempt.begin(job.folder, job.resume_from, identity, model, optimizer)
        attempt.log(
            job.folder,
            f"{fingerprint(job.network)} seed {job.seed}: {len(train)} images, {len(val)} to "
            f"validate on, batch {recipe.batch_size}, lr {recipe.lr:.4g}, {precision} on {device}",
        )
        if dataset.origin:
            attempt.log(job.folder, f"{dataset.name}: {dataset.origin}")

        yield from curve
        found: Metrics | None = None
        for number in range(len(curve) + 1, recipe.epochs + 1):
            started = time.perf_counter()
            # What a network draws itself (dropped paths) starts anew with each epoch, so a resumed one draws the same.
            torch.manual_seed(epoch_seed(job.seed, number, "network"))
            # Sums stay on the device: reading them in a step would make it wait.
            loss_sum, hits = torch.zeros((), device=device), torch.zeros((), device=device)
            model.train()
            for step, (inputs, targets) in enumerate(feed.epoch(number)):
                lr = learning_rate(recipe, (number - 1) * len(batches) + step, len(batches))
                for group in optimizer.param_groups:
                    group["lr"] = lr
                with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                    logits = model(inputs.contiguous(memory_format=memory_format(device)))
                loss = F.cross_entropy(logits.float(), targets)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
                if recipe.clip_grad is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_grad)
                optimizer.step()
                loss_sum += loss.detach() * len(inputs)
                hits += (logits.detach().argmax(1) == targets.argmax(1)).sum()

            seen = min(len(train), batches[-1] + recipe.batch_size)
            train_loss = (loss_sum / seen).item()
            # The score is that of the network as it is exported, and bfloat16 can give an image two equally good
            # classes.
            found = validate(model, feed, precision if number < recipe.epochs else "float32")
            _check_finite(number, lr, train_loss, found.nll)
            epoch = Epoch(
                number=number,
                metrics={
                    **found.values,
                    "train_loss": train_loss,
                    "train_accuracy": 100 * (hits / seen).item(),
                    "lr": lr,
                    "seconds": time.perf_counter() - started,
                },
            )
            curve.append(epoch)
            attempt.save(job.folder, identity, model, optimizer, curve)
            yield epoch

        if found is None:  # an earlier attempt trained to the end and left no score
            found = validate(model, feed, "float32")
        attempt.finish(job.folder, identity, model, curve, found.bins)
        return Score(
            accuracy=found.accuracy,
            metrics=found.values,
            correct=np.packbits(found.correct.numpy()).tobytes(),
            images=len(val),
            seconds=sum(epoch.metrics["seconds"] for epoch in curve),
        )


def evaluate(model: nn.Module, images: Tensor, labels: Tensor, dataset: Dataset, *, batch_size: int) -> Metrics:
    """Measure a model on images of a dataset; they may lie elsewhere than the model."""
    device = next(model.parameters()).device
    parts = zip(torch.split(images, batch_size), torch.split(labels, batch_size), strict=True)
    return _measured(
        model,
        ((normalise(some.to(device), dataset.mean, dataset.std), their.to(device)) for some, their in parts),
        "float32",
    )


def validate(model: nn.Module, feed: Feed, precision: Literal["float32", "bf16"]) -> Metrics:
    """Measure a model on the validation images of a feed."""
    return _measured(model, feed.validation(), precision)


def _measured(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], precision: Literal["float32", "bf16"]
) -> Metrics:
    """Measure a model, and leave it in the mode it was in."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    tallies = []
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        for inputs, truth in batches:
            tallies.append(tally(model(inputs.contiguous(memory_format=memory_format(device))), truth.to(device)))
    model.train(was_training)
    return metrics(reduce(add, tallies))


def resolve_precision(wanted: Precision, recipe: Recipe, device: torch.device) -> Literal["float32", "bf16"]:
    """What the steps run in: bfloat16 where the recipe allows it and the device has instructions for it.

    Measured: resnet18 with the small stem, 96 images of 32 px, 2 cores with avx512_bf16, torch 2.15: a step takes
    1.37 s in float32, 0.76 s channels-last, 0.43 s channels-last in bfloat16.
    """
    if wanted != "auto":
        return wanted
    if not recipe.amp:
        return "float32"
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device.type == "cpu" and cpu_has_bfloat16()
    return "bf16" if fast else "float32"


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimiser of a recipe. Decay is for every parameter, norms and biases too, as in the paper."""
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(),
            lr=recipe.lr,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
        )
    return torch.optim.AdamW(
        model.parameters(), lr=recipe.lr, betas=recipe.betas, eps=recipe.eps, weight_decay=recipe.weight_decay
    )


def memory_format(device: torch.device) -> torch.memory_format:
    """How tensors lie: channels-last wherever it is known (`resolve_precision` says what it gains)."""
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


def _identity(job: Job, recipe: Recipe, dataset: Dataset, precision: str) -> str:
    """What must be equal for one attempt to go on from another."""
    known = {
        "recipe": recipe_to_values(replace(recipe, name="", description="", expected={})),
        "split": [dataset.hash, job.split_seed, job.fraction],
        "precision": precision,
    }
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:12]
    return f"network {fingerprint(job.network)}, seed {job.seed}, settings {digest}"


def _check_finite(number: int, lr: float, train_loss: float, nll: float) -> None:
    for what, value in (("training loss", train_loss), ("validation loss", nll)):
        if not math.isfinite(value):
            raise Failed(
                Reason.DIVERGED,
                f"The {what} became {value} in epoch {number}, at a learning rate of {lr:.3g}. Try a lower one.",
            )


@contextmanager
def _settings(job: Job) -> Iterator[None]:
    """torch's process-wide settings for a job; a reused worker gets its own back."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    benchmark = torch.backends.cudnn.benchmark
    torch.set_num_threads(job.threads)
    torch.use_deterministic_algorithms(job.deterministic)
    torch.backends.cudnn.benchmark = not job.deterministic
    if job.deterministic:
        # cuBLAS reads it when its first handle is made, and is not deterministic without it.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
        torch.backends.cudnn.benchmark = benchmark


@contextmanager
def _named_failures() -> Iterator[None]:
    """A lack of memory, in all the ways it is reported, as a failure with a name."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _out_of_memory(error) from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        raise _out_of_memory(error) from error


def _out_of_memory(error: Exception) -> Failed:
    first = str(error).partition("\n")[0]
    return Failed(
        Reason.OUT_OF_MEMORY, f"Too little memory: {first}. Use a smaller batch, or fewer trainings a device."
    )
