"""One training, read from top to bottom: data, split, model, optimiser, epochs, score."""

import errno
import hashlib
import json
import math
import os
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add
from statistics import fmean

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from buildup.errors import DataError
from buildup.graph.network import Network
from buildup.graph.serialize import fingerprint
from buildup.models.pretrained import Pretrained
from buildup.training import checkpoint as attempt
from buildup.training.data import open_data, split
from buildup.training.dataset import Dataset
from buildup.training.device import torch_settings
from buildup.training.draws import epoch_seed
from buildup.training.execution import Execution
from buildup.training.feed import Feed, Resident, batch_starts, on_device
from buildup.training.metrics import Metrics, metrics, tally
from buildup.training.recipe import Recipe, learning_rate, recipe_to_values
from buildup.training.step import Stepper, create_training_model, laid_out, make_optimizer, prepare
from buildup.training.stream import Stream, Streamed
from buildup.trials.outcome import Epoch, Failed, Reason, Score

PARTS_AFTER_LACK = 2
"""Micro-batches of the one retry after memory ran out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """All that a worker needs to train one candidate with one seed."""

    network: Network
    seed: int
    """Decides over first weights, data order and augmentation."""
    dataset: str
    data_dir: str | None = None
    data_hash: str | None = None
    """What the data was when the run began; other data is refused."""
    image_size: int | None = None
    fraction: float = 1.0
    """Share of the training images; the validation images stay the same."""
    whole: bool = False
    """Whether the validation images are trained on, too, as `final` does; their accuracy is then no measure."""
    split_seed: int = 0
    start: Pretrained | None = None
    """The trained weights that the base's own blocks begin with."""
    recipe: Recipe
    device: str = "cpu"
    threads: int = 1
    execution: Execution = field(default_factory=Execution)
    """How its steps are computed, the same for all trainings of a run."""
    folder: str
    """Where this attempt writes."""
    resume_from: str | None = None
    """The folder of an earlier attempt, which is only read."""


def fit(job: Job) -> Generator[Epoch, None, Score]:
    """Train, giving an epoch at a time, and give back the score.

    An attempt goes on from the checkpoint of an earlier one as if it had not been interrupted, and tells the epochs
    that it remembers once more: whoever listened then may have died before they were written down. `Failed` is raised
    for a training that diverged, found its disk full, or did not fit into memory, even in two parts.
    """
    with torch_settings(job.threads, deterministic=job.execution.deterministic):
        try:
            with _named_failures(job):
                return (yield from _train(job, parts=1, told=0))
        except Failed as failed:
            if failed.reason is not Reason.OUT_OF_MEMORY or job.recipe.batch_size < 2 * PARTS_AFTER_LACK:
                raise
            attempt.log(job.folder, f"{failed.message} Once more, with each batch in {PARTS_AFTER_LACK} parts.")
        # Outside of the except clause: while that lasts, the error holds all that filled the memory.
        if job.device.startswith("cuda"):
            torch.cuda.empty_cache()
        told = attempt.epochs_done(job.folder)
        with _named_failures(job):
            again = replace(job, resume_from=job.folder if told else job.resume_from)
            return (yield from _train(again, parts=PARTS_AFTER_LACK, told=told))


