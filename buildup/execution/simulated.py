"""Scores from a table instead of training, on a simulated clock: the evaluator of `simulate` and of our tests."""

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
from buildup.trials.event import Ended, EpochDone, Event
from buildup.trials.history import History
from buildup.trials.objective import ACCURACY, Objective
from buildup.trials.outcome import Failure, Reason, Record, Score
from buildup.trials.training import Training

COLUMNS = ("layout", "score", "seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What a table says of a layout."""

    score: float
    seconds: float = 1.0


def read_scores(path: Path, network: Network, *, ends: bool = False, objective: Objective = ACCURACY) -> dict[str, Row]:
    """The rows of a CSV file with the columns layout, score and optionally seconds, all problems at once.

    With `ends`, layouts may have one block more at the end of a stage. Nothing in it goes over several lines, so each
    is read by itself, and what is wrong in one is told of that one.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as problem:
        raise TableError(f"{path}: this table can't be read: {problem}.") from None
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if len(lines) < 2:
        raise TableError(f"{path}: the table has no rows; needed are a line layout,score[,seconds] and one a layout.")
    try:
        names = _fields(lines[0][1])
    except TableError as error:
        raise TableError(f"{path}, line {lines[0][0]}: {error}") from None
    if not {"layout", "score"} <= set(names) or set(names) - set(COLUMNS) or len(set(names)) < len(names):
        raise TableError(
            f"{path}: line {lines[0][0]} names the columns {', '.join(names)}; needed are layout,score[,seconds]."
        )
    rows: dict[str, Row] = {}
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
    except csv.Error as problem:  # a quote that is never closed, a field that no layout is as long as
        raise TableError(f"it can't be read: {problem}.") from None


def _row(values: Mapping[str, str], network: Network, ends: bool, objective: Objective) -> tuple[str, Row]:
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
    return layout, Row(score=score, seconds=seconds)


def _number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise TableError(f"{name} is {text!r}; a number is needed.") from None
    if not abs(number) < inf:
        raise TableError(f"{name} is {text}; a finite number is needed.")
    return number


@dataclass(kw_only=True)
class SimulatedEvaluator:
    """Virtual workers that look scores up. Time passes only in `next_event`."""

    table: Mapping[str, Row] | Callable[[Training], Row | None]
    """By layout, or a function of the training."""
    workers: int = 1
    noise: float = 0.0
    """Deviation of a training's score around its row, in points."""
    seed: int = 0
    jitter: float = 1.0
    """A training takes between 1/jitter and jitter times the seconds of its row."""
    objective: Objective = ACCURACY
    """What a row's score is; of others than accuracy in shares and nats, as `metrics.jsonl` has them."""
    default: Row | None = None
    """For layouts that the table lacks; without it they are an error that names them."""

    clock: float = 0.0
    busy: float = 0.0
    """Worker seconds spent training."""
    wasted: float = 0.0
    """Worker seconds spent on trainings that were ended unneeded."""
    _wanted: dict[str, Training] = field(default_factory=dict)
    _running: dict[str, tuple[float, Training]] = field(default_factory=dict)
    _ends: list[tuple[float, int, str]] = field(default_factory=list)
    _started: int = 0
    _stopped: list[Training] = field(default_factory=list)

    def request(self, speculate: Sequence[Training]) -> None:
        """Start what is wanted first on the free workers; drop what runs in vain at once."""
        self._wanted = {training.id: training for training in speculate}
        first = speculate[0].id if speculate else None
        for key in [key for key in self._running if key not in self._wanted]:
            since, training = self._running.pop(key)
            self.busy += self.clock - since
            self.wasted += self.clock - since
            self._stopped.append(training)
        for key, training in self._wanted.items():
            if len(self._running) >= self.workers:
                break
            # What is wanted first is waited for. Anything later may never be, so the table need not know it.
            if key not in self._running and (key == first or self._row(training)):
                self._running[key] = (self.clock, training)
                self._started += 1
                heapq.heappush(self._ends, (self.clock + self._seconds(training), self._started, key))

    def next_event(self, timeout: float | None = None) -> Event | None:
        """The training that ends next."""
        if self._stopped:
            failure = Failure(reason=Reason.UNNEEDED, message="a verdict fell without it")
            return Ended(training=self._stopped.pop(0), record=Record(outcome=failure, curve=()))
        while self._ends:
            end, _, key = heapq.heappop(self._ends)
            if key in self._running and end >= self._running[key][0]:
                since, training = self._running.pop(key)
                self.clock = end
                self.busy += end - since
                return Ended(training=training, record=Record(outcome=self._score(training, end - since), curve=()))
        return None

    def close(self) -> None:
        """Nothing is held."""

    def _row(self, training: Training) -> Row | None:
        if isinstance(self.table, Mapping):
            return self.table.get(training.candidate.layout, self.default)
        return self.table(training)

    def _look_up(self, training: Training) -> Row:
        row = self._row(training)
        if row is None:
            raise TableError(
                f"the table has no layout {training.candidate.layout}, which the rule wants next "
                f"({training.candidate.edit or 'the base'}). Add a line for it, or give --default-score."
            )
        return row

    def _seconds(self, training: Training) -> float:
        chance = random.Random(f"{self.seed}/{training.id}/seconds").uniform(1 / self.jitter, self.jitter)
        return self._look_up(training).seconds * chance

    def _score(self, training: Training, seconds: float) -> Score:
        row = self._look_up(training)
        # Named by training, not drawn in order: the same scores for any number of workers.
        chance = random.Random(f"{self.seed}/{training.id}").gauss(0.0, self.noise) if self.noise else 0.0
        value = row.score if self.objective is ACCURACY else 100 * row.score
        return self.objective.score(value + chance, seconds)


class Memory:
    """A writer that keeps nothing but the history itself."""

    def record(self, history: History, event: Event) -> History:
        """The history with an event in it."""
        if isinstance(event, EpochDone):
            return history.with_epoch(event.training.id, event.epoch)
        if isinstance(event, Ended):
            outcome = event.record.outcome
            if isinstance(outcome, Failure) and outcome.reason is Reason.UNNEEDED:
                return history
            return history.with_outcome(event.training.id, outcome)
        return history

    def decide(self, history: History, decision: Decision) -> History:
        """The history with a decision in it."""
        return history.with_decision(decision)
