"""`analyze`: the paper's measurements on a run's network or any model of timm, as numbers and figures."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from buildup.cli.signals import interruptible
from buildup.diagnostics.analysis import QUICK, Measurement, Sizes, Subject, find_measurements
from buildup.diagnostics.hessian import BATCH, augmented_batches
from buildup.diagnostics.hooks import evaluating, fingerprint
from buildup.diagnostics.memory import free_memory
from buildup.diagnostics.units import find_units
from buildup.engine.measuring import measure, plain
from buildup.engine.problems import Problems
from buildup.engine.progress import say
from buildup.engine.subjects import Found, find_model
from buildup.engine.verdicts import verdicts
from buildup.errors import DataError, RequestError, ResourceError
from buildup.report.analysis_page import Section, analysis_page
from buildup.store.atomic_write import write_atomic
from buildup.training.data import load_data, split
from buildup.training.dataset import Dataset
from buildup.training.device import check_device
from buildup.training.recipe import recipe_to_values


def analyze(flags: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Measure, write numbers and figures, and give back the summaries. The same command goes on after any stop."""
    if flags["verdicts"]:
        return verdicts(flags)
    subjects, wanted, folder, identity, notes = _request(flags)
    before = [fingerprint(subject.model) for subject in subjects]
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    with interruptible():
        for measurement in wanted:
            try:
                found[measurement.name] = measure(measurement, subjects, folder, identity)
            except RequestError as error:
                if flags["what"] not in (None, "all"):
                    raise
                say(f"{measurement.name}: left out. {error}")
                found[measurement.name] = {"left out": str(error)}
    assert before == [fingerprint(subject.model) for subject in subjects], "a measurement changed its model"
    values = {"folder": str(folder), "identity": identity, "summaries": found}
    write_atomic(folder / "summary.json", json.dumps(plain(values), indent=2).encode())
    write_atomic(folder / "index.html", _page(subjects, wanted, found, folder, identity, notes).encode())
    return _text(found, folder), values


def _request(flags: Mapping[str, Any]) -> tuple[list[Subject], list[Measurement], Path, dict[str, Any], list[str]]:
    problems = Problems()
    wanted: list[Measurement] = []
    with problems.caught():
        wanted = find_measurements(None if flags["what"] in (None, "all") else flags["what"].split(","))
    passes = 0
    if flags["mc_dropout"] is not None:
        passes = problems.whole("--mc-dropout", flags["mc_dropout"], 0, most=10_000)
        asked = {measurement.name for measurement in wanted}
        if asked and not asked & {"calibration", "ensemble"}:
            problems.found.append("--mc-dropout is for --what calibration, which is not asked for.")
        wanted += find_measurements(["ensemble"]) if "ensemble" not in asked else []
    device = "cpu"
    with problems.caught():
        device = check_device(flags["device"] or "auto")
    seed = problems.whole("--seed", flags["seed"], 0, least=0, most=2**31 - 1)
    sizes = QUICK if flags["quick"] else Sizes()
    sizes = replace(sizes, images=problems.whole("--images", flags["images"], sizes.images))
    models = []
    for name in (flags["model"], *(flags["compare"] or "").split(",")):
        with problems.caught():
            models += [find_model(name, flags)] if name else []
    labels = [model.label for model in models]
    problems.found += [f"{label} is named twice." for label in sorted(set(labels)) if labels.count(label) > 1]
    if flags["pretrained"] is not None and models and not any(model.by_name for model in models):
        problems.found.append("--pretrained is for models by their name in timm; these have weights of their own.")
    problems.raise_any()
    if flags["corruptions"] and "corruption" not in [measurement.name for measurement in wanted]:
        raise RequestError("--corruptions is for --what corruption, which is not asked for.")
    made = (_subject(model, sizes, wanted, seed, torch.device(device)) for model in models)
    given = {"restate": bool(flags["restate"]), "corruptions": flags["corruptions"], "mc_dropout": passes}
    subjects = [replace(subject, **given) for subject in made]
    for measurement in wanted:
        measurement.check(subjects)
    notes = []
    blind = [subject for subject in subjects if _classes(subject) != subject.images.num_classes]
    if blind and (labelled := [measurement.name for measurement in wanted if measurement.needs_labels]):
        problem = (
            f"{blind[0].label} tells {_classes(blind[0])} classes apart and {blind[0].images.name} has "
            f"{blind[0].images.num_classes}: {', '.join(labelled)} can't be measured."
        )
        if flags["what"] not in (None, "all"):
            raise DataError(problem)
        notes.append(problem)
        wanted = [measurement for measurement in wanted if not measurement.needs_labels]
    notes += [f"{model.label}: {model.note}." for model in models if model.note]
    for note in notes:
        say(note)
    plain = re.sub(r"[^\w.-]+", "-", models[0].label).strip("-")
    folder = Path(flags["out"] or f"analyses/{plain}-{Path(models[0].dataset).name}")
    identity = {
        "models": {subject.label: fingerprint(subject.model)[:16] for subject in subjects},
        "images": {subject.label: _described(subject.images) for subject in subjects},
        "recipe": hashlib.sha256(json.dumps(recipe_to_values(models[0].recipe), sort_keys=True).encode()).hexdigest()[
            :16
        ],
        "restate": bool(flags["restate"]),
        "corruptions": flags["corruptions"] or "generated",
        "sizes": asdict(sizes),
        "seed": seed,
    }
    return subjects, wanted, folder, identity, notes


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


def _text(found: Mapping[str, Any], folder: Path) -> str:
    lines = []
    for what, summaries in found.items():
        for label, numbers in summaries.items():
            shown = (
                numbers
                if isinstance(numbers, str)
                else "  ".join(
                    f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
                    for name, value in numbers.items()
                )
            )
            lines.append(f"{what:12} {label}: {shown}")
    return "\n".join([*lines, f"Numbers and figures: {folder}, all of them in {folder / 'index.html'}"])
