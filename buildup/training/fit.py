"""One training: data, split, model, optimiser, epochs, score."""

import errno
import hashlib
import json
import math
import os
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from math import ceil
from statistics import fmean

import numpy as np
import torch
from safetensors import SafetensorError
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from buildup.errors import DataError
from buildup.graph.network import Network
from buildup.graph.serialize import fingerprint
from buildup.training import checkpoint
from buildup.training.augmentation import epoch_seed
from buildup.training.data import open_data
from buildup.training.data_parallel import ALONE, ProcessGroup
from buildup.training.dataset import Dataset, shared_split, split
from buildup.training.execution import (
    device_kind,
    give_memory_back,
    is_out_of_memory,
    keep_freed_memory,
    reading_processes,
    share_of_memory,
    torch_settings,
)
from buildup.training.execution_words import Execution
from buildup.training.feed import Feed, StreamedDataset, batch_starts, check_shared, on_device
from buildup.training.metrics import Metrics
from buildup.training.processes import in_processes
from buildup.training.recipe import Recipe, learning_rate, recipe_to_values
from buildup.training.train_step import (
    Stepper,
    create_training_model,
    make_optimizer,
    nudge,
    prepare_model,
    renew_last_block,
)
from buildup.training.transplant import transplant
from buildup.training.validation import validate
from buildup.trials.outcome import IMITATION, START, Epoch, Failed, Reason, Score
from buildup.trials.training import Pretrained

SEGMENT = 100
"""Steps after which the draws of the network begin anew, so that a training can go on from the middle of an epoch."""
RETRY_PARTS = 2
"""Micro-batches of a batch in the one retry after memory ran out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The settings of a training of one candidate with one seed, as a worker gets them."""

    network: Network
    seed: int
    """Determines first weights, data order and augmentation."""
    dataset: str
    data_dir: str | None = None
    data_hash: str | None = None
    """The hash of the data when the run began; other data is refused."""
    image_size: int | None = None
    streamed: bool | None = None
    """Whether images are read anew in each epoch; None to let the memory of this machine say so."""
    fraction: float = 1.0
    """Share of the images left for training that are trained on. The others are validated on, too."""
    whole: bool = False
    """Whether to train on the validation images too, as the final test does. Their accuracy then measures nothing."""
    split_seed: int | None = None
    """The seed of a split that all trainings share, as runs before version 0.3.0 have it."""
    start: Pretrained | None = None
    """The pretrained weights that the blocks of the base start from."""
    nudged: bool = False
    """Whether the first weights are changed in their last digit, to see what rounding does to the score."""
    renewed: bool = False
    """Whether the last block starts from new weights in place of pretrained ones, to see what those alone gain."""
    recipe: Recipe
    device: str = "cpu"
    device_share: float = 1.0
    """The share of a GPU that the training may use, beside others on it."""
    processes: int = 1
    """How many share each batch, on CUDA with a GPU each. Their steps are eager."""
    threads: int = 1
    """CPU threads of each process."""
    execution: Execution = field(default_factory=Execution)
    """The same for all trainings of a run."""
    folder: str
    """Where this attempt writes."""
    resume_from: tuple[str, ...] = ()
    """The folders of earlier attempts, which are only read: the one to resume from first."""


def fit(job: Job) -> Generator[Epoch, None, Score]:
    """Train, yield each epoch, and return the score.

    An attempt resumes from the checkpoint of an earlier one as if it had not been interrupted. It yields the epochs of
    that one again, because the listener may have died before it wrote them down.

    Raises:
        Failed: The training diverged, found its disk full, did not fit into memory, even with each batch in parts, or
            lost one of its processes.
    """
    yielded: list[Epoch] = []
    try:
        return (yield from _attempt(job, yielded, parts=1))
    except Failed as failed:
        if failed.reason is not Reason.OUT_OF_MEMORY or job.recipe.batch_size < 2 * RETRY_PARTS * job.processes:
            raise
        checkpoint.append_log(job.folder, f"{failed.message} Once more, with each batch in {RETRY_PARTS} parts.")
    # Outside of the except clause: inside, the error would hold all that filled the memory.
    if job.device.startswith("cuda") and job.processes == 1:
        give_memory_back()
    again = replace(job, resume_from=(job.folder, *job.resume_from))
    return (yield from _attempt(again, yielded, parts=RETRY_PARTS))


