"""The measurements of a model, or of several side by side, written as numbers and figures."""

import csv
import io
import json
import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import nn

from buildup.diagnostics.analysis import QUICK, Measurement, Sizes, Subject, claims_sentence, unit_rows
from buildup.diagnostics.figures import Row, Rows, Table, draw_figure
from buildup.diagnostics.hooks import weights_digest
from buildup.diagnostics.landscape import DECAYS, SCALINGS
from buildup.diagnostics.measurements import find_measurements
from buildup.engine.analysis.subjects import UNTRAINED, AnalyzedModel, find_models, make_subject, measuring_device
from buildup.engine.problems import Problems
from buildup.errors import DataError, RequestError
from buildup.files import write_atomic
from buildup.graph.base_name import split_names
from buildup.report.analysis_page import Section, analysis_page
from buildup.report.words import duration
from buildup.settings import AnalyzeSettings
from buildup.training.recipe import Recipe, recipe_to_values
from buildup.trials.outcome import short_hash

log = logging.getLogger("buildup")

FOR_SOME = {
    "corruptions": ("corruption", "robustness"),
    "scaling": ("landscape",),
    "decay": ("landscape",),
}
"""Settings that only some measurements read."""
PROGRESS_INTERVAL = 5.0
"""Seconds between two progress messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    folder: Path
    """The folder with numbers, figures and `index.html`."""
    identity: Mapping[str, Any]
    """What the numbers depend on."""
    summaries: Mapping[str, Mapping[str, Any]]
    """The summary by measurement and model. A measurement that could not be made has its reason as `left out`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """Checked settings."""

    models: Sequence[AnalyzedModel]
    wanted: Sequence[Measurement]
    asks_all: bool
    """Whether measurements that can't be made are left out instead of refused."""
    sizes: Sizes
    passes: int
    """Passes of Monte Carlo dropout."""
    seed: int
    device: torch.device


def analyze_model(model: str, settings: AnalyzeSettings) -> Analysis:
    """Measure models, and write numbers and figures. After an interruption the same call continues.

    `model` is a run, RUN:CANDIDATE, the folder of a training or an export, or a timm model. A run or a training may
    name a phase, as in TRAINING@warmup, RUN@100 or TRAINING@all, which is all that were kept. `settings.verdicts` is
    ignored here; see `diagnose_verdicts`.
    """
    request = _check(model, settings)
    subjects = [
        replace(
            make_subject(found, request.sizes, request.wanted, request.seed, request.device),
            scaling=settings.scaling,
            decay=settings.decay,
            corruptions=settings.corruptions,
            mc_dropout=request.passes,
        )
        for found in request.models
    ]
    for measurement in request.wanted:
        measurement.check(subjects)
    wanted, notes = _measurable(request, subjects)
    before = [weights_digest(subject.model) for subject in subjects]
    identity = {
        "models": {subject.label: digest[:16] for subject, digest in zip(subjects, before, strict=True)},
        "images": {
            subject.label: f"{len(subject.images.labels)} of {subject.images.name}, from the validation part of its "
            f"training set, {subject.images.hash[:16]}"
            for subject in subjects
        },
        "training images": {subject.label: subject.train_images for subject in subjects},
        "recipes": {model.label: _recipe_hash(model.recipe) for model in request.models},
        "corruptions": settings.corruptions or "generated",
        "sizes": asdict(request.sizes),
        "seed": request.seed,
    }
    names = request.models[0].label, Path(request.models[0].dataset).name
    label, dataset = (re.sub(r"[^\w.-]+", "-", name).strip("-") for name in names)
    folder = Path(settings.out or f"analyses/{label}-{dataset}")
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    for measurement in wanted:
        try:
            found[measurement.name] = run_measurement(measurement, subjects, folder, identity)
        except RequestError as error:
            if not request.asks_all:
                raise
            log.warning(f"{measurement.name}: left out. {error}")
            found[measurement.name] = {"left out": str(error)}
    assert before == [weights_digest(subject.model) for subject in subjects], "a measurement changed its model"
    analysis = Analysis(folder=folder, identity=identity, summaries=found)
    write_atomic(folder / "summary.json", json.dumps(json_values(analysis_values(analysis)), indent=2).encode())
    write_atomic(folder / "index.html", _page(request, subjects, wanted, analysis, notes).encode())
    return analysis


