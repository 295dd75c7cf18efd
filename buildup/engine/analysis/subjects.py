"""The models that `analyze` can name, with their data: networks of runs, trainings, exports and timm models."""

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from buildup.diagnostics.analysis import Measurement, Sizes, Subject
from buildup.diagnostics.hessian import BATCH, augmented_batches
from buildup.diagnostics.landscape import free_memory
from buildup.diagnostics.units import find_units
from buildup.engine.export import find_candidate, load_trained, scored_trainings, training_values
from buildup.engine.load_state import state_of
from buildup.engine.train import TRAINING, find_network
from buildup.errors import DataError, RecipeError, RequestError, ResourceError, RunError, unknown
from buildup.graph.base_name import parse_base
from buildup.graph.network import Network
from buildup.graph.serialize import network_from_values
from buildup.models.bases import PRUNED
from buildup.models.build import build
from buildup.models.dropout import add_dropout
from buildup.models.pretrained import find_pretrained, fresh_modules, load_pretrained
from buildup.models.trace import evaluation_mode
from buildup.settings import AnalyzeSettings
from buildup.store.run_dir import folder_of, kept_snapshots, trained_weights
from buildup.store.run_record import open_record
from buildup.training.data import describe_data, load_data, streamed_hashes
from buildup.training.dataset import Dataset
from buildup.training.execution import check_device
from buildup.training.fit import split_for
from buildup.training.recipe import WARMUP, Recipe, load_recipe, recipe_from_values
from buildup.trials.outcome import short_hash
from buildup.trials.training import seed_of

log = logging.getLogger("buildup")

