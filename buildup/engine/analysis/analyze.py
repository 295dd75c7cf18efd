"""All measurements asked for of a model, or of several side by side, written down as numbers and figures."""

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from buildup.diagnostics.analysis import QUICK, Measurement, Sizes, Subject, find_measurements
from buildup.diagnostics.hessian import BATCH, augmented_batches
from buildup.diagnostics.hooks import evaluating, fingerprint
from buildup.diagnostics.memory import free_memory
from buildup.diagnostics.units import find_units
from buildup.engine.analysis.measuring import measure, plain
from buildup.engine.analysis.subjects import Found, find_model
from buildup.engine.problems import Problems
from buildup.errors import DataError, RequestError, ResourceError
from buildup.report.analysis_page import Section, analysis_page
from buildup.settings import AnalyzeSettings
from buildup.store.run_dir import write_atomic
from buildup.training.data import load_data
from buildup.training.dataset import Dataset, split
from buildup.training.execution import check_device
from buildup.training.recipe import recipe_to_values

logger = logging.getLogger("buildup")


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """What was measured."""

    folder: Path
    """Where numbers and figures are, all of them in its `index.html`."""
    identity: Mapping[str, Any]
    """What the numbers depend on."""
    summaries: Mapping[str, Mapping[str, Any]]
    """By measurement and model the few numbers it comes down to; by `left out` why a measurement could not be made."""


def analyze(model: str, settings: AnalyzeSettings) -> Analysis:
    """Measure, and write numbers and figures. The same call goes on after any stop.

    Args:
        model: A run, RUN:CANDIDATE, the folder of a training or an export, or a timm model.
        settings: What is measured of it, and on what; `verdicts` has a function of its own.
    """
    request = _check(model, settings)
    subjects = _subjects(request, settings)
    wanted, notes = _measurable(request, subjects)
    identity = _identity(request, settings, subjects)
    label = re.sub(r"[^\w.-]+", "-", request.models[0].label).strip("-")
    folder = Path(settings.out or f"analyses/{label}-{Path(request.models[0].dataset).name}")
    before = [fingerprint(subject.model) for subject in subjects]
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    for measurement in wanted:
        try:
            found[measurement.name] = measure(measurement, subjects, folder, identity)
        except RequestError as error:
            if not request.asks_all:
                raise
            logger.warning(f"{measurement.name}: left out. {error}")
            found[measurement.name] = {"left out": str(error)}
    assert before == [fingerprint(subject.model) for subject in subjects], "a measurement changed its model"
    analysis = Analysis(folder=folder, identity=identity, summaries=found)
    write_atomic(folder / "summary.json", json.dumps(plain(analysis_values(analysis)), indent=2).encode())
    write_atomic(folder / "index.html", _page(subjects, wanted, found, folder, identity, notes).encode())
    return analysis


def analysis_values(analysis: Analysis) -> dict[str, Any]:
    """The same as plain values."""
    return {"folder": str(analysis.folder), "identity": analysis.identity, "summaries": analysis.summaries}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """A request of which every field was checked."""

    models: Sequence[Found]
    wanted: Sequence[Measurement]
    asks_all: bool
    """Whether what can't be measured is left out, and not refused."""
    sizes: Sizes
    passes: int
    """With dropout, of the ensemble."""
    seed: int
    device: torch.device


def _check(model: str, settings: AnalyzeSettings) -> _Request:
    """The request behind the settings; all that is wrong is said at once."""
    problems = Problems()
    asks_all = settings.what == "all"
    wanted: list[Measurement] = []
    with problems.caught():
        wanted = find_measurements(None if asks_all else settings.what.split(","))
    passes = 0
    if settings.mc_dropout is not None:
        passes = problems.whole("--mc-dropout", settings.mc_dropout, 0, most=10_000)
        asked = {measurement.name for measurement in wanted}
        if asked and not asked & {"calibration", "ensemble"}:
            problems.found.append("--mc-dropout is for --what calibration, which is not asked for.")
        wanted += find_measurements(["ensemble"]) if "ensemble" not in asked else []
    device = "cpu"
    with problems.caught():
        device = check_device(settings.device)
    seed = problems.whole("--seed", settings.seed, 0, least=0, most=2**31 - 1)
    sizes = QUICK if settings.quick else Sizes()
    sizes = replace(sizes, images=problems.whole("--images", settings.images, sizes.images))
    models = []
    for name in (model, *(settings.compare or "").split(",")):
        with problems.caught():
            models += [find_model(name, settings)] if name else []
    labels = [found.label for found in models]
    problems.found += [f"{label} is named twice." for label in sorted(set(labels)) if labels.count(label) > 1]
    if settings.pretrained and models and not any(found.by_name for found in models):
        problems.found.append("--pretrained is for models by their name in timm; these have weights of their own.")
    problems.raise_any()
    if settings.corruptions and "corruption" not in [measurement.name for measurement in wanted]:
        raise RequestError("--corruptions is for --what corruption, which is not asked for.")
    return _Request(
        models=models,
        wanted=wanted,
        asks_all=asks_all,
        sizes=sizes,
        passes=passes,
        seed=seed,
        device=torch.device(device),
    )