def analysis_values(analysis: Analysis) -> dict[str, Any]:
    return {"folder": str(analysis.folder), "identity": analysis.identity, "summaries": analysis.summaries}


def _recipe_hash(recipe: Recipe) -> str:
    return short_hash(json.dumps(recipe_to_values(recipe), sort_keys=True).encode())


def _check(model: str, settings: AnalyzeSettings) -> _Request:
    problems = Problems()
    asks_all = settings.what == "all"
    wanted = problems.checked([], find_measurements, None if asks_all else settings.what.split(","))
    asked, passes = {measurement.name for measurement in wanted}, 0
    for flag, readers in FOR_SOME.items():
        if asked.isdisjoint(readers) and asked and getattr(settings, flag) != getattr(AnalyzeSettings(), flag):
            problems.found.append(f"--{flag} is for --what {' or '.join(readers)}, which is not asked for.")
    if settings.mc_dropout is not None:
        passes = problems.whole("--mc-dropout", settings.mc_dropout, 0, most=10_000)
        if asked and not asked & {"calibration", "ensemble"}:
            problems.found.append("--mc-dropout is for --what calibration or ensemble, which is not asked for.")
        wanted += find_measurements(["ensemble"]) if "ensemble" not in asked else []
    device = problems.checked("cpu", measuring_device, settings.device)
    seed = problems.whole("--seed", settings.seed, 0)
    sizes = QUICK if settings.quick else Sizes()
    sizes = replace(sizes, images=problems.whole("--images", settings.images, sizes.images))
    names = list(filter(None, (model, *split_names(settings.compare or ""))))
    models = [found for name in names for found in problems.checked([], find_models, name, settings)]
    problems.choice("scaling", settings.scaling, "filter", tuple(SCALINGS))
    problems.choice("decay", settings.decay, "squares", tuple(DECAYS))
    problems.repeated([found.label for found in models])
    if settings.out and Path(settings.out).exists() and not Path(settings.out).is_dir():
        problems.found.append(f"--out {settings.out}: this is a file, and a folder is needed.")
    if settings.pretrained and models and not any(found.by_name for found in models):
        problems.found.append("--pretrained is for models by their name in timm; these have weights of their own.")
    problems.raise_any()
    return _Request(
        models=models,
        wanted=wanted,
        asks_all=asks_all,
        sizes=sizes,
        passes=passes,
        seed=seed,
        device=torch.device(device),
    )


def _measurable(request: _Request, subjects: Sequence[Subject]) -> tuple[list[Measurement], list[str]]:
    wanted, notes = list[Measurement](), list[str]()
    for measurement in request.wanted:
        obstacle = next(filter(None, map(measurement.obstacle, subjects)), None)
        if obstacle is None:
            wanted.append(measurement)
        elif request.asks_all:
            notes.append(f"{measurement.name} is left out. {obstacle}")
        else:
            raise RequestError(obstacle)
    labelled = [measurement.name for measurement in wanted if measurement.needs_labels]
    others = [subject for subject in subjects if subject.units[-1].channels != subject.images.num_classes]
    if others and labelled:
        images = others[0].images
        problem = (
            f"{others[0].label} has {others[0].units[-1].channels} classes and {images.name} has "
            f"{images.num_classes}: {', '.join(labelled)} can't be measured."
        )
        if not request.asks_all:
            raise DataError(problem)
        notes.append(problem)
        wanted = [measurement for measurement in wanted if not measurement.needs_labels]
    notes += [f"{model.label}: {model.note}." for model in request.models if model.note]
    notes += [f"{subject.label}: {note}." for subject in subjects for what in wanted for note in what.notes(subject)]
    for subject in subjects:
        notes += _unit_notes(subject)
        count, classes = len(subject.images.labels), subject.images.num_classes
        if count < classes and any(measurement.needs_labels for measurement in wanted):
            notes.append(
                f"{subject.label}: {count} images of {classes} classes, so {classes - count} or more classes are "
                "missing in all accuracies."
            )
    for note in notes:
        log.warning(note)
    return wanted, notes