def _attempt(job: Job, yielded: list[Epoch], *, parts: int) -> Generator[Epoch, None, Score]:
    """Train with each batch in `parts` micro-batches. Epochs in `yielded` are not yielded again; new ones are added."""
    train = partial(_train_as, job, yielded, parts)
    return (yield from train(ALONE) if job.processes == 1 else in_processes(train, job.processes, job.device, yielded))


def _train_as(job: Job, yielded: list[Epoch], parts: int, group: ProcessGroup) -> Generator[Epoch, None, Score]:
    if group.size > 1 and job.device.startswith("cuda"):
        job = replace(job, device=f"cuda:{group.rank}")
    if job.device == "cpu":
        keep_freed_memory()
    with (
        torch_settings(job.threads, deterministic=job.execution.deterministic),
        share_of_memory(job.device, job.device_share),
        _named_failures(job),
    ):
        return (yield from _train(job, yielded, parts, group))


def _train(job: Job, yielded: list[Epoch], parts: int, group: ProcessGroup) -> Generator[Epoch, None, Score]:
    dataset, feed = _images(job, group)
    recipe, train, val = feed.recipe, feed.train, feed.val
    model = create_training_model(job.network, recipe, seed=job.seed, device=feed.device, start=job.start)
    if job.nudged:
        nudge(model)
    if job.renewed:
        renew_last_block(model, job.network, job.seed)
    # Eager in parts, too: after memory ran out in a capture, older versions of torch can't capture again.
    execution = replace(job.execution, steps="eager") if group.size > 1 or parts > 1 else job.execution
    model = prepare_model(model, job.network, execution)
    optimizer = make_optimizer(model, recipe, execution)
    average = ModelEmaV3(model, recipe.ema, use_warmup=True) if recipe.ema else None
    kept = model if average is None else average.module

    found: Metrics | None = None
    how = device_kind(job.device), recipe.snapshot_epochs, kept
    with checkpoint.Checkpoints(job.folder, _identity(job, recipe, dataset), model, optimizer, *how) as saved:
        curve, part = _restored(saved, job, optimizer, kept, group)
        stepper = Stepper(model, optimizer, recipe, execution, parts=parts, group=group, average=average)
        steps = len(batch_starts(len(train), recipe.batch_size))
        stepper.made = len(curve) * steps + (part.step if part else 0)
        for line in _log_header(job, feed, parts) if group.leads else ():
            checkpoint.append_log(job.folder, line)
        if len(curve) < recipe.epochs:
            model.train()
            shape = (len(group.rows(min(recipe.batch_size, len(train)))), *job.network.input_shape)
            stepper.capture(
                torch.zeros(shape, device=feed.device), torch.zeros(shape[0], dataset.num_classes, device=feed.device)
            )
        for epoch in curve[len(yielded) :]:
            yielded.append(epoch)
            yield epoch
        ended = time.perf_counter() - (part.seconds if part else 0)
        known = {} if curve or part else _start_metrics(job, model, feed, parts)
        for number in range(len(curve) + 1, recipe.epochs + 1):
            part = part or checkpoint.PartialEpoch(known=known if number == 1 else {})
            epoch, found = _train_epoch(job, feed, stepper, number, saved, part, since=ended)
            part = None
            ended += epoch.metrics["seconds"]
            curve.append(epoch)
            if group.leads:
                saved.add(curve, last=number == recipe.epochs)
            if number > len(yielded):
                yielded.append(epoch)
                yield epoch
    if found is None:  # an earlier attempt trained to the end and left no score
        found = validate(kept, feed, Execution())
    if group.leads:
        saved.finish()
    return _score(job, found, curve, torch.isin(torch.arange(len(dataset.labels)), val), saved.devices)


def _restored(
    saved: checkpoint.Checkpoints, job: Job, optimizer: torch.optim.Optimizer, kept: nn.Module, group: ProcessGroup
) -> tuple[list[Epoch], checkpoint.PartialEpoch | None]:
    """Resume an earlier attempt. The first process reads and shares its state, `ProcessGroup.spread` the weights."""
    curve = saved.start(job.resume_from) if group.leads else []
    if group.size == 1:
        return curve, saved.part
    averaged = kept.state_dict() if job.recipe.ema else {}
    curve, part, state, averaged = group.share((curve, saved.part, optimizer.state_dict(), averaged))
    if not group.leads:
        optimizer.load_state_dict(state)
        if averaged:
            kept.load_state_dict(averaged)
    return curve, part


