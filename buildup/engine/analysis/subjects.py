"""The models that `analyze` can name, with their data: networks of runs, trainings, exports and timm models."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import timm
import torch
from torch import nn

from buildup.diagnostics.analysis import Measurement, Sizes, Subject
from buildup.diagnostics.hessian import BATCH, augmented_batches
from buildup.diagnostics.hooks import evaluation_mode
from buildup.diagnostics.landscape import free_memory
from buildup.diagnostics.units import find_units
from buildup.engine.export import best_training, find_candidate
from buildup.engine.load_model import load_trained
from buildup.engine.load_state import state_of
from buildup.engine.train import TRAINING, find_network
from buildup.errors import DataError, RequestError, ResourceError, RunError, unknown
from buildup.graph.base_name import parse_base
from buildup.graph.serialize import network_from_values
from buildup.models.build import build
from buildup.models.dropout import add_dropout
from buildup.models.pretrained import find_pretrained, load_pretrained
from buildup.models.read import PRUNED
from buildup.settings import AnalyzeSettings
from buildup.store.run_dir import folder_of
from buildup.store.run_record import open_record
from buildup.training.data import describe_data, load_data, open_data
from buildup.training.dataset import Dataset, parse_fraction
from buildup.training.fit import split_for
from buildup.training.recipe import Recipe, load_recipe, recipe_from_values, recipe_to_values
from buildup.trials.training import seed_of

UNTRAINED = (
    "its weights are random. A run, a training's folder and an export have trained ones, and so has --pretrained"
)
UNKNOWN_IMAGES = (
    "its folder does not say which images it was trained on, so hessian and landscape may use others, and the other "
    "measurements may use images that it was trained on"
)

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalyzedModel:
    """A model, and the data and recipe of its training."""

    label: str
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


def find_model(name: str, settings: AnalyzeSettings) -> AnalyzedModel:
    """The model of a name, with the dropout of its recipe: a run, a training's or an export's folder, a timm name."""
    found = _find(name, settings)
    if found.recipe.dropout:
        # Models of exports and models built here both hold the network that they were built from.
        arguments: Any = getattr(found.model, "_model_args", None)
        if arguments is None:
            raise RequestError(f"{found.label}: its network is not known, so the dropout of its recipe can't be added.")
        add_dropout(found.model, network_from_values(arguments["network"]), found.recipe.dropout)
    return found


def _find(name: str, settings: AnalyzeSettings) -> AnalyzedModel:
    run, mark, candidate = name.partition(":")
    if (folder_of(run) / "run.yaml").is_file():
        return _of_run(run, candidate if mark else None, settings)
    if (Path(name) / TRAINING).is_file():
        return _of_training(Path(name), settings)
    if (Path(name) / "config.json").is_file():
        return _of_export(Path(name), settings)
    model_name = parse_base(name)[0].partition(".")[0]
    if not timm.is_model(model_name) and model_name not in PRUNED:
        near = unknown("model", name, timm.list_models(), listed_by="`buildup models`")
        raise RequestError(
            f"{near} It is no run either (`buildup ls` lists them), and no folder of a training or an export."
        )
    _check_dataset(name, settings)
    known: dict[str, Any] = {
        "recipe": load_recipe(settings.recipe or "paper"),
        "dataset": settings.dataset,
        "data_dir": settings.data_dir,
    }
    data = describe_data(known["dataset"], settings.data_dir)
    network = find_network(name, None, data)
    model, note = build(network, seed=0), UNTRAINED
    if settings.pretrained:
        file = "" if settings.pretrained is True else settings.pretrained
        load_pretrained(model, network, find_pretrained(network, name, file))
        parts = ["its small stem"] if any(to == "3x3" for _, to in network.shrunk) else []
        trained: Any = timm.get_pretrained_cfg(network.base)
        parts += ["its classifier"] if trained.num_classes != network.num_classes else []
        note = f"the weights of {' and '.join(parts)} are random" if parts else ""
    return AnalyzedModel(label=name, model=model, image_size=data.image_size, by_name=True, note=note, **known)


def _of_run(name: str, candidate: str | None, settings: AnalyzeSettings) -> AnalyzedModel:
    """A network of a run, by default the best one, with the weights of its best training."""
    run = open_record(name)
    view, history = state_of(run)
    chosen = view.best if candidate is None else find_candidate(run, view, candidate)
    training, _ = best_training(run, history, chosen)
    return AnalyzedModel(
        label=f"{run.folder.name} {chosen.layout}",
        model=load_trained(chosen.network, run.trainings / training),
        recipe=load_recipe(settings.recipe) if settings.recipe else run.recipe,
        dataset=settings.dataset or run.settings.dataset,
        data_dir=settings.data_dir or run.settings.data_dir,
        image_size=chosen.network.input_shape[1],
        seed=seed_of(training),
        split_seed=run.data.split_seed,
        fraction=parse_fraction(run.settings.fraction),
        trained_here=not settings.dataset or settings.dataset == run.settings.dataset,
        data_hash=None if settings.dataset or settings.recipe else run.data.hash,
    )


def _of_training(place: Path, settings: AnalyzeSettings) -> AnalyzedModel:
    values, network = _read(place / TRAINING, lambda values: network_from_values(values["network"]))
    return AnalyzedModel(
        label=place.name,
        model=load_trained(network, place),
        image_size=network.input_shape[1],
        **_data_of(values, settings),
    )


def _of_export(place: Path, settings: AnalyzeSettings) -> AnalyzedModel:
    """An export. Those of versions before 0.4.0 do not say how they were trained."""
    _, values = _read(place / "config.json", lambda values: values.get("training"))
    if values is None:
        _check_dataset(str(place), settings)
        values = {"recipe": recipe_to_values(load_recipe("paper")), "dataset": settings.dataset}
    model: Any = timm.create_model(f"local-dir:{place}", pretrained=True)
    return AnalyzedModel(
        label=place.name,
        model=model,
        image_size=model.pretrained_cfg["input_size"][-1],
        **_data_of(values, settings),
    )


def _check_dataset(name: str, settings: AnalyzeSettings) -> None:
    if not settings.dataset:
        raise RequestError(f"--dataset is missing: which images shall {name} be measured on?")


def _read(path: Path, wanted: Callable[[dict[str, Any]], Found]) -> tuple[dict[str, Any], Found]:
    """The values of a file, and what is wanted of them."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return values, wanted(values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path}: damaged, or not written by this version of buildup ({error}).") from error