def _unit_notes(subject: Subject) -> Iterator[str]:
    hidden = sum(unit.layout.order == "none" for unit in subject.units if unit.kind != "head")
    if hidden:
        yield (
            f"{subject.label}: {hidden} of its {len(subject.units)} units have no maps in the order of the pixels, so "
            "what is measured on maps leaves them out."
        )
    convs = [len(unit.convs) for unit in subject.units]
    if max(convs) > max(4, sum(convs) / 2):
        yield (
            f"{subject.label}: {max(convs)} of its {sum(convs)} spatial convolutions are in one unit, so what is "
            "measured unit by unit says little."
        )


def _page(
    request: _Request,
    subjects: Sequence[Subject],
    measurements: Sequence[Measurement],
    analysis: Analysis,
    notes: Sequence[str],
) -> str:
    sections = []
    is_trained = all(model.note != UNTRAINED for model in request.models)
    for measurement in measurements:
        numbers = analysis.summaries[measurement.name]
        what, reason = measurement.name, numbers.get("left out", "")
        section = Section(what=what, title=measurement.title, words=measurement.caption, left_out=reason)
        if not reason:
            figure = (analysis.folder / f"{what}.svg").read_text(encoding="utf-8")
            finding = _finding(measurement, subjects, numbers) if is_trained else ""
            section = replace(section, numbers=numbers, figure=figure, finding=finding)
        sections.append(section)
    identity = analysis.identity
    facts = {
        "weights": ", ".join(f"{label} {digest}" for label, digest in identity["models"].items()),
        **{name: "; ".join(dict.fromkeys(identity[name].values())) for name in ("images", "training images")},
        "seed": identity["seed"],
    }
    return analysis_page(" beside ".join(subject.label for subject in subjects), facts, sections, identity, notes)


def _finding(measurement: Measurement, subjects: Sequence[Subject], numbers: Mapping[str, Any]) -> str:
    """Whether the numbers agree with the paper; with several phases of a training, at its first and at its last."""
    series: dict[str, list[Subject]] = {}
    for subject in sorted(subjects, key=lambda subject: subject.epoch or 0):
        series.setdefault(subject.series or subject.label, []).append(subject)
    ends = {"First phase: ": 0, "Last phase: ": -1} if any(len(own) > 1 for own in series.values()) else {"": -1}
    found = []
    for words, place in ends.items():
        first = next(iter(series.values()))[place]
        # Models are compared on the same images and at the same epoch alone.
        alike = [
            own[place]
            for own in series.values()
            if own[place].images.hash == first.images.hash and (not words or own[place].epoch == first.epoch)
        ]
        attention = {subject.label: subject.attention for subject in alike}
        if len(alike) == 1 < len(series) and measurement.claims and not measurement.claims[0].of_each:
            found.append(f"{words}No two models have the same images and epoch, so the paper's claim can't be tested.")
            continue
        if sentence := claims_sentence(measurement.claims, attention, numbers):
            found.append(words + sentence)
    return " ".join(found)


