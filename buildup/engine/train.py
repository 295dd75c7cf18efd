"""`train`: one training of any timm model or layout by a recipe, in this process: no Ray and no study."""

import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import timm
import torch

from buildup.cli.signals import interruptible
from buildup.engine.problems import Problems
from buildup.engine.progress import say
from buildup.errors import BaseError, RunError, SearchError
from buildup.execution.attempt import run_attempt
from buildup.graph.network import Network
from buildup.graph.serialize import network_to_values
from buildup.models.pretrained import find_pretrained
from buildup.models.read import read
from buildup.report.words import duration
from buildup.space.load import load
from buildup.store.atomic_write import write_atomic
from buildup.store.run_dir import attempt_folder, attempts, cores, final_record
from buildup.strategies.moves import from_layout, start
from buildup.training.data import DataInfo, describe_data, open_data, parse_fraction
from buildup.training.device import check_device
from buildup.training.execution import Execution, parse_execution
from buildup.training.fit import Job, fit
from buildup.training.recipe import Recipe, load_recipe, recipe_to_values
from buildup.training.speed import choose
from buildup.trials.outcome import Epoch, Failure, Record, Score, record_to_values
from buildup.trials.training import WEIGHTS

EXECUTION = "execution.json"
TRAINING = "training.json"
"""What was trained on what, for those who look at it later."""


