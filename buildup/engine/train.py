"""`train`: train any timm model or layout once by a recipe, in this process, without Ray and a study."""

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch

from buildup.engine.problems import Problems
from buildup.engine.request import check_batches, measure_speeds, settled_execution
from buildup.errors import BaseError, RunError, SearchError
from buildup.execution.attempt import run_attempt
from buildup.files import cores, write_atomic
from buildup.graph.base_name import base_in_path, parse_base
from buildup.graph.network import Network
from buildup.graph.serialize import network_to_values
from buildup.models.bases import create_on_meta
from buildup.models.pretrained import find_pretrained, fresh_parts
from buildup.models.read import read_network
from buildup.settings import TrainSettings
from buildup.space.load import load
from buildup.store.run_dir import attempt_folder, attempts, final_record
from buildup.strategies.moves import from_layout, start
from buildup.training.data import describe_data, forget_data, open_data, open_first, readable_name
from buildup.training.dataset import DataInfo, Dataset, parse_fraction
from buildup.training.execution import check_device, device_count
from buildup.training.execution_words import Execution
from buildup.training.feed import StreamedDataset
from buildup.training.fit import Job, fit
from buildup.training.health import recipe_warning
from buildup.training.recipe import Recipe, load_recipe, recipe_to_values
from buildup.trials.outcome import Epoch, Failure, Record, Score, record_to_values
from buildup.trials.training import WEIGHTS, Pretrained

log = logging.getLogger("buildup")

EXECUTION = "execution.json"
FREE = ("name", "description", "expected", "snapshots")
"""What of a recipe may differ when a training goes on."""
TRAINING = "training.json"
"""The network, the recipe and the data of a training, for `analyze`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A finished training."""

    weights: Path
    epochs: int
    execution: Execution
    record: Record
    score: Score


def train_once(name: str, settings: TrainSettings) -> Trained:
    """Train a network once. After an interruption, the same call continues."""
    forget_data()
    job, place = prepare_job(name, settings)
    folder = Path(job.folder)
    described = {
        "network": network_to_values(job.network),
        "recipe": recipe_to_values(job.recipe),
        "dataset": job.dataset,
        "data_dir": job.data_dir,
        "data_hash": job.data_hash,
        "streamed": job.streamed,
        "start": job.start and job.start.hash,
        "image_size": job.image_size,
        "seed": job.seed,
        "fraction": job.fraction,
    }
    _check_begun(place, described)
    folder.mkdir(parents=True)
    write_atomic(place / EXECUTION, json.dumps(asdict(job.execution)).encode())
    write_atomic(place / TRAINING, json.dumps(described).encode())
    log.info(f"{job.network.title} on {job.dataset}, {job.execution}, in {folder}")
    if job.device == "cpu" and job.threads > 1 and (busy := _busy_cores()) + job.threads > cores() + 1:
        log.warning(
            f"warning: other programs use {busy:.0f} of {cores()} cores. Threads of a training wait for each other, so "
            f"--threads {max(1, cores() - round(busy))} may be several times as fast beside them."
        )
    epochs = job.recipe.epochs
    with closing(run_attempt(fit, job, folder)) as updates:
        for update in updates:
            if isinstance(update, Epoch):
                found = update.metrics
                log.info(
                    f"epoch {update.number:{len(str(epochs))}} of {epochs}  loss {found['train_loss']:.3f}  "
                    f"accuracy {found['accuracy']:.2f} %  {found['throughput']:.0f} images/s"
                )
    assert isinstance(update, Record), "the record comes last"
    outcome = update.outcome
    if isinstance(outcome, Failure):
        raise SearchError(f"{place}: the training failed ({outcome.reason.value}): {outcome.message.strip()}")
    weights, execution = folder / WEIGHTS, job.execution
    return Trained(weights=weights, epochs=epochs, execution=execution, record=update, score=outcome)


def _begun(place: Path) -> dict[str, Any]:
    """What is known of a training that was begun in a folder; empty if there is none."""
    path = place / TRAINING
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _check_begun(place: Path, described: Mapping[str, Any]) -> None:
    """Raise if another training was begun in this folder: one that could not go on from its checkpoints."""
    if not (begun := _begun(place)):
        return
    asked = json.loads(json.dumps(described))
    for values in (begun, asked):
        for name in FREE:
            values.get("recipe", {}).pop(name, None)
    kept = ("network", "recipe", "data_hash", "image_size", "seed", "fraction", "start")
    if other := [name.replace("_", " ") for name in kept if asked[name] != begun.get(name, asked[name])]:
        raise RunError(
            f"{place}: a training with another {' and '.join(other)} was begun there. Name another folder with --to, "
            f"or remove that one."
        )


def _images(
    place: Path, settings: TrainSettings, data: DataInfo, recipe: Recipe
) -> tuple[Dataset | StreamedDataset, bool | None]:
    """The training images, and whether they are streamed: as they were when the training began, maybe elsewhere."""
    where = settings.dataset, settings.data_dir, data.image_size
    if begun := _begun(place):
        return open_data(*where, recipe, begun.get("streamed")), begun.get("streamed")
    return open_first(*where, recipe)