def run_measurement(
    measurement: Measurement, subjects: Sequence[Subject], folder: Path, identity: dict[str, Any]
) -> dict[str, Any]:
    """The summaries of one measurement of all models, read from an earlier run with the same identity or made now."""
    what, identity = measurement.name, identity | measurement.settings(subjects[0])
    path = folder / f"{what}.json"
    with suppress(OSError, json.JSONDecodeError):
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept.get("identity") == identity:
            log.info(f"{what}: kept from before.")
            return dict(kept["summaries"])
    tables, unfinished = [], []
    for number, subject in enumerate(subjects):
        place = folder / f".{what}-{number}.part.jsonl"
        rows = _resume(measurement, subject, place, identity)
        if not rows:
            why = "; ".join(measurement.notes(subject))
            raise DataError(f"{subject.label} has nothing that {what} could be measured on. {why}".rstrip())
        units = unit_rows(subject.units)
        tables.append(Table(label=subject.label, units=units, rows=rows, series=subject.series, epoch=subject.epoch))
        unfinished.append(place)
    found = measurement.summaries({table.label: table.rows for table in tables})
    values = {"identity": identity, "summaries": found, "tables": [asdict(table) for table in tables]}
    text = io.StringIO()
    # A metric that is undefined for a model has no column in its rows.
    columns = dict.fromkeys(name for table in tables for row in table.rows for name in row)
    writer = csv.DictWriter(text, ["model", *columns])
    writer.writeheader()
    for table in tables:
        writer.writerows({"model": table.label, **row} for row in table.rows)
    write_atomic(folder / f"{what}.csv", text.getvalue().encode())
    figure = draw_figure(measurement.figure, tables)
    for form in ("svg", "png"):
        picture = io.BytesIO()
        figure.savefig(picture, format=form, metadata={"Date": None} if form == "svg" else None)
        write_atomic(folder / f"{what}.{form}", picture.getvalue())
    write_atomic(path, json.dumps(json_values(values), indent=1).encode())
    for place in unfinished:
        place.unlink(missing_ok=True)
    return found


def _resume(measurement: Measurement, subject: Subject, place: Path, identity: dict[str, Any]) -> Rows:
    """The rows of a measurement. Each part is on disk before the next begins."""
    done = list(_finished_parts(place, identity))
    total, each = measurement.work(subject)
    progress = Progress(name=f"{measurement.name} of {subject.label}", total=total, each=each, done=len(done))
    rows = [row for part in done for row in part]
    # The whole file is rewritten, which removes an incomplete line of a killed run.
    content = [json.dumps(identity), *map(json.dumps, done)]
    hook = subject.model.register_forward_pre_hook(progress.count_images)
    try:
        # A run that was stopped between two models has all parts of the first.
        for part in measurement.measure(subject, rows) if len(done) < progress.total else ():
            if found := json_values(list(part)):  # a part without rows would be measured, and counted, again
                done.append(found)
                content.append(json.dumps(found))
                write_atomic(place, "\n".join(content).encode())
            progress.end_part()
    finally:
        hook.remove()
    return [row for part in done for row in part]


@dataclass(kw_only=True)
class Progress:
    """The progress of a measurement: finished parts, and images that the model has seen since the last one."""

    name: str
    total: int
    """The number of parts."""
    each: int = 0
    """Images per part; some parts show them twice."""
    done: int = 0
    seen: int = 0
    started: float = field(default_factory=time.monotonic)
    reported: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.kept = self.done

    def count_images(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        """A forward pre-hook of the model."""
        self.report()
        self.seen += len(arguments[0])

    def end_part(self) -> None:
        self.done, self.seen = self.done + 1, 0
        self.report()

    def report(self) -> None:
        now, ahead = time.monotonic(), self.done + min(0.99, self.seen / self.each if self.each else 0)
        if now - self.reported > PROGRESS_INTERVAL and ahead > self.kept and ahead < self.total:
            self.reported = now
            left = (now - self.started) / (ahead - self.kept) * (self.total - ahead)
            log.info(f"{self.name}: {100 * ahead / self.total:.0f} %, {duration(left)} left")


def _finished_parts(place: Path, identity: dict[str, Any]) -> Iterator[list[Row]]:
    lines = place.read_text(encoding="utf-8").splitlines() if place.is_file() else []
    if not lines or json.loads(lines[0]) != json.loads(json.dumps(identity)):
        return
    with suppress(json.JSONDecodeError):  # a killed run may leave an incomplete last line
        for line in lines[1:]:
            yield json.loads(line)


def json_values(value: Any) -> Any:
    """Plain values for JSON, which has no infinities and no nan: these become None."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: json_values(item) for name, item in value.items()}
    return [json_values(item) for item in value] if isinstance(value, list | tuple) else value