def _train(job: Job, *, parts: int, told: int) -> Generator[Epoch, None, Score]:
    """A training whose first epochs were told already, with its batches in so many parts."""
    device = torch.device(job.device)
    dataset = open_data(job.dataset, job.data_dir, job.image_size, job.recipe)
    _check_fit(job, dataset)
    train, val = split(dataset, job.split_seed, fraction=job.fraction)
    if job.whole:
        train = torch.cat((train, val)).sort().values
    recipe = job.recipe.resolved(train_images=len(train))
    feed = _feed(recipe, dataset, train, val, seed=job.seed, device=device, threads=job.threads)

    model = create_training_model(job.network, recipe, seed=job.seed, device=device, start=job.start)
    model = prepare(model, job.network, job.execution)
    optimizer = make_optimizer(model, recipe, job.execution)
    batches = batch_starts(feed.train_images, recipe.batch_size)

    identity = _identity(job, recipe, dataset)
    curve = attempt.begin(job.folder, job.resume_from, identity, model, optimizer)
    for line in _opening(job, recipe, feed, dataset, parts):
        attempt.log(job.folder, line)
    yield from curve[told:]

    stepper = Stepper(model, optimizer, recipe, job.execution, parts=parts)
    if len(curve) < recipe.epochs:
        model.train()
        shape = (min(recipe.batch_size, feed.train_images), *job.network.input_shape)
        stepper.capture(torch.zeros(shape, device=device), torch.zeros(shape[0], feed.num_classes, device=device))
    found: Metrics | None = None
    for number in range(len(curve) + 1, recipe.epochs + 1):
        started = time.perf_counter()
        # What a network draws itself (dropped paths) starts anew with each epoch, so a resumed one draws the same.
        torch.manual_seed(epoch_seed(job.seed, number, "network"))
        model.train()
        for step, (inputs, targets) in enumerate(feed.epoch(number)):
            lr = learning_rate(recipe, (number - 1) * len(batches) + step, len(batches))
            stepper(inputs, targets, lr)

        seen = min(feed.train_images, batches[-1] + recipe.batch_size)
        # Only now are they read: in a step that would make it wait for the device.
        train_loss, hits = ((total / seen).item() for total in stepper.take_sums())
        trained = time.perf_counter()
        # The score is that of the network as it is exported, and bfloat16 can give an image two equally good classes.
        found = validate(model, feed, job.execution if number < recipe.epochs else Execution())
        _check_finite(number, lr, train_loss, found.nll)
        epoch = Epoch(
            number=number,
            metrics={
                **found.values,
                "train_loss": train_loss,
                "train_accuracy": 100 * hits,
                "dead_weights": stepper.dead_weights(),
                "lr": lr,
                "throughput": seen / (trained - started),
                "seconds": time.perf_counter() - started,
            },
        )
        curve.append(epoch)
        attempt.save(job.folder, identity, model, optimizer, curve)
        yield epoch

    if found is None:  # an earlier attempt trained to the end and left no score
        found = validate(model, feed, Execution())
    attempt.finish(job.folder, identity, model, curve, found.bins)
    return Score(
        accuracy=found.accuracy,
        metrics={**found.values, "throughput": fmean(epoch.metrics["throughput"] for epoch in curve)},
        correct=np.packbits(found.correct.numpy()).tobytes(),
        losses=found.losses.numpy().astype("<f2").tobytes(),
        images=feed.val_images,
        seconds=sum(epoch.metrics["seconds"] for epoch in curve),
    )


def examine(model: nn.Module, images: Dataset | Streamed, recipe: Recipe, *, threads: int) -> Metrics:
    """Measure a model on all images of a set, as trainings by a recipe measure theirs on the validation images."""
    device, everything = next(model.parameters()).device, torch.arange(len(images.labels))
    feed = _feed(recipe, images, everything[:0], everything, seed=0, device=device, threads=threads)
    return validate(model, feed, Execution())