def _data_of(values: Mapping[str, Any], settings: AnalyzeSettings) -> dict[str, Any]:
    """The data and the recipe that a file names, unless the settings name others."""
    known = "fraction" in values
    here = not settings.dataset or settings.dataset == values["dataset"]
    return {
        "recipe": load_recipe(settings.recipe) if settings.recipe else recipe_from_values(values["recipe"]),
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
    """A model on its device, with its units and with the data that these measurements need."""
    place = (found.dataset, found.data_dir, found.image_size)
    data = load_data(*place)
    if found.data_hash not in (None, data.hash) and open_data(*place, found.recipe).hash != found.data_hash:
        raise DataError(
            f"{found.dataset}: this is not the data that {found.label} was trained on. Give back its files."
        )
    train, val = split_for(data, found.seed, found.split_seed, found.fraction)
    digest = hashlib.sha256(train.numpy().tobytes()).hexdigest()[:16]
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
        model=model,
        units=find_units(model, image),
        images=data.part(shown),
        train_batches=batches,
        train_images=f"{len(train)} of {len(data.labels)} images of {data.name}, "
        f"{'those of its training' if found.trained_here else 'a fold that is not known to be its own'}, {digest}",
        weight_decay=found.recipe.weight_decay,
        sizes=sizes,
        seed=seed,
    )


def _check_room(found: AnalyzedModel, data: Dataset, images: int, device: torch.device) -> None:
    """Refuse augmented images and directions that do not fit into memory."""
    weights = sum(weight.numel() for weight in found.model.parameters())
    needed = 4 * (images * data.channels * data.image_size**2 + 4 * weights)
    free = free_memory(device)
    if images and needed > free:
        raise ResourceError(
            f"{found.label}: hessian and landscape keep {images:,} augmented images of {data.image_size} px and four "
            f"copies of {weights:,} weights, {needed / 2**30:.1f} GiB; {free / 2**30:.1f} GiB are free. --quick keeps "
            "fewer images, and --what can leave both out."
        )