def _images(job: Job, group: ProcessGroup) -> tuple[Dataset | StreamedDataset, Feed]:
    """The data of a training in host memory, and what feeds the training with it, by its seed and device."""
    device = torch.device(job.device)
    dataset = open_data(job.dataset, job.data_dir, job.image_size, job.recipe, job.streamed)
    _check_data(job, dataset)
    train, val = split_for(dataset, job.seed, job.split_seed, job.fraction)
    if job.whole:
        train = torch.cat((train, val)).sort().values
    recipe = job.recipe.resolved(train_images=len(train))
    check_shared(group.size, recipe, train_images=len(train), val_images=len(val))
    feed = Feed(
        recipe=recipe,
        dataset=on_device(dataset, device, job.device_share) if isinstance(dataset, Dataset) else dataset,
        train=train,
        val=val,
        seed=job.seed,
        device=device,
        workers=reading_processes(device, job.threads, job.device_share),
        group=group,
    )
    return dataset, feed


def _score(job: Job, found: Metrics, curve: Sequence[Epoch], validated: Tensor, devices: Sequence[str]) -> Score:
    first = {name: curve[0].metrics[name] for name in (START, IMITATION) if name in curve[0].metrics}
    throughput = fmean(epoch.metrics["throughput"] for epoch in curve)
    return Score(
        accuracy=found.accuracy,
        metrics={**found.values, **first, "throughput": throughput},
        correct=np.packbits(found.correct.numpy()).tobytes(),
        losses=found.losses.numpy().astype("<f2").tobytes(),
        images=len(found.correct),
        validated=np.packbits(validated.numpy()).tobytes() if job.split_seed is None else None,
        seconds=sum(epoch.metrics["seconds"] for epoch in curve),
        device=", ".join(devices),
    )


def imitation_error(job: Job) -> float | None:
    """The error with which new blocks imitate, as the training would begin; None if none has to learn.

    Raises:
        Failed: Memory did not suffice.
    """
    assert job.start, "there are trained weights to imitate"
    if job.device == "cpu":
        keep_freed_memory()
    settings = torch_settings(job.threads, deterministic=job.execution.deterministic)
    with settings, share_of_memory(job.device, job.device_share), _named_failures(job):
        _, feed = _images(job, ALONE)
        model = create_training_model(job.network, feed.recipe, seed=job.seed, device=feed.device, start=job.start)
        model = prepare_model(model, job.network, job.execution)
        return transplant(model, job.network, job.start, feed, job.execution)


def _start_metrics(job: Job, model: nn.Module, feed: Feed, parts: int) -> dict[str, float]:
    """What a pretrained network knows before epoch 1, after new blocks have imitated those that they replace."""
    if job.start is None:
        return {}
    error = transplant(model, job.network, job.start, feed, job.execution, parts=parts)
    accuracy = validate(model, feed, job.execution).accuracy
    known = {START: accuracy} if error is None else {START: accuracy, IMITATION: error}
    if feed.group.leads:
        imitated = "" if error is None else f"; new blocks imitate with an error of {error:.3f}"
        checkpoint.append_log(job.folder, f"accuracy before the first epoch: {accuracy:.2f} %{imitated}")
    return known


def _train_epoch(
    job: Job,
    feed: Feed,
    stepper: Stepper,
    number: int,
    saved: checkpoint.Checkpoints,
    part: checkpoint.PartialEpoch,
    *,
    since: float,
) -> tuple[Epoch, Metrics]:
    """Train an epoch, or what is left of it, and validate.

    Its seconds are those since the end of the last one, checkpoint included.
    """
    recipe = feed.recipe
    starts = batch_starts(len(feed.train), recipe.batch_size)
    started = time.perf_counter()
    first, sums = part.step, part.sums.to(feed.device)
    stepper.model.train()
    for step, (inputs, targets) in enumerate(feed.epoch(number, first), first):
        if step % SEGMENT == 0:
            # The draws of the network itself (dropped paths) depend on the epoch and the segment, so that a resumed
            # training repeats them.
            rank, begins = feed.group.rank or "", f"from step {step}" if step else ""
            purpose = " ".join(filter(None, ("network", str(rank), begins)))
            torch.manual_seed(epoch_seed(job.seed, number, purpose))
            if step > first:
                sums = sums + torch.stack(stepper.take_sums())
                if feed.group.leads:
                    saved.add_part(replace(part, step=step, sums=sums, seconds=time.perf_counter() - since))
        lr = learning_rate(recipe, (number - 1) * len(starts) + step, len(starts))
        if feed.group.size > 1:
            stepper.images = min(recipe.batch_size, len(feed.train) - starts[step])
        stepper(inputs, targets, lr)

    seen = min(len(feed.train), starts[-1] + recipe.batch_size)
    # The sums are read only now, because reading them in a step would make it wait for the device.
    train_loss, hits = ((total / seen).item() for total in sums + torch.stack(stepper.take_sums()))
    trained = time.perf_counter()
    if number < recipe.epochs:
        # Where few images are trained on, validating on all others would take longer than the epoch.
        found = validate(stepper.kept, feed, job.execution, every=ceil(len(feed.val) / len(feed.train)))
    else:
        # The score is that of the exported network in float32: bfloat16 can give an image two equally good classes.
        found = validate(stepper.kept, feed, Execution())
    for what, value in (("training loss", train_loss), ("validation loss", found.nll)):
        if not math.isfinite(value):
            message = f"The {what} became {value} in epoch {number}, at a learning rate of {lr:.3g}. Try a lower one."
            raise Failed(Reason.DIVERGED, message)
    values = {
        **found.values,
        "train_loss": train_loss,
        "train_accuracy": 100 * hits,
        "dead_weights": stepper.dead_weights(),
        "lr": lr,
        "throughput": (seen - starts[first]) / (trained - started),
        "seconds": time.perf_counter() - since,
        **part.known,
    }
    return Epoch(number=number, metrics=values), found