def train(flags: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Train, and give back what came of it. The same command goes on after any stop."""
    job, place = _request(flags)
    number = max(attempts(place), default=0) + 1
    folder = attempt_folder(place, number)
    folder.mkdir(parents=True)
    write_atomic(place / EXECUTION, json.dumps(asdict(job.execution)).encode())
    write_atomic(place / TRAINING, json.dumps(_described(job)).encode())
    with interruptible():
        record = _follow(job, folder)
    outcome = record.outcome
    if isinstance(outcome, Failure):
        raise SearchError(f"{place}: the training failed ({outcome.reason.value}): {outcome.message.strip()}")
    values = {
        "folder": str(folder),
        "weights": str(folder / WEIGHTS),
        "execution": asdict(job.execution),
        **record_to_values(record),
    }
    for name in ("correct", "losses"):  # for programs they are in the final record
        values["score"].pop(name)
    return _text(outcome, job, folder), values


def _request(flags: Mapping[str, Any]) -> tuple[Job, Path]:
    problems = Problems()
    if not flags["dataset"]:
        problems.found.append("--dataset is missing.")
    recipe, data, network, share, device = None, None, None, 1.0, "cpu"
    with problems.caught():
        recipe = load_recipe(flags["recipe"] or "quick")
    epochs = problems.whole("--epochs", flags["epochs"], recipe.epochs if recipe else 1, most=100_000)
    seed = problems.whole("--seed", flags["seed"], 0, least=0, most=2**31 - 1)
    with problems.caught():
        share = parse_fraction(flags["fraction"] or "1")
    with problems.caught():
        device = check_device(flags["device"] or "auto")
    threads = problems.whole("--threads", flags["threads"], cores(), most=4096)
    settled: dict[str, Any] = {}
    with problems.caught():
        settled = parse_execution(flags["execution"], device) if flags["execution"] else {}
    if flags["dataset"]:
        with problems.caught():
            data = describe_data(flags["dataset"], flags["data_dir"], fraction=share)
    if data:
        with problems.caught():
            network = network_of(flags["name"], flags["layout"], data, flags["space"])
    if network and recipe and recipe.dropout and not network.stages:
        problems.found.append(f"{recipe.name}: dropout is {recipe.dropout:g}, and {network.base} has no blocks for it.")
    start = None
    if network and flags["pretrained"] is not None:
        with problems.caught():
            start = find_pretrained(network, flags["name"], flags["pretrained"])
    problems.raise_any()
    assert recipe is not None
    assert data is not None
    assert network is not None
    recipe = recipe.with_epochs(epochs) if epochs != recipe.epochs else recipe

    place = Path(flags["to"] or f"trainings/{flags['name']}-{Path(flags['dataset']).name}-s{seed}")
    if final_record(place) is not None:
        raise RunError(f"{place}: this training is finished. Name another folder with --to, or remove that one.")
    earlier = attempts(place)
    kept = place / EXECUTION
    # Measured once: a second measurement may choose otherwise, and the training would not go on from its checkpoint.
    if earlier and kept.is_file():
        execution = Execution(**json.loads(kept.read_text(encoding="utf-8")))
    else:
        execution = _execution(network, recipe, data, device, threads, settled)
    job = Job(
        network=network,
        seed=seed,
        dataset=flags["dataset"],
        data_dir=flags["data_dir"],
        data_hash=open_data(flags["dataset"], flags["data_dir"], data.image_size, recipe).hash,
        image_size=data.image_size,
        fraction=share,
        start=start,
        recipe=recipe,
        device=device,
        threads=threads,
        execution=execution,
        folder=str(attempt_folder(place, max(earlier, default=0) + 1)),
        resume_from=str(attempt_folder(place, earlier[-1])) if earlier else None,
    )
    return job, place


def network_of(name: str, layout: str | None, data: DataInfo, space: str | None = None) -> Network:
    """The network of a layout or of a name, as a space has it; a model that can't be a base is one without stages."""
    shape = (data.channels, data.image_size, data.image_size)
    try:
        base = read(name, input_shape=shape, num_classes=data.num_classes)
    except BaseError:
        if layout or space or not timm.is_model(name.partition(".")[0]):
            raise
        return _whole(name.partition(".")[0], shape, data.num_classes)
    if layout:
        return from_layout(layout, base, load(space or "alternet"))
    return start(base, load(space)) if space else base


def _whole(name: str, shape: tuple[int, int, int], num_classes: int) -> Network:
    arguments: dict[str, Any] = {"img_size": shape[1]}
    with torch.device("meta"):
        try:
            timm.create_model(name, **arguments)
        except TypeError:  # it takes images of any size
            arguments = {}
    return Network(
        base=name,
        base_args=arguments,
        input_shape=shape,
        num_classes=num_classes,
        stages=(),
        edges=(("stem", "head"),),
    )


def _described(job: Job) -> dict[str, Any]:
    return {
        "network": network_to_values(job.network),
        "recipe": recipe_to_values(job.recipe),
        "dataset": job.dataset,
        "data_dir": job.data_dir,
        "image_size": job.image_size,
    }


def _execution(
    network: Network, recipe: Recipe, data: DataInfo, device: str, threads: int, settled: dict[str, Any]
) -> Execution:
    resolved = recipe.resolved(train_images=data.train_images)
    steps = resolved.epochs * max(1, data.train_images // resolved.batch_size)
    return choose(network, resolved, device=device, threads=threads, steps=steps, settled=settled)[0].execution


def _follow(job: Job, folder: Path) -> Record:
    say(f"{job.network.base} on {job.dataset}, {job.execution}, in {folder}")
    with closing(run_attempt(fit, job, folder)) as steps:
        while True:
            try:
                epoch = next(steps)
            except StopIteration as end:
                return cast(Record, end.value)
            say(_line(epoch, job.recipe.epochs))


def _line(epoch: Epoch, epochs: int) -> str:
    found = epoch.metrics
    return (
        f"epoch {epoch.number:{len(str(epochs))}} of {epochs}  loss {found['train_loss']:.3f}  "
        f"accuracy {found['accuracy']:.2f} %  {found['throughput']:.0f} images/s"
    )


def _text(score: Score, job: Job, folder: Path) -> str:
    found = score.metrics
    wide = max(map(len, found))
    return "\n".join([
        f"{score.accuracy:.2f} % of {score.images:,} validation images after {job.recipe.epochs} epochs, "
        f"{duration(score.seconds)}.",
        *(f"  {name:{wide}}  {value:.4g}" for name, value in found.items()),
        f"Weights: {folder / WEIGHTS}",
    ])  # fmt: skip
