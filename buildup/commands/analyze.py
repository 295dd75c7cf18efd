"""`analyze`: the paper's measurements on a run's network or any model of timm, as numbers and figures."""

import csv
import hashlib
import io
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from math import ceil, isfinite
from pathlib import Path
from typing import Any

import torch

from buildup.commands.problems import Problems
from buildup.commands.progress import say
from buildup.commands.signals import interruptible
from buildup.commands.subjects import Found, find_model
from buildup.diagnostics.analysis import (
    LABELLED,
    MEASURES,
    QUICK,
    Row,
    Rows,
    Sizes,
    Subject,
    parts,
    summary,
    units_rows,
)
from buildup.diagnostics.figures import Table, draw
from buildup.diagnostics.hessian import BATCH, augmented_batches
from buildup.diagnostics.hooks import evaluating, fingerprint
from buildup.diagnostics.units import find_units
from buildup.errors import DataError, RequestError, unknown
from buildup.report.words import duration
from buildup.search.files import write_whole
from buildup.training.data import load_data, split
from buildup.training.dataset import Dataset
from buildup.training.device import check_device
from buildup.training.recipe import recipe_to_values

PATIENCE = 5.0
"""Seconds between two words about progress."""


def analyze(flags: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Measure, write numbers and figures, and give back the summaries. The same command goes on after any stop."""
    subjects, wanted, folder, identity = _request(flags)
    before = [fingerprint(subject.model) for subject in subjects]
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    with interruptible():
        for what in wanted:
            try:
                found[what] = _measure(what, subjects, folder, identity)
            except RequestError as error:
                if flags["what"] not in (None, "all"):
                    raise
                say(f"{what}: left out. {error}")
                found[what] = {"left out": str(error)}
    assert before == [fingerprint(subject.model) for subject in subjects], "a measurement changed its model"
    values = {"folder": str(folder), "identity": identity, "summaries": found}
    write_whole(folder / "summary.json", json.dumps(_plain(values), indent=2).encode())
    return _text(found, folder), values


def _request(flags: Mapping[str, Any]) -> tuple[list[Subject], list[str], Path, dict[str, Any]]:
    problems = Problems()
    wanted = list(MEASURES) if flags["what"] in (None, "all") else flags["what"].split(",")
    problems.found += [unknown("measurement", what, ["all", *MEASURES]) for what in wanted if what not in MEASURES]
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
    problems.raise_any()
    subjects = [_subject(model, sizes, seed, torch.device(device)) for model in models]
    blind = [subject for subject in subjects if _classes(subject) != subject.images.num_classes]
    if blind and (asked := [what for what in wanted if what in LABELLED]):
        problem = (
            f"{blind[0].label} tells {_classes(blind[0])} classes apart and {blind[0].images.name} has "
            f"{blind[0].images.num_classes}: {', '.join(asked)} can't be measured."
        )
        if flags["what"] not in (None, "all"):
            raise DataError(problem)
        say(problem)
        wanted = [what for what in wanted if what not in LABELLED]
    for model in models:
        if model.note:
            say(f"{model.label}: {model.note}.")
    plain = re.sub(r"[^\w.-]+", "-", models[0].label).strip("-")
    folder = Path(flags["out"] or f"analyses/{plain}-{Path(models[0].dataset).name}")
    identity = {
        "models": {subject.label: fingerprint(subject.model)[:16] for subject in subjects},
        "dataset": models[0].dataset,
        "data": subjects[0].images.hash[:16],
        "images": f"{len(subjects[0].images.labels)} of the training set's validation part",
        "recipe": hashlib.sha256(json.dumps(recipe_to_values(models[0].recipe), sort_keys=True).encode()).hexdigest()[
            :16
        ],
        "sizes": asdict(sizes),
        "seed": seed,
    }
    return subjects, wanted, folder, identity


def _subject(found: Found, sizes: Sizes, seed: int, device: torch.device) -> Subject:
    data = load_data(found.dataset, found.data_dir, found.image_size)
    train, val = split(data, 0)
    model = found.model.to(device)
    image = torch.zeros(1, data.channels, data.image_size, data.image_size, device=device)
    try:
        with torch.no_grad(), evaluating(model):
            model(image)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise DataError(f"{found.label} can't take images of {data.name}, {tuple(image.shape[1:])}: {error}") from error
    batches = augmented_batches(
        data,
        found.recipe,
        train,
        seed=seed,
        device=device,
        count=max(sizes.hessian_batches, ceil(sizes.landscape_images / BATCH)),
    )
    shown = val[torch.randperm(len(val), generator=torch.Generator().manual_seed(seed))[: sizes.images].sort().values]
    return Subject(
        label=found.label,
        model=model,
        units=find_units(model, image),
        images=_chosen(data, shown),
        hessian_batches=batches[: sizes.hessian_batches],
        landscape_batches=batches[: ceil(sizes.landscape_images / BATCH)],
        weight_decay=found.recipe.weight_decay,
        sizes=sizes,
    )


def _chosen(data: Dataset, index: torch.Tensor) -> Dataset:
    return Dataset(
        name=data.name,
        images=data.images[index],
        labels=data.labels[index],
        class_names=data.class_names,
        mean=data.mean,
        std=data.std,
    )


def _classes(subject: Subject) -> int:
    return subject.units[-1].channels


def _measure(what: str, subjects: Sequence[Subject], folder: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """One measurement of all models: kept from an earlier run where it is the same, else made, written and drawn."""
    path = folder / f"{what}.json"
    if path.is_file() and (kept := _read(path)) and kept.get("identity") == identity:
        say(f"{what}: kept from before.")
        return dict(kept["summaries"])
    tables, unfinished = [], []
    for number, subject in enumerate(subjects):
        place = folder / f".{what}-{number}.part.jsonl"
        rows = _followed(what, subject, place, identity)
        if not rows:
            raise DataError(f"{subject.label} has nothing that {what} could be measured on.")
        tables.append(Table(label=subject.label, units=units_rows(subject), rows=rows))
        unfinished.append(place)
    summaries = {table.label: summary(what, table.rows) for table in tables}
    values = {"identity": identity, "summaries": summaries, "tables": [asdict(table) for table in tables]}
    write_whole(folder / f"{what}.csv", _csv(tables).encode())
    figure = draw(what, tables)
    for form in ("svg", "png"):
        picture = io.BytesIO()
        figure.savefig(picture, format=form)
        write_whole(folder / f"{what}.{form}", picture.getvalue())
    write_whole(path, json.dumps(_plain(values), indent=1).encode())
    for place in unfinished:
        place.unlink(missing_ok=True)
    return summaries


def _followed(what: str, subject: Subject, place: Path, identity: dict[str, Any]) -> Rows:
    """The rows of a measurement; each part is on disk before the next begins."""
    done = list(_left(place, identity))
    total, started, told = parts(what, subject), time.monotonic(), time.monotonic()
    if not done:
        write_whole(place, f"{json.dumps(identity)}\n".encode())
    rows = [row for part in done for row in part]
    with place.open("a", encoding="utf-8") as file:
        for number, part in enumerate(MEASURES[what](subject, rows), start=1):
            plain = _plain(list(part))
            file.write(f"{json.dumps(plain)}\n")
            file.flush()
            done.append(plain)
            if time.monotonic() - told > PATIENCE:
                told = time.monotonic()
                left = (told - started) / number * (total - len(done))
                say(f"{what} of {subject.label}: {len(done)} of {total}, {duration(left)} left")
    return [row for part in done for row in part]


def _left(place: Path, identity: dict[str, Any]) -> Iterator[list[Row]]:
    """The parts that an interrupted run of the same measurement has left."""
    lines = place.read_text(encoding="utf-8").splitlines() if place.is_file() else []
    if not lines or json.loads(lines[0]) != json.loads(json.dumps(identity)):
        return
    with suppress(json.JSONDecodeError):  # the last line of a run that was killed
        for line in lines[1:]:
            yield json.loads(line)


def _read(path: Path) -> dict[str, Any]:
    with suppress(OSError, json.JSONDecodeError):
        return dict(json.loads(path.read_text(encoding="utf-8")))
    return {}


def _csv(tables: Sequence[Table]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["model", *tables[0].rows[0]])
    writer.writeheader()
    for table in tables:
        writer.writerows({"model": table.label, **row} for row in table.rows)
    return text.getvalue()


def _plain(value: Any) -> Any:
    """The same for JSON, which has no infinities and nothing that is no number."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


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
    return "\n".join([*lines, f"Numbers and figures: {folder}"])
