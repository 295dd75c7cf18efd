"""What is to be analysed: a run's network, an exported folder, or any model of timm, with its weights."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from buildup.engine.export import best_training, find_candidate
from buildup.engine.load_state import state_of
from buildup.engine.train import TRAINING, network_of
from buildup.errors import RequestError, RunError
from buildup.graph.network import Network
from buildup.graph.serialize import network_from_values
from buildup.models.build import build
from buildup.models.dropout import add_dropout
from buildup.models.pretrained import find_pretrained, load_pretrained
from buildup.settings import AnalyzeSettings
from buildup.store.run_dir import folder_of, trained_weights
from buildup.store.run_record import open_record
from buildup.training.data import describe_data
from buildup.training.recipe import Recipe, load_recipe, recipe_from_values
from buildup.trials.training import WEIGHTS

UNTRAINED = (
    "its weights are random. A run, a training's folder and an export have trained ones, and so has --pretrained"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A model by its name, and what is known of its training."""

    label: str
    model: nn.Module
    recipe: Recipe
    dataset: str
    data_dir: str | None
    image_size: int | None
    split_seed: int = 0
    """Says which images it was validated on."""
    by_name: bool = False
    """Whether it was made by its name in timm, so that `--pretrained` says something about it."""
    note: str = ""


def find_model(name: str, settings: AnalyzeSettings) -> Found:
    """The model of a name, with the dropout of its recipe: a run, a training's or an export's folder, a timm name."""
    found = _find(name, settings)
    if found.recipe.dropout:
        # What timm made of an export is not told apart from what we make ourselves: both say which network they are.
        add_dropout(found.model, network_from_values(_model_args(found)["network"]), found.recipe.dropout)
    return found


def _model_args(found: Found) -> dict[str, Any]:
    arguments: Any = getattr(found.model, "_model_args", None)
    if arguments is None:
        raise RequestError(f"{found.label}: which network it is is not known, so its recipe's dropout has no place.")
    return dict(arguments)


def _find(name: str, settings: AnalyzeSettings) -> Found:
    run, mark, candidate = name.partition(":")
    if (folder_of(run) / "run.yaml").is_file():
        return _of_run(run, candidate if mark else None, settings)
    if (Path(name) / TRAINING).is_file():
        return _of_training(Path(name), settings)
    if not settings.dataset:
        raise RequestError(f"--dataset is missing: what is {name} to see?")
    known: dict[str, Any] = {
        "recipe": load_recipe(settings.recipe or "paper"),
        "dataset": settings.dataset,
        "data_dir": settings.data_dir,
    }
    if (Path(name) / "config.json").is_file():
        model: Any = timm.create_model(f"local-dir:{name}", pretrained=True)
        return Found(label=Path(name).name, model=model, image_size=model.pretrained_cfg["input_size"][-1], **known)
    data = describe_data(settings.dataset, settings.data_dir)
    network = network_of(name, None, data)
    model, note = build(network, seed=0), UNTRAINED
    if settings.pretrained:
        file = "" if settings.pretrained is True else settings.pretrained
        load_pretrained(model, network, find_pretrained(network, name, file))
        note = _left_random(network)
    return Found(label=name, model=model, image_size=data.image_size, by_name=True, note=note, **known)


def _left_random(network: Network) -> str:
    """What trained weights of a base do not reach."""
    parts = ["its small stem"] if any(to == "3x3" for _, to in network.shrunk) else []
    trained: Any = timm.get_pretrained_cfg(network.base)
    parts += ["its classifier"] if trained.num_classes != network.num_classes else []
    return f"the weights of {' and '.join(parts)} are random" if parts else ""


def _of_run(name: str, candidate: str | None, settings: AnalyzeSettings) -> Found:
    """A network of a run, the best one unless another is named, with the weights of its best training."""
    run = open_record(name)
    view, history = state_of(run)
    chosen = view.best if candidate is None else find_candidate(run, view, candidate)
    training, _ = best_training(run, history, chosen)
    model = build(chosen.network, seed=0)
    load_weights(model, run.trainings / training)
    return Found(
        label=f"{run.name} {chosen.layout}",
        model=model,
        recipe=load_recipe(settings.recipe) if settings.recipe else run.recipe,
        dataset=settings.dataset or run.settings.dataset,
        data_dir=settings.data_dir or run.settings.data_dir,
        image_size=chosen.network.input_shape[1],
        split_seed=run.data.split_seed,
    )


def _of_training(place: Path, settings: AnalyzeSettings) -> Found:
    path = place / TRAINING
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        network = network_from_values(values["network"])
        recipe = recipe_from_values(values["recipe"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: damaged, or not written by this version of buildup ({error}).") from error
    model = build(network, seed=0)
    load_weights(model, place)
    return Found(
        label=place.name,
        model=model,
        recipe=load_recipe(settings.recipe) if settings.recipe else recipe,
        dataset=settings.dataset or values["dataset"],
        data_dir=settings.data_dir or values["data_dir"],
        image_size=network.input_shape[1],
    )


def load_weights(model: nn.Module, training: Path) -> None:
    """Give a model the weights that a training has left."""
    weights = trained_weights(training)
    if weights is None:
        raise RunError(f"{training} has no {WEIGHTS}: the training has not ended, or they were removed.")
    try:
        model.load_state_dict(load_file(weights))
    except (OSError, SafetensorError) as error:
        raise RunError(f"{weights}: no weights that can be read: {error}") from error
    except RuntimeError as error:
        raise RunError(f"{weights}: weights of another network: {str(error).splitlines()[-1].strip()}") from error