def _subjects(request: _Request, settings: AnalyzeSettings) -> list[Subject]:
    """The models with what they are measured on."""
    made = (_subject(model, request.sizes, request.wanted, request.seed, request.device) for model in request.models)
    subjects = [
        replace(subject, restate=settings.restate, corruptions=settings.corruptions, mc_dropout=request.passes)
        for subject in made
    ]
    for measurement in request.wanted:
        measurement.check(subjects)
    return subjects


def _measurable(request: _Request, subjects: Sequence[Subject]) -> tuple[list[Measurement], list[str]]:
    """What can be measured of these models, and what a reader must know of them first."""
    wanted, notes = list(request.wanted), []
    blind = [subject for subject in subjects if _classes(subject) != subject.images.num_classes]
    if blind and (labelled := [measurement.name for measurement in wanted if measurement.needs_labels]):
        problem = (
            f"{blind[0].label} tells {_classes(blind[0])} classes apart and {blind[0].images.name} has "
            f"{blind[0].images.num_classes}: {', '.join(labelled)} can't be measured."
        )
        if not request.asks_all:
            raise DataError(problem)
        notes.append(problem)
        wanted = [measurement for measurement in wanted if not measurement.needs_labels]
    notes += [f"{model.label}: {model.note}." for model in request.models if model.note]
    for note in notes:
        logger.warning(note)
    return wanted, notes


def _identity(request: _Request, settings: AnalyzeSettings, subjects: Sequence[Subject]) -> dict[str, Any]:
    """What the numbers depend on."""
    recipe = json.dumps(recipe_to_values(request.models[0].recipe), sort_keys=True)
    return {
        "models": {subject.label: fingerprint(subject.model)[:16] for subject in subjects},
        "images": {subject.label: _described(subject.images) for subject in subjects},
        "recipe": hashlib.sha256(recipe.encode()).hexdigest()[:16],
        "restate": settings.restate,
        "corruptions": settings.corruptions or "generated",
        "sizes": asdict(request.sizes),
        "seed": request.seed,
    }


def _subject(found: Found, sizes: Sizes, wanted: Sequence[Measurement], seed: int, device: torch.device) -> Subject:
    data = load_data(found.dataset, found.data_dir, found.image_size)
    train, val = split(data, found.split_seed)
    model = found.model.to(device)
    broken = [name for name, weight in model.state_dict().items() if not torch.isfinite(weight).all()]
    if broken:
        raise DataError(f"{found.label}: {len(broken)} of its tensors hold what is no number, {broken[0]} first.")
    image = torch.zeros(1, data.channels, data.image_size, data.image_size, device=device)
    try:
        with torch.no_grad(), evaluating(model):
            model(image)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise DataError(f"{found.label} can't take images of {data.name}, {tuple(image.shape[1:])}: {error}") from error
    # Kept as they are, so that all that is measured on them sees the same; at 224 px a gigabyte is soon full.
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
        weight_decay=found.recipe.weight_decay,
        sizes=sizes,
        seed=seed,
    )


def _check_room(found: Found, data: Dataset, images: int, device: torch.device) -> None:
    """Refuse augmented images and directions that memory would not hold."""
    weights = sum(weight.numel() for weight in found.model.parameters())
    needed = 4 * (images * data.channels * data.image_size**2 + 4 * weights)
    free = free_memory(device)
    if images and needed > free:
        raise ResourceError(
            f"{found.label}: hessian and landscape keep {images:,} augmented images of {data.image_size} px and four "
            f"copies of {weights:,} weights, {needed / 2**30:.1f} GiB; {free / 2**30:.1f} GiB are free. --quick keeps "
            "fewer images, and --what can leave both out."
        )


def _described(images: Dataset) -> str:
    return f"{len(images.labels)} of {images.name}, from the validation part of its training set, {images.hash[:16]}"


def _classes(subject: Subject) -> int:
    return subject.units[-1].channels


def _page(
    subjects: Sequence[Subject],
    measurements: Sequence[Measurement],
    found: Mapping[str, Any],
    folder: Path,
    identity: Mapping[str, Any],
    notes: Sequence[str],
) -> str:
    sections = []
    for measurement in measurements:
        what, numbers = measurement.name, found[measurement.name]
        left_out = numbers.get("left out", "")
        sections.append(
            Section(
                what=what,
                title=measurement.title,
                words=measurement.words,
                numbers={} if left_out else numbers,
                figure="" if left_out else (folder / f"{what}.svg").read_text(encoding="utf-8"),
                left_out=left_out,
            )
        )
    facts = {
        "weights": ", ".join(f"{label} {digest}" for label, digest in identity["models"].items()),
        "images": next(iter(identity["images"].values())),
        "seed": identity["seed"],
    }
    return analysis_page(" beside ".join(subject.label for subject in subjects), facts, sections, identity, notes)