def _busy_cores() -> float:
    """How many cores were in use in the last minute, as far as the system tells."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def trained_values(trained: Trained) -> dict[str, Any]:
    values = {
        "folder": str(trained.weights.parent),
        "weights": str(trained.weights),
        "execution": asdict(trained.execution),
        **record_to_values(trained.record),
    }
    for name in ("correct", "losses", "validated"):
        values["score"].pop(name)
    return values


def prepare_job(name: str, settings: TrainSettings) -> tuple[Job, Path]:
    """The job and the folder of the training. All problems are reported at once."""
    problems = Problems()
    if not settings.dataset:
        problems.found.append("--dataset is missing.")
    else:
        named = readable_name(settings.dataset, skip_unreadable=settings.skip_unreadable)
        settings = replace(settings, dataset=named)
    epochs = problems.whole("--epochs", settings.epochs, 0)
    recipe = problems.checked(None, load_recipe, settings.recipe, settings.set, epochs)
    seed = problems.whole("--seed", settings.seed, 0)
    share = problems.checked(1.0, parse_fraction, settings.fraction)
    device = problems.checked("cpu", check_device, settings.device)
    gpus = problems.whole("--gpus", settings.gpus, 1)
    if gpus > 1 and device != "cuda":
        problems.found.append(f"--gpus {gpus}: the device is {device}. GPUs share a training with --device cuda.")
    elif gpus > device_count(device):
        problems.found.append(f"--gpus {gpus}: this machine has {device_count(device)}.")
    threads = problems.whole("--threads", settings.threads, max(1, cores() // gpus))
    settled = problems.checked({}, settled_execution, settings.execution, device, gpus)
    data, network, start = _find(problems, name, settings, share, recipe)
    if recipe and data:
        problems.checked(None, check_batches, recipe, data, gpus)
    problems.raise_any()
    assert recipe is not None
    assert data is not None
    assert network is not None
    for warning in _warnings(network, recipe, start):
        log.warning("warning: %s", warning)

    place = Path(settings.to or f"trainings/{base_in_path(name)}-{Path(settings.dataset).name}-s{seed}")
    if final_record(place) is not None:
        raise RunError(f"{place}: this training is finished. Name another folder with --to, or remove that one.")
    earlier = attempts(place)
    if earlier and (path := place / EXECUTION).is_file():  # a checkpoint can only be continued with the same one
        execution = Execution(**json.loads(path.read_text(encoding="utf-8")))
        if settings.execution and any(getattr(execution, part) != value for part, value in settled.items()):
            log.warning(f"warning: --execution {settings.execution}: this training goes on as it began, {execution}.")
    else:
        execution = measure_speeds(network, recipe, data, device, threads, settled, processes=gpus)[0].execution
    images, streamed = _images(place, settings, data, recipe)
    job = Job(
        network=network,
        seed=seed,
        dataset=settings.dataset,
        data_dir=settings.data_dir,
        data_hash=images.hash,
        streamed=streamed,
        image_size=data.image_size,
        fraction=share,
        start=start,
        recipe=recipe,
        device=device,
        processes=gpus,
        threads=threads,
        execution=execution,
        folder=str(attempt_folder(place, max(earlier, default=0) + 1)),
        resume_from=tuple(str(attempt_folder(place, number)) for number in reversed(earlier)),
    )
    return job, place


def _warnings(network: Network, recipe: Recipe, start: Pretrained | None) -> Iterator[str]:
    """What starts anew beside trained weights, and what the recipe does not suit."""
    new = [kind.letter for kind in network.replaced.values()] if start else []
    yield from filter(None, (fresh_parts(network, start), recipe_warning(network, recipe, new)))


def _find(
    problems: Problems, name: str, settings: TrainSettings, share: float, recipe: Recipe | None
) -> tuple[DataInfo | None, Network | None, Pretrained | None]:
    """The data, the network and its pretrained weights; None for what cannot be loaded."""
    data, network, start = None, None, None
    if settings.dataset:
        size = problems.whole("--image-size", settings.image_size, 0, least=8) or None
        data = problems.checked(None, describe_data, settings.dataset, settings.data_dir, size, fraction=share)
    if data:
        network = problems.checked(None, find_network, name, settings.layout, data, settings.space)
    if network and recipe and recipe.dropout and not network.stages:
        problems.found.append(f"{recipe.name}: dropout is {recipe.dropout:g}, and {network.base} has no blocks for it.")
    if network and settings.pretrained not in (None, False):
        start = problems.checked(None, find_pretrained, network, name, settings.pretrained)
    return data, network, start


def find_network(name: str, layout: str | None, data: DataInfo, space: str | None = None) -> Network:
    """The network of a layout or of a timm model. A model that can't be a base becomes a network without stages."""
    shape = (data.channels, data.image_size, data.image_size)
    try:
        base = read_network(name, input_shape=shape, num_classes=data.num_classes)
    except BaseError:
        asked, arguments = parse_base(name)
        model = asked.partition(".")[0]
        if layout or space or not timm.is_model(model):
            raise
        return _whole(model, arguments, shape, data.num_classes)
    if layout:
        return from_layout(layout, base, load(space or "alternet"))
    return start(base, load(space)) if space else base


def _whole(name: str, asked: Mapping[str, Any], shape: tuple[int, int, int], num_classes: int) -> Network:
    arguments: dict[str, Any] = {"img_size": shape[1], **asked}
    with torch.device("meta"):
        try:
            timm.create_model(name, **arguments)
        except (TypeError, BaseError):  # it takes images of any size
            arguments = dict(asked)
            create_on_meta(name, arguments)
    return Network(
        base=name,
        base_args=arguments,
        input_shape=shape,
        num_classes=num_classes,
        stages=(),
        edges=(("stem", "head"),),
    )
