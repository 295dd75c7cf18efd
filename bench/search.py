"""A search whose trainings only sleep: what Ray, the study and the rule cost on real workers, apart from all training.

Every layout of a network of ResNet-152's size is tried, so that workers always have something to do and what they are
not busy with is ours. A training counts as busy for the seconds that it was asked to sleep: what it waits between its
epochs is idle time.
"""

import argparse
import logging
import os
import resource
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any

from answer import answer
from buildup.engine.loop import run_loop
from buildup.engine.problems import Problems
from buildup.engine.replay import Replay
from buildup.execution.evaluator import Evaluator
from buildup.execution.ray_tune import RayEvaluator
from buildup.graph.network import sketch
from buildup.report.text_table import aligned
from buildup.report.words import duration
from buildup.space.schema import SearchSpace
from buildup.statistics.judges import JUDGES
from buildup.store.study_writer import StudyWriter
from buildup.strategies.fixed_order import exhaustive
from buildup.trials.decision import Decision
from buildup.trials.event import Event
from buildup.trials.history import History
from buildup.trials.outcome import Epoch, Score
from buildup.trials.training import Candidate, Training

log = logging.getLogger("buildup")

LAYOUT = "|".join("C" * blocks for blocks in (3, 8, 36, 3))
WINDOW = 50
"""Trainings whose cost stands for that at a number of trainings: the last so many before it."""
CPUS_PER_WORKER = 0.01
"""Sleeping takes no core."""
IMAGES = 5_000
"""As many as a training keeps the correctness of."""
EPOCHS = 14
SECONDS = "1,5"
TRIALS = "100"
WORKERS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one training costs the driver, around the nth of a search, in milliseconds."""

    trials: int
    tune: float
    """CPU of the thread that runs Ray Tune."""
    optuna: float
    """From a call of the writer to its answer, disk included."""
    optuna_cpu: float
    rule: float
    """CPU of the rule, the judge and looking ahead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsed:
    """How a search went."""

    seconds: float
    """Of one training."""
    epochs: int
    workers: int
    trials: int
    start_up: float
    """Seconds until every worker had taken up its first training."""
    busy: float
    """Share of the workers' time after it that they slept."""
    handover: float
    """Seconds between two trainings of one worker: the median."""
    longest_handover: float
    costs: tuple[Cost, ...]
    driver_mib: float
    """What the driver had for itself at the end."""
    driver_growth_kib: float
    """How much more of it each training took, over the second half."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the flags, search, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag, metavar, text in (
        ("--seconds", "S,S", "lengths of a training, which only sleeps (default: 1,5)"),
        ("--trials", "N,N", "tell costs after so many trainings; the last ends it (default: 100)"),
        ("--workers", "N", "trainings side by side (default: 8)"),
    ):
        parser.add_argument(flag, metavar=metavar, help=text)
    return answer(parser, search, arguments)


def search(flags: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The rows of the bench, as text and as values."""
    problems = Problems()
    workers = problems.whole("--workers", flags["workers"], WORKERS, most=256)
    lengths = [
        problems.number("--seconds", text, 0.0, least=0.01, most=3600)
        for text in (flags["seconds"] or SECONDS).split(",")
    ]
    marks = [
        problems.whole("--trials", text, 0, least=4 * workers, most=100_000)
        for text in (flags["trials"] or TRIALS).split(",")
    ]
    problems.raise_any()
    rows = []
    for seconds in lengths:
        sleep = duration(max(marks) * seconds / workers)
        log.info(f"{max(marks):,} trainings of {seconds:g} s on {workers} workers: {sleep} at least")
        with tempfile.TemporaryDirectory(prefix="buildup-bench-") as folder:
            rows.append(rehearse(Path(folder) / "run", workers=workers, seconds=seconds, epochs=EPOCHS, marks=marks))
    return _text(rows), {"rows": [asdict(row) for row in rows]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """How long to sleep."""

    accuracy: float
    seconds: float
    epochs: int


def rest(job: Rest) -> Generator[Epoch, None, Score]:
    """Sleep, an epoch at a time."""
    began = time.time()
    for number in range(1, job.epochs + 1):
        time.sleep(job.seconds / job.epochs)
        yield Epoch(number=number, metrics={"accuracy": job.accuracy * number / job.epochs, "train_loss": 1 / number})
    metrics = {"began": began, "ended": time.time(), "pid": float(os.getpid())}
    return Score(accuracy=job.accuracy, metrics=metrics, correct=bytes(IMAGES // 8), images=IMAGES)


def rehearse(
    folder: Path,
    *,
    workers: int,
    seconds: float,
    epochs: int,
    marks: Sequence[int],
) -> Rehearsed:
    """Search in a new folder until the last of these numbers of trainings has ended; costs are told at each."""
    base = Candidate(network=sketch(LAYOUT))
    space = SearchSpace(name="rehearsal", description="every layout")
    rule, trials = exhaustive(base, space, 0), max(marks)
    replay = Replay(rule=rule, judge=JUDGES["point"], seeds=ceil((trials + workers) / len(rule.order)))

    def job(training: Training, own: Path, earlier: Sequence[Path]) -> Rest:
        # By its letters, so that verdicts fall both ways.
        accuracy = 50 + sum(map(ord, training.id)) % 1000 / 100
        return Rest(accuracy=accuracy, seconds=seconds, epochs=epochs)

    clock = _Clock()
    with (
        closing(
            RayEvaluator(
                folder=folder / "trainings",
                train=rest,
                job=job,
                workers=workers,
                cpus_per_worker=CPUS_PER_WORKER,
                gpus_per_worker=0,
                address=None,
                verbose=False,
            )
        ) as evaluator,
        closing(
            StudyWriter.create(folder=folder, storage_url=None, study_name="rehearsal", base=base.network)
        ) as writer,
    ):

        def limit(history: History) -> str | None:
            clock.tick(len(history.outcomes))
            return "enough" if len(history.outcomes) >= trials else None

        _, history = run_loop(
            replay,
            _TimedEvaluator(evaluator, clock),
            _TimedWriter(writer, clock),
            History(),
            limit=limit,
        )
    scores = [one for one in history.outcomes.values() if isinstance(one, Score)]
    start_up, busy, handovers = times(scores, workers, seconds, clock.began)
    half = trials // 2
    return Rehearsed(
        seconds=seconds,
        epochs=epochs,
        workers=workers,
        trials=trials,
        start_up=start_up,
        busy=busy,
        handover=median(handovers),
        longest_handover=max(handovers),
        costs=tuple(clock.cost(mark) for mark in sorted(marks)),
        driver_mib=clock.memory(trials) / 1024,
        driver_growth_kib=(clock.memory(trials) - clock.memory(half)) / max(1, trials - half),
    )


@dataclass(frozen=True, slots=True)
class _Reading:
    tune: float
    optuna: float
    optuna_cpu: float
    rule: float
    memory: float
    """In KiB."""


@dataclass(slots=True)
class _Clock:
    """What was spent so far, read whenever a training has ended."""

    began: float = field(default_factory=time.time)
    readings: list[_Reading] = field(default_factory=list)
    optuna: float = 0.0
    optuna_cpu: float = 0.0
    outside: float = 0.0
    """CPU of this thread in what is not the rule."""
    start: float = field(default_factory=time.thread_time)

    def tick(self, ended: int) -> None:
        """So many trainings have ended."""
        while len(self.readings) <= ended:
            rule = time.thread_time() - self.start - self.outside
            self.readings.append(_Reading(_tune_seconds(), self.optuna, self.optuna_cpu, rule, _own_memory()))

    def cost(self, trials: int) -> Cost:
        """Of one training, over the last ones before so many."""
        first = max(0, trials - WINDOW)
        one, other = self.readings[first], self.readings[trials]
        share = 1e3 / (trials - first)
        return Cost(
            trials=trials,
            tune=share * (other.tune - one.tune),
            optuna=share * (other.optuna - one.optuna),
            optuna_cpu=share * (other.optuna_cpu - one.optuna_cpu),
            rule=share * (other.rule - one.rule),
        )

    def memory(self, trials: int) -> float:
        """Of the driver in KiB, after so many trainings."""
        return self.readings[trials].memory

    @contextmanager
    def apart(self) -> Iterator[None]:
        """What is done inside is not the rule's."""
        began = time.thread_time()
        yield
        self.outside += time.thread_time() - began

    @contextmanager
    def writing(self) -> Iterator[None]:
        """What is done inside is the study's."""
        began, cpu = time.perf_counter(), self.outside
        with self.apart():
            yield
        self.optuna += time.perf_counter() - began
        self.optuna_cpu += self.outside - cpu


class _TimedEvaluator:
    """An evaluator whose time is kept apart."""

    def __init__(self, evaluator: Evaluator, clock: _Clock) -> None:
        self.workers = evaluator.workers
        self._evaluator = evaluator
        self._clock = clock

    def request(self, wanted: Sequence[Training]) -> None:
        with self._clock.apart():
            self._evaluator.request(wanted)

    def next_event(self, timeout: float | None = None) -> Event | None:
        with self._clock.apart():
            return self._evaluator.next_event(timeout)

    def close(self) -> None:
        self._evaluator.close()


class _TimedWriter:
    """A writer whose time is kept apart."""

    def __init__(self, writer: StudyWriter, clock: _Clock) -> None:
        self._journal = writer
        self._clock = clock

    def record(self, history: History, event: Event) -> History:
        with self._clock.writing():
            return self._journal.record(history, event)

    def decide(self, history: History, decision: Decision) -> History:
        with self._clock.writing():
            return self._journal.decide(history, decision)


def times(scores: Sequence[Score], workers: int, seconds: float, began: float) -> tuple[float, float, list[float]]:
    """Seconds of start-up, the busy share after it, and what lay between two trainings of one worker."""
    spans = defaultdict[float, list[tuple[float, float]]](list)
    for score in scores:
        spans[score.metrics["pid"]].append((score.metrics["began"], score.metrics["ended"]))
    rows = [sorted(row) for row in spans.values()]
    start = max(row[0][0] for row in rows)
    end = min(row[-1][1] for row in rows)
    slept = sum(
        seconds * max(0.0, min(last, end) - max(first, start)) / (last - first) for row in rows for first, last in row
    )
    gaps = [after[0] - before[1] for row in rows for before, after in pairwise(row) if before[1] >= start]
    return start - began, slept / (workers * (end - start)), gaps


def _tune_seconds() -> float:
    """CPU seconds of the thread that runs Ray Tune."""
    return sum(
        time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
        for thread in threading.enumerate()
        if thread.name.startswith("tune") and thread.ident is not None
    )


def _own_memory() -> float:
    """What this process has for itself in KiB, without the libraries that it shares with others."""
    with Path("/proc/self/statm").open(encoding="ascii") as file:
        _, resident, shared, *_ = map(int, file.read().split())
    return (resident - shared) * resource.getpagesize() / 1024


def _text(rows: list[Rehearsed]) -> str:
    heads = ["trainings of", "workers", "trainings", "start-up", "busy", "next training after", "at most"]
    shares = [
        [
            f"{row.seconds:g} s",
            f"{row.workers}",
            f"{row.trials}",
            f"{row.start_up:.1f} s",
            f"{row.busy:.1%}",
            f"{row.handover:.3f} s",
            f"{row.longest_handover:.3f} s",
        ]
        for row in rows
    ]
    cost_heads = ["trainings of", "around training", "Tune", "Optuna", "of it CPU", "rule"]
    costs = [
        [
            f"{row.seconds:g} s",
            f"{cost.trials}",
            *(f"{value:.1f} ms" for value in (cost.tune, cost.optuna, cost.optuna_cpu, cost.rule)),
        ]
        for row in rows
        for cost in row.costs
    ]
    most = max(rows, key=lambda row: row.driver_mib)
    return "\n".join(
        [
            *aligned([heads, *shares], right=range(len(heads))),
            "",
            *aligned([cost_heads, *costs], right=range(len(cost_heads))),
            "",
            f"Trainings of {EPOCHS} epochs that only sleep. What one costs the driver: CPU of Tune and the rule, "
            "and the seconds that Optuna takes with its disk.",
            f"The driver has {most.driver_mib:.0f} MiB for itself; a training adds {most.driver_growth_kib:.0f} KiB.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
