"""An evaluator that reads scores from a table instead of training, on a simulated clock: for `simulate` and tests."""

import csv
import heapq
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from buildup.errors import LayoutError, TableError
from buildup.graph.layout import parse
from buildup.graph.network import Network
from buildup.trials.decision import Decision
from buildup.trials.event import Event, Started
from buildup.trials.history import History
from buildup.trials.objective import ACCURACY, Objective
from buildup.trials.outcome import Epoch, Failure, Reason, Record
from buildup.trials.training import Training

COLUMNS = ("layout", "score", "seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRow:
    """A row of a score table: the score of a layout, and how long its training takes."""

    score: float
    seconds: float = 1.0


def read_scores(
    path: Path, network: Network, *, ends: bool = False, objective: Objective = ACCURACY
) -> dict[str, ScoreRow]:
    """Read the rows of a CSV file with the columns layout, score and optionally seconds; by layout.

    No field spans several lines, so each line is read by itself, and one `TableError` names the problems of all.

    Args:
        path: The file.
        network: The base, whose stages the layouts must fit.
        ends: Whether a layout may have one block more at the end of a stage.
        objective: What the scores are of.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as problem:
        raise TableError(f"{path}: this table can't be read: {problem}.") from None
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if len(lines) < 2:
        raise TableError(f"{path}: the table has no rows; needed are a line layout,score[,seconds] and one a layout.")
    first, head = lines[0]
    try:
        names = _fields(head)
    except TableError as error:
        raise TableError(f"{path}, line {first}: {error}") from None
    if not {"layout", "score"} <= set(names) or set(names) - set(COLUMNS) or len(set(names)) < len(names):
        raise TableError(
            f"{path}: line {first} names the columns {', '.join(names)}; needed are layout,score[,seconds]."
        )
    rows: dict[str, ScoreRow] = {}
    found_at: dict[str, int] = {}
    problems: list[str] = []
    for number, line in lines[1:]:
        try:
            fields = _fields(line)
            if len(fields) != len(names):
                raise TableError(f"it has {len(fields)} fields, and the table {len(names)} columns.")
            layout, row = _row(dict(zip(names, fields, strict=True)), network, ends, objective)
            if layout in rows:
                raise TableError(f"layout {layout} stands in line {found_at[layout]} already.")
            rows[layout], found_at[layout] = row, number
        except (TableError, LayoutError) as error:
            problems += [f"{path}, line {number}: {problem}" for problem in error.problems]
    if problems:
        raise TableError(*problems)
    return rows


def _fields(line: str) -> list[str]:
    try:
        return [field.strip() for field in next(csv.reader([line], skipinitialspace=True, strict=True))]
    except csv.Error as problem:  # an open quote, or a field that is too long
        raise TableError(f"it can't be read: {problem}.") from None


def _row(values: Mapping[str, str], network: Network, ends: bool, objective: Objective) -> tuple[str, ScoreRow]:
    if not values["layout"]:
        raise TableError("the layout is missing.")
    layout = "|".join(parse(values["layout"], network, ends=ends))
    seconds = _number("seconds", values.get("seconds") or "1")
    if seconds <= 0:
        raise TableError(f"seconds is {values['seconds']}; a number above 0 is needed.")
    score = _number("score", values["score"])
    if not 0 <= score <= objective.largest:
        most = f" to {objective.largest:g}" if objective.largest < inf else ""
        raise TableError(f"score is {values['score']}; the {objective.title} is a number from 0{most}.")
    return layout, ScoreRow(score=score, seconds=seconds)


def _number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise TableError(f"{name} is {text!r}; a number is needed.") from None
    if not abs(number) < inf:
        raise TableError(f"{name} is {text}; a finite number is needed.")
    return number


Lookup = Callable[[Training], ScoreRow | None]
"""Finds the row of a training; None where there is none."""


@dataclass(kw_only=True)
class SimulatedEvaluator:
    """Virtual workers that look up scores. Time passes only in `next_event`."""

    table: Mapping[str, ScoreRow] | Lookup
    """Rows by layout, or a function of the training."""
    workers: int = 1
    noise: float = 0.0
    """Standard deviation of a training's score around that of its row, in points."""
    seed: int = 0
    objective: Objective = ACCURACY
    """What the scores are of. Other objectives than accuracy are in shares and nats, as in `metrics.jsonl`."""
    default: ScoreRow | None = None
    """The row of layouts that the table lacks; without it, such a layout is an error."""

    clock: float = 0.0
    busy: float = 0.0
    """Worker seconds spent training."""
    wasted: float = 0.0
    """Worker seconds spent on trainings that were stopped because they were not needed."""
    _running: dict[str, tuple[float, Training]] = field(default_factory=dict)
    _ends: list[tuple[float, int, str]] = field(default_factory=list)
    _started: int = 0
    _stopped: list[Training] = field(default_factory=list)

    def request(self, trainings: Sequence[Training]) -> None:
        requested = {training.id: training for training in trainings}
        first = trainings[0].id if trainings else None
        for key in [key for key in self._running if key not in requested]:
            since, training = self._running.pop(key)
            self.busy += self.clock - since
            self.wasted += self.clock - since
            self._stopped.append(training)
        for key, training in requested.items():
            if len(self._running) >= self.workers:
                break
            # The search waits for the first training. Later ones may not be needed, so the table may lack them.
            if key not in self._running and (key == first or self._row(training)):
                self._running[key] = (self.clock, training)
                self._started += 1
                heapq.heappush(self._ends, (self.clock + self._look_up(training).seconds, self._started, key))

    def next_event(self, timeout: float | None = None) -> Event | None:
        if self._stopped:
            failure = Failure(reason=Reason.UNNEEDED, message="a verdict fell without it")
            return Event(training=self._stopped.pop(0), update=Record(outcome=failure, curve=()))
        while self._ends:
            end, _, key = heapq.heappop(self._ends)
            if key in self._running and end >= self._running[key][0]:
                since, training = self._running.pop(key)
                self.clock = end
                self.busy += end - since
                row = self._look_up(training)
                # The generator is seeded by the training, so that scores do not depend on the number of workers.
                chance = random.Random(f"{self.seed}/{training.id}").gauss(0.0, self.noise) if self.noise else 0.0
                value = row.score if self.objective is ACCURACY else 100 * row.score
                score = self.objective.score(value + chance, end - since)
                return Event(training=training, update=Record(outcome=score, curve=()))
        return None

    def close(self) -> None:
        """Nothing is held."""

    def _row(self, training: Training) -> ScoreRow | None:
        if isinstance(self.table, Mapping):
            return self.table.get(training.candidate.layout, self.default)
        return self.table(training)

    def _look_up(self, training: Training) -> ScoreRow:
        row = self._row(training)
        if row is None:
            raise TableError(
                f"the table has no layout {training.candidate.layout}, which the rule wants next "
                f"({training.candidate.edit or 'the base'}). Add a line for it, or give --default-score."
            )
        return row


class InMemoryWriter:
    """A writer that keeps nothing but the history itself."""

    def record(self, history: History, event: Event) -> History:
        key = event.training.id
        match event.update:
            case Started() | Record(outcome=Failure(reason=Reason.UNNEEDED)):
                return history
            case Epoch() as epoch:
                return history.with_epoch(key, epoch)
            case Record(outcome=outcome):
                return history.with_outcome(key, outcome)

    def decide(self, history: History, decision: Decision) -> History:
        return history.with_decision(decision)
