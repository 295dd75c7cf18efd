"""One measurement of `analyze` on disk: parts while it runs, then numbers and figures; nothing is repeated."""

import csv
import io
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from torch import nn

from buildup.diagnostics.analysis import Measurement, Subject, unit_rows
from buildup.diagnostics.figures import Row, Rows, Table, draw
from buildup.errors import DataError
from buildup.report.words import duration
from buildup.store.run_dir import write_atomic

logger = logging.getLogger("buildup")

PROGRESS_INTERVAL = 5.0
"""Seconds between two words about progress."""


def measure(
    measurement: Measurement, subjects: Sequence[Subject], folder: Path, identity: dict[str, Any]
) -> dict[str, Any]:
    """One measurement of all models: kept from an earlier run where it is the same, else made, written and drawn."""
    what, identity = measurement.name, identity | measurement.settings(subjects[0])
    path = folder / f"{what}.json"
    if path.is_file() and (kept := _read(path)) and kept.get("identity") == identity:
        logger.info(f"{what}: kept from before.")
        return dict(kept["summaries"])
    tables, unfinished = [], []
    for number, subject in enumerate(subjects):
        place = folder / f".{what}-{number}.part.jsonl"
        rows = _followed(measurement, subject, place, identity)
        if not rows:
            raise DataError(f"{subject.label} has nothing that {what} could be measured on.")
        tables.append(Table(label=subject.label, units=unit_rows(subject.units), rows=rows))
        unfinished.append(place)
    found = measurement.summaries({table.label: table.rows for table in tables})
    values = {"identity": identity, "summaries": found, "tables": [asdict(table) for table in tables]}
    write_atomic(folder / f"{what}.csv", _csv(tables).encode())
    figure = draw(measurement.figure, tables)
    for form in ("svg", "png"):
        picture = io.BytesIO()
        figure.savefig(picture, format=form, metadata={"Date": None} if form == "svg" else None)
        write_atomic(folder / f"{what}.{form}", picture.getvalue())
    write_atomic(path, json.dumps(plain(values), indent=1).encode())
    for place in unfinished:
        place.unlink(missing_ok=True)
    return found


def _followed(measurement: Measurement, subject: Subject, place: Path, identity: dict[str, Any]) -> Rows:
    """The rows of a measurement; each part is on disk before the next begins."""
    done = list(_left(place, identity))
    total, each = measurement.work(subject)
    progress = _Progress(name=f"{measurement.name} of {subject.label}", total=total, each=each, done=len(done))
    rows = [row for part in done for row in part]
    # Written anew, so that half a line of a run that was killed is gone.
    content = [json.dumps(identity), *map(json.dumps, done)]
    watched = subject.model.register_forward_pre_hook(progress.see)
    try:
        # Whoever was stopped between two models has all parts of the first.
        for part in measurement.measure(subject, rows) if len(done) < progress.total else ():
            done.append(plain(list(part)))
            content.append(json.dumps(done[-1]))
            write_atomic(place, "\n".join(content).encode())
            progress.end_part()
    finally:
        watched.remove()
    return [row for part in done for row in part]


@dataclass(kw_only=True)
class _Progress:
    """How far a measurement is, by the parts that are done and the images that the model saw since the last one."""

    name: str
    total: int
    each: int
    """Images of a part; some parts show them twice."""
    done: int
    seen: int = 0
    started: float = field(default_factory=time.monotonic)
    told: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.kept = self.done

    def see(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        """Called before the model runs."""
        self.tell()
        self.seen += len(arguments[0])

    def end_part(self) -> None:
        """Called after each part."""
        self.done, self.seen = self.done + 1, 0
        self.tell()

    def tell(self) -> None:
        """Say how far it is, once in a while."""
        now, ahead = time.monotonic(), self.done + min(0.99, self.seen / self.each if self.each else 0)
        if now - self.told > PROGRESS_INTERVAL and ahead > self.kept and ahead < self.total:
            self.told = now
            left = (now - self.started) / (ahead - self.kept) * (self.total - ahead)
            logger.info(f"{self.name}: {100 * ahead / self.total:.0f} %, {duration(left)} left")


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


def plain(value: Any) -> Any:
    """The same for JSON, which has no infinities and nothing that is no number."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value