UNTRAINED = (
    "its weights are random. A run, a training's folder and an export have trained ones, and so has --pretrained"
)
UNKNOWN_IMAGES = (
    "its folder does not say which images it was trained on, so hessian and landscape may use others, and the other "
    "measurements may use images that it was trained on"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalyzedModel:
    """A model, and the data and recipe of its training."""

    label: str
    series: str = ""
    """The training that it is a phase of; `epoch` is the one after which its weights were kept."""
    epoch: int | None = None
    model: nn.Module
    recipe: Recipe
    dataset: str
    data_dir: str | None
    image_size: int | None
    seed: int = 0
    """With `split_seed` and `fraction`, decides which images it was trained and validated on."""
    split_seed: int | None = None
    fraction: float = 1.0
    trained_here: bool = False
    """Whether it was trained on the images of this fold."""
    data_hash: str | None = None
    """The hash of the data that it was trained on, as its recipe opens them; None where it is not known or not used."""
    by_name: bool = False
    """Whether it was named by its timm name, so that `--pretrained` applies."""
    note: str = ""


def find_models(name: str, settings: AnalyzeSettings) -> list[AnalyzedModel]:
    """The models of a name, with the dropout of their recipe: several for all phases of a training.

    A name is a run, the folder of a training or of an export, or a timm name; a run or a training may name a phase.
    """
    found = _find(name, settings)
    for one in found:
        if one.recipe.dropout:
            # Models of exports and models built here both hold the network that they were built from.
            arguments: Any = getattr(one.model, "_model_args", None)
            if arguments is None:
                raise RequestError(
                    f"{one.label}: its network is not known, so the dropout of its recipe can't be added."
                )
            add_dropout(one.model, network_from_values(arguments["network"]), one.recipe.dropout)
    return found


def _find(name: str, settings: AnalyzeSettings) -> list[AnalyzedModel]:
    place, mark, phase = name.rpartition("@")
    if not mark or Path(name).exists():
        place, phase = name, ""
    drive, rest = os.path.splitdrive(place)  # the colon of C:\runs\demo is not that of RUN:CANDIDATE
    run, named, candidate = rest.partition(":")
    run = drive + run
    if (folder_of(run) / "run.yaml").is_file():
        return _phases(_of_run(run, candidate if named else None, settings), phase)
    if (Path(place) / TRAINING).is_file():
        folder = Path(place)
        with _undamaged(folder / TRAINING) as values:
            network, recipe = network_from_values(values["network"]), recipe_from_values(values["recipe"])
        data = _data_of(values, recipe, settings)
        found = _Training(label=folder.name, network=network, folder=folder, recipe=recipe, data=data)
        return _phases(found, phase)
    if phase:
        raise RequestError(f"{name}: {place} is neither a run nor the folder of a training, so it has no phases.")
    return [_of_export(Path(name), settings) if (Path(name) / "config.json").is_file() else _by_name(name, settings)]


def measuring_device(name: str) -> str:
    """The device for measurements: the CPU in place of an Apple GPU, which lacks float64 and second derivatives."""
    device = check_device(name)
    if device != "mps":
        return device
    log.warning("warning: --device mps lacks what some measurements need; the CPU makes them all.")
    return "cpu"


def _by_name(name: str, settings: AnalyzeSettings) -> AnalyzedModel:
    model_name = parse_base(name)[0].partition(".")[0]
    if not timm.is_model(model_name) and model_name not in PRUNED:
        near = unknown("model", name, timm.list_models(), listed_by="`buildup models`")
        raise RequestError(
            f"{near} It is no run either (`buildup ls` lists them), and no folder of a training or an export."
        )
    dataset = _dataset(name, settings)
    data = describe_data(dataset, settings.data_dir)
    network = find_network(name, None, data)
    model, note = build(network, seed=0), UNTRAINED
    if settings.pretrained not in (None, False):
        start = find_pretrained(network, name, settings.pretrained)
        load_pretrained(model, network, start)
        parts = fresh_modules(network, start)
        note = f"the weights of {' and '.join(parts)} are random" if parts else ""
    return AnalyzedModel(
        label=name,
        model=model,
        image_size=data.image_size,
        by_name=True,
        note=note,
        recipe=load_recipe(settings.recipe or "paper"),
        dataset=dataset,
        data_dir=settings.data_dir,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Training:
    """A training, whose weights at some epochs are on disk."""

    label: str
    network: Network
    folder: Path
    recipe: Recipe
    data: Mapping[str, Any]
    """The fields of its models that say what they are measured on."""


def _phases(training: _Training, phase: str) -> list[AnalyzedModel]:
    """A training at one of its phases, at all of them, or, without a name, at its end."""
    last = training.recipe.epochs
    snapshots = {epoch: path for epoch, path in kept_snapshots(training.folder).items() if epoch < last}
    names = {epoch: str(epoch) for epoch in (*snapshots, last)}
    if training.recipe.warmup_end in snapshots:
        names[training.recipe.warmup_end] = WARMUP
    chosen = [*names] if phase == "all" else [_epoch(training, phase, names) if phase else last]
    return [
        AnalyzedModel(
            label=f"{training.label}@{names[epoch]}" if phase else training.label,
            series=training.label,
            epoch=epoch,
            model=load_trained(training.network, training.folder, snapshots.get(epoch)),
            image_size=training.network.input_shape[1],
            **training.data,
        )
        for epoch in chosen
    ]


def _epoch(training: _Training, phase: str, names: Mapping[int, str]) -> int:
    where, recipe = f"{training.label}@{phase}", training.recipe
    if phase == WARMUP and not recipe.warmup_epochs:
        raise RequestError(f"{where}: its recipe {recipe.name} has no warm-up.")
    if phase != WARMUP and not phase.isdecimal():
        raise RequestError(f"{where}: a phase is {WARMUP}, an epoch, or all.")
    epoch = recipe.warmup_end if phase == WARMUP else int(phase)
    if not 1 <= epoch <= recipe.epochs:
        raise RequestError(f"{where}: the training has the epochs 1 to {recipe.epochs}.")
    if epoch not in names:
        *kept, last = names.values()
        there = f"those of {', '.join(kept)} and of the end, {last}" if kept else f"only those of the end, {last}"
        raise RequestError(
            f"{where}: the weights of this epoch were not kept; there are {there}. "
            f"`snapshots: [{phase}]` in a recipe keeps them."
        )
    return epoch


def _of_run(name: str, candidate: str | None, settings: AnalyzeSettings) -> _Training:
    """A network of a run, by default the best one, with the weights of its first seed, or of the one behind `/s`.

    Trainings with one seed share their images, so networks of a run are compared on the same ones.
    """
    run = open_record(name)
    view, history = state_of(run)
    asked, mark, seed = (candidate or "").partition("/s")
    chosen = view.best if candidate is None or (mark and not asked) else find_candidate(run, view, asked)
    trainings = [key for key in scored_trainings(run, history, chosen) if not mark or str(seed_of(key)) == seed]
    if not trainings:
        seeds = ", ".join(str(seed_of(key)) for key in scored_trainings(run, history, chosen))
        raise RequestError(f"{name}:{candidate}: {chosen.layout} was not trained with this seed; it has {seeds}.")
    training = next((key for key in trainings if trained_weights(run.trainings / key)), trainings[0])
    values = training_values(run, training) | {"data_dir": run.settings.data_dir}
    alike = {one.id for one in view.candidates if one.layout == chosen.layout}
    step = f", step {view.candidates.index(chosen)}" if len(alike) > 1 else ""
    return _Training(
        label=f"{run.folder.name} {chosen.layout}{step}{f' seed {seed}' if mark else ''}",
        network=chosen.network,
        folder=run.trainings / training,
        recipe=run.recipe,
        data=_data_of(values, run.recipe, settings),
    )


def _of_export(place: Path, settings: AnalyzeSettings) -> AnalyzedModel:
    """The model of an export. Early exports do not say how they were trained."""
    with _undamaged(place / "config.json") as config:
        values = config.get("training")
        recipe = recipe_from_values(values["recipe"]) if values else load_recipe("paper")
    values = values or {"dataset": _dataset(str(place), settings)}
    model: Any = timm.create_model(f"local-dir:{place}", pretrained=True)
    return AnalyzedModel(
        label=place.name,
        model=model,
        image_size=model.pretrained_cfg["input_size"][-1],
        **_data_of(values, recipe, settings),
    )


def _dataset(name: str, settings: AnalyzeSettings) -> str:
    if not settings.dataset:
        raise RequestError(f"--dataset is missing: which images shall {name} be measured on?")
    return settings.dataset


@contextmanager
def _undamaged(path: Path) -> Iterator[dict[str, Any]]:
    """The values of a JSON file; says which file is damaged where they are not as the block expects them."""
    try:
        yield json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecipeError) as error:
        raise RunError(f"{path}: damaged, or not written by this version of buildup ({error}).") from error


def _data_of(values: Mapping[str, Any], recipe: Recipe, settings: AnalyzeSettings) -> dict[str, Any]:
    """The data and the recipe of a training, unless the settings name others."""
    known = "fraction" in values
    here = not settings.dataset or settings.dataset == values["dataset"]
    return {
        "recipe": load_recipe(settings.recipe) if settings.recipe else recipe,
        "dataset": settings.dataset or values["dataset"],
        "data_dir": settings.data_dir or values.get("data_dir"),
        "seed": values.get("seed", 0),
        # Trainings before version 0.3.0 shared one split, and did not write their share of the images.
        "split_seed": values.get("split_seed", None if "seed" in values else 0),
        "fraction": values.get("fraction", 1.0),
        "trained_here": here and known,
        "data_hash": None if settings.dataset or settings.recipe else values.get("data_hash"),
        "note": UNKNOWN_IMAGES if here and not known else "",
    }


def make_subject(
    found: AnalyzedModel, sizes: Sizes, wanted: Sequence[Measurement], seed: int, device: torch.device
) -> Subject:
    place = (found.dataset, found.data_dir, found.image_size)
    data = load_data(*place)
    if found.data_hash not in {None, data.hash, *streamed_hashes(*place)}:
        raise DataError(
            f"{found.dataset}: this is not the data that {found.label} was trained on. Give back its files."
        )
    train, val = split_for(data, found.seed, found.split_seed, found.fraction)
    model = found.model.to(device)
    broken = [name for name, weight in model.state_dict().items() if not torch.isfinite(weight).all()]
    if broken:
        raise DataError(f"{found.label}: {len(broken)} of its tensors hold what is no number, {broken[0]} first.")
    image = torch.zeros(1, data.channels, data.image_size, data.image_size, device=device)
    try:
        with torch.no_grad(), evaluation_mode(model):
            model(image)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise DataError(f"{found.label} can't take images of {data.name}, {tuple(image.shape[1:])}: {error}") from error
    # Kept in memory, so that all measurements see the same images. At 224 px this can take gigabytes.
    count = max((measurement.train_batches(sizes) for measurement in wanted), default=0)
    _check_room(found, data, BATCH * count, device)
    batches = augmented_batches(data, found.recipe, train, seed=seed, device=device, count=count)
    shown = val[torch.randperm(len(val), generator=torch.Generator().manual_seed(seed))[: sizes.images].sort().values]
    return Subject(
        label=found.label,
        series=found.series,
        epoch=found.epoch,
        model=model,
        units=find_units(model, image),
        images=data.part(shown),
        train_batches=batches,
        train_images=f"{len(train)} of {len(data.labels)} images of {data.name}, "
        f"{'those of its training' if found.trained_here else 'a fold that is not known to be its own'}, "
        f"{short_hash(train.numpy().tobytes())}",
        weight_decay=found.recipe.weight_decay,
        sizes=sizes,
        seed=seed,
    )


def _check_room(found: AnalyzedModel, data: Dataset, images: int, device: torch.device) -> None:
    weights = sum(weight.numel() for weight in found.model.parameters())
    needed = 4 * (images * data.channels * data.image_size**2 + 4 * weights)
    free = free_memory(device)
    if images and needed > free:
        raise ResourceError(
            f"{found.label}: hessian, landscape and training keep {images:,} augmented images of {data.image_size} px "
            f"and four copies of {weights:,} weights, {needed / 2**30:.1f} GiB; {free / 2**30:.1f} GiB are free. "
            "--quick and --images N keep fewer images, and --what can leave them out."
        )