def split_for(
    dataset: Dataset | StreamedDataset, seed: int, split_seed: int | None, fraction: float
) -> tuple[Tensor, Tensor]:
    if split_seed is None:
        return split(dataset, seed, fraction=fraction)
    return shared_split(dataset, split_seed, fraction=fraction)


def _log_header(job: Job, feed: Feed, parts: int) -> Iterator[str]:
    recipe = feed.recipe
    yield (
        f"{fingerprint(job.network)} seed {job.seed}: {len(feed.train)} images, {len(feed.val)} to "
        f"validate on, batch {recipe.batch_size}{f' in {parts} parts' if parts > 1 else ''}, lr {recipe.lr:.4g}, "
        f"{job.execution} on {f'{feed.group.size} x ' if feed.group.size > 1 else ''}{feed.device}"
    )
    if job.start:
        yield f"the blocks of the base start from {job.start}"
    if job.fraction < 1:
        yield f"a share of {job.fraction:g} of the training images, for as many epochs: fewer steps, not more epochs"
    if job.whole:
        yield "all training images are trained on, so accuracy on the validation images is no measure here"
    if feed.dataset.origin:
        yield f"{feed.dataset.name}: {feed.dataset.origin}"


def _check_data(job: Job, dataset: Dataset | StreamedDataset) -> None:
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
            f"then {str(job.data_hash)[:12]}). Restore the files of then, or start a new run"
        )
    if problems:
        raise DataError(*(f"{dataset.name}: {problem}." for problem in problems))


def _identity(job: Job, recipe: Recipe, dataset: Dataset | StreamedDataset) -> str:
    """The settings that must be equal for one attempt to resume from another."""
    known = {
        "recipe": recipe_to_values(replace(recipe, name="", description="", expected={}, snapshots=())),
        "split": [dataset.hash, "own fold" if job.split_seed is None else job.split_seed, job.fraction],
        "execution": str(job.execution),
        **({"start": job.start.hash} if job.start else {}),
        **({"whole": True} if job.whole else {}),
    }
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:12]
    return f"network {fingerprint(job.network)}, seed {job.seed}, settings {digest}"


@contextmanager
def _named_failures(job: Job) -> Iterator[None]:
    """Raise `Failed` for a lack of memory or of disk space, in all the ways in which libraries report it."""
    try:
        yield
    except (MemoryError, OSError, RuntimeError, SafetensorError) as error:
        said = str(error)
        if is_out_of_memory(error):
            first = said.partition("\n")[0]
            message = f"Too little memory: {first}. Use a smaller batch, or fewer trainings a device."
            raise Failed(Reason.OUT_OF_MEMORY, message) from error
        # safetensors has the system's message without its number, and torch.save hides the message.
        signs = (os.strerror(errno.ENOSPC), "PytorchStreamWriter", "unexpected pos")
        number = error.errno if isinstance(error, OSError) else None
        if number in (errno.ENOSPC, errno.EDQUOT) or any(sign in said for sign in signs):
            cause = os.strerror(number) if number else "the disk seems to be full"
            raise Failed(
                Reason.DISK_FULL,
                f"{job.folder} can't be written: {cause}. Free some space there; what was saved before is whole.",
            ) from error
        raise