def validate(model: nn.Module, feed: Feed, execution: Execution) -> Metrics:
    """Measure a model on the validation images of a feed, and leave it in the mode it was in."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    tallies = []
    with (
        torch.inference_mode(),
        # Blocks are compiled for training; anew for this would cost more than it gives.
        torch.compiler.set_stance("force_eager"),
        torch.autocast(device.type, torch.bfloat16, enabled=execution.precision == "bf16"),
    ):
        for inputs, labels in feed.validation():
            tallies.append(tally(model(laid_out(inputs, execution)), labels.to(device)))
    model.train(was_training)
    return metrics(reduce(add, tallies))


def _feed(
    recipe: Recipe,
    dataset: Dataset | Streamed,
    train: Tensor,
    val: Tensor,
    *,
    seed: int,
    device: torch.device,
    threads: int,
) -> Feed:
    if isinstance(dataset, Dataset):
        there = on_device(dataset, device)
        return Resident(recipe=recipe, dataset=there, train=train, val=val, seed=seed, device=device)
    # Beside a GPU the threads have little else to do; on a CPU they are all in the steps.
    workers = threads if device.type == "cuda" else 0
    return Stream(recipe=recipe, dataset=dataset, train=train, val=val, seed=seed, device=device, workers=workers)


def _opening(job: Job, recipe: Recipe, feed: Feed, dataset: Dataset | Streamed, parts: int) -> Iterator[str]:
    """What a log begins with."""
    yield (
        f"{fingerprint(job.network)} seed {job.seed}: {feed.train_images} images, {feed.val_images} to "
        f"validate on, batch {recipe.batch_size}{f' in {parts} parts' if parts > 1 else ''}, lr {recipe.lr:.4g}, "
        f"{job.execution} on {job.device}"
    )
    if job.start:
        yield f"blocks of the base's own start from {job.start}"
    if job.fraction < 1:
        yield f"a share of {job.fraction:g} of the training images, for as many epochs: fewer steps, not more epochs"
    if job.whole:
        yield "all training images are trained on, so accuracy on the validation images is no measure here"
    if dataset.origin:
        yield f"{dataset.name}: {dataset.origin}"


def _check_fit(job: Job, dataset: Dataset | Streamed) -> None:
    """Refuse data that the network cannot take, or that is not what the run began with."""
    channels, height, _ = job.network.input_shape
    problems = []
    if job.network.num_classes != dataset.num_classes:
        problems.append(f"it has {dataset.num_classes} classes, and the network tells {job.network.num_classes} apart")
    if channels != dataset.channels:
        problems.append(f"its images have {dataset.channels} channels, and the network takes {channels}")
    if height != dataset.image_size:
        problems.append(f"its images have {dataset.image_size} px, and the network was made for {height}")
    if job.data_hash not in (None, dataset.hash):
        problems.append(
            f"it is not the data that the run began with ({len(dataset.labels)} images, hash {dataset.hash[:12]}; "
            f"then {str(job.data_hash)[:12]}). Give back the files of then, or start a new run"
        )
    if problems:
        raise DataError(*(f"{dataset.name}: {problem}." for problem in problems))


def _identity(job: Job, recipe: Recipe, dataset: Dataset | Streamed) -> str:
    """What must be equal for one attempt to go on from another."""
    known = {
        "recipe": recipe_to_values(replace(recipe, name="", description="", expected={})),
        "split": [dataset.hash, job.split_seed, job.fraction],
        "execution": str(job.execution),
        **({"start": job.start.hash} if job.start else {}),
        **({"whole": True} if job.whole else {}),
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
def _named_failures(job: Job) -> Iterator[None]:
    """A lack of memory or of disk, in all the ways it is reported, as a failure with a name."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _out_of_memory(error) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _disk_full(job, error) from error
    except SafetensorError as error:  # it tells what the system said in words only
        if os.strerror(errno.ENOSPC) not in str(error):
            raise
        raise _disk_full(job, error) from error
    except RuntimeError as error:
        if "can't allocate memory" in str(error):
            raise _out_of_memory(error) from error
        # torch.save hides what the disk said.
        if "PytorchStreamWriter" in str(error) or "unexpected pos" in str(error):
            raise _disk_full(job, error) from error
        raise


def _out_of_memory(error: Exception) -> Failed:
    first = str(error).partition("\n")[0]
    return Failed(
        Reason.OUT_OF_MEMORY, f"Too little memory: {first}. Use a smaller batch, or fewer trainings a device."
    )


def _disk_full(job: Job, error: Exception) -> Failed:
    said = error.strerror if isinstance(error, OSError) else "the disk seems to be full"
    return Failed(
        Reason.DISK_FULL,
        f"{job.folder} can't be written: {said}. Free some space there; what was saved before is whole.",
    )
