"""A search survives each of its writes: a full disk, a bad disk, a kill and a power cut at any of them.

The evaluator is simulated, with final records on the disk as workers write them; run folder, study and lock are real.
"""

import errno
import json
import os
import random
import shutil
import tempfile
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import alembic.util
import pytest
from optuna.trial import TrialState

from buildup.engine import load_state, reports, search, setup
from buildup.engine.replay import View
from buildup.engine.setup import create_writer
from buildup.errors import BuildupError
from buildup.execution.simulated import ScoreRow, SimulatedEvaluator
from buildup.files import write_atomic
from buildup.graph.network import sketch
from buildup.settings import ResumeSettings
from buildup.store.run_dir import FINAL, attempt_folder, attempts, check_free, final_record
from buildup.store.run_record import RunRecord, create_run_dir, open_record
from buildup.store.storage import opened_storage
from buildup.store.study_reader import history_of as study_history
from buildup.store.study_reader import load_study, read_history
from buildup.trials.event import Event, Started, Update
from buildup.trials.history import History
from buildup.trials.outcome import Epoch, Failure, Record, record_to_values
from buildup.trials.training import WEIGHTS, Training, candidate_id
from faulty_disk import Disk

MakeRun = Callable[..., RunRecord]
IMAGES = 64
EPOCHS = 2
LOADED: dict[str, Any] = {}


@dataclass
class Workers(SimulatedEvaluator):
    """Simulated workers that leave the files of real ones: an attempt, and a final record before it is reported."""

    folder: Path = Path()
    events: list[Event] = field(default_factory=list)
    trained: list[str] = field(default_factory=list)

    def request(self, trainings: Sequence[Training]) -> None:
        fresh = []
        for training in trainings:
            found = final_record(self.folder / training.id)
            if found is None:
                fresh.append(training)
            elif training.id not in self.trained:
                self.trained.append(training.id)
                self.events.append(Event(training=training, update=found[1]))
        super().request(fresh)

    def next_event(self, timeout: float | None = None) -> Event | None:
        if not self.events and (event := super().next_event(timeout)):
            self.events += self._reports(event)
        return self.events.pop(0) if self.events else None

    def _reports(self, event: Event) -> list[Event]:
        training, record = event.training, event.update
        assert isinstance(record, Record)
        if isinstance(record.outcome, Failure):
            return [event]
        chance = random.Random(training.id)
        accuracy = record.outcome.accuracy
        score = replace(
            record.outcome, images=IMAGES, correct=chance.randbytes(IMAGES // 8), losses=chance.randbytes(2 * IMAGES)
        )
        curve = tuple(
            Epoch(number=number, metrics={"accuracy": accuracy - EPOCHS + number, "train_loss": 1.0})
            for number in range(1, EPOCHS + 1)
        )
        record = Record(outcome=score, curve=curve)
        attempt = attempt_folder(self.folder / training.id, max(attempts(self.folder / training.id), default=0) + 1)
        attempt.mkdir(parents=True)
        (attempt / WEIGHTS).write_bytes(b"weights")
        write_atomic(attempt / FINAL, json.dumps(record_to_values(record)).encode())
        self.trained.append(training.id)
        started = Started(attempt=1, host="node1", pid=4711)
        updates: list[Update] = [started, *curve, record]
        return [Event(training=training, update=update) for update in updates]


def workers(record: RunRecord, *, verbose: bool = False) -> Workers:
    def row(training: Training) -> ScoreRow:
        kept = training.candidate.layout.count("M") - 4 * (training.candidate.layout == "CM|CM")
        return ScoreRow(score=70 + 3 * kept + random.Random(training.id).gauss(0, 0.2))

    return Workers(table=row, workers=record.settings.workers, folder=record.trainings)


def begin(record: RunRecord) -> None:
    """What `search` does once its request is checked."""
    check_free(record.folder)
    create_run_dir(record)
    with closing(create_writer(record)) as writer:
        search._follow(record, writer, workers(record), None)


def go_on(record: RunRecord) -> RunRecord:
    """What a user does after a stop: resume, or search again where the search had not begun."""
    if (record.folder / "run.yaml").exists():
        return search.resume_search(open_record(str(record.folder)), ResumeSettings()).record
    begin(record)
    return open_record(str(record.folder))


def _loaded_once(folder: str, name: str, load: Callable[[str, str], Any] = alembic.util.load_python_file) -> Any:
    """A script of alembic. Optuna has it load the same ten each time, which takes half of the time of a search."""
    if name == "env.py":  # it is run by being loaded
        return load(folder, name)
    if name not in LOADED:
        LOADED[name] = load(folder, name)
    return LOADED[name]


def report_only(run: RunRecord, view: View, history: History) -> bool:
    """Stands in for report and export of the winner, of which nothing is lost."""
    write_atomic(run.folder / "report.html", view.best.layout.encode())
    return True


@pytest.fixture(scope="module", autouse=True)
def _light() -> Iterator[None]:
    """Costs that need no torch, a report in place of report and export, and no images to check."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (setup, load_state, reports):
            patch.setattr(module, "costs_of", lambda candidate: (7, 11))
        patch.setattr(alembic.util, "load_python_file", _loaded_once)
        patch.setattr(search, "_workers", workers)
        patch.setattr(search, "check_data", lambda record: None)
        patch.setattr(search, "keep_winner", report_only)
        yield


@pytest.fixture(scope="module")
def asked(make_run: MakeRun) -> Iterator[RunRecord]:
    """The search, in memory where the machine has such a disk."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as place:
        yield make_run(
            Path(place) / "whole" / "demo",
            network=sketch("CC|CC"),
            seeds=1,
            judge="point",
            workers=2,
            allow_weak_base=True,
            keep_weights="winners",
            no_base_checks=False,
        )


@pytest.fixture(scope="module")
def expected(asked: RunRecord) -> History:
    """The history of the search on a sound disk."""
    begin(asked)
    return history_of(asked)


def history_of(record: RunRecord) -> History:
    return read_history(record.folder, None, record.study_name)


def check(record: RunRecord, expected: History) -> None:
    """Raise unless the search comes to its end from here, to the same decisions, with nothing lost or done twice."""
    finished = {path.parent.parent.name for path in record.folder.rglob(FINAL)}
    done = go_on(record)
    with opened_storage(None, done.folder) as storage:
        study = load_study(storage, None, done.study_name)
        history, trials = study_history(done.folder, study), study.get_trials(deepcopy=False)
    assert done.status == "finished"
    assert history.decisions == expected.decisions
    assert history.outcomes == {key: expected.outcomes[key] for key in history.outcomes}
    assert history.curves == {key: expected.curves[key] for key in history.curves}
    lines = [json.loads(line) for line in (done.folder / "decisions.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [decision.step for decision in expected.decisions]
    assert finished <= history.outcomes.keys()
    weights = {candidate_id(path.parents[1].name) for path in done.folder.rglob(WEIGHTS)}
    assert weights == {expected.decisions[0].parent, expected.decisions[-1].parent}
    complete = [trial.user_attrs["training"] for trial in trials if trial.state is TrialState.COMPLETE]
    assert sorted(complete) == sorted(history.outcomes)
    assert not [trial for trial in trials if trial.state is TrialState.RUNNING]
    assert not [path for path in done.folder.rglob(".*") if path.name.startswith((".run.yaml", ".study.db"))]


@dataclass
class Points:
    """The writes of a search that is watched, and what was on the disk whenever a training began."""

    record: RunRecord
    disk: Disk
    names: list[str] = field(default_factory=list)
    starts: dict[int, Path] = field(default_factory=dict)
    """By the number of its first write."""

    def beside(self, name: str) -> RunRecord:
        """The same run in a folder of its own."""
        return replace(self.record, folder=self.record.folder.parent.parent / name / "demo")

    @property
    def faults(self) -> list[tuple[Path | None, int]]:
        """Where a search starts or goes on, and the number of the write from there that is to fail."""
        numbers = [*self.starts, len(self.names)]
        lengths = [numbers[0], *(after - before + REOPENING for before, after in pairwise(numbers))]
        return [
            (image, number)
            for image, length in zip([None, *self.starts.values()], lengths, strict=True)
            for number in range(length)
        ]


REOPENING = 8
"""About so many more writes are made when a search goes on."""


@pytest.fixture(scope="module")
def points(asked: RunRecord, expected: History) -> Points:
    place = asked.folder.parent.parent
    record = replace(asked, folder=place / "live" / "demo")
    record.folder.parent.mkdir()
    found = Points(record=record, disk=Disk(record.folder))

    def before(name: str) -> None:
        if name.startswith("mkdir trainings/") and name.endswith("attempt-1"):
            found.starts[len(found.names)] = place / f"start-{len(found.names)}"
            found.disk.copy(found.starts[len(found.names)])
        found.names.append(name)

    with found.disk.watch(before):
        begin(record)
    return found


def stopped(
    points: Points, expected: History, chosen: Collection[int], copy: Callable[[Disk, Path], None]
) -> list[str]:
    """Search once more; before each chosen write, go on from what a process would find that starts there."""
    wrong: list[str] = []
    image, number = points.beside("image"), count()
    shutil.rmtree(points.record.folder)

    def before(name: str) -> None:
        if next(number) in chosen and points.record.folder.exists():
            copy(points.disk, image.folder)
            wrong.extend(tried(name, image, expected))
            shutil.rmtree(image.folder)

    with points.disk.watch(before):
        begin(points.record)
    return wrong


def failed(points: Points, expected: History, chosen: Collection[int], code: int, *, lasting: bool) -> list[str]:
    """For each chosen write, search until it fails, from the training before it on; then go on on a sound disk."""
    wrong: list[str] = []
    record = points.beside("faulty")
    for image, number in (one for index, one in enumerate(points.faults) if index in chosen):
        if image:
            shutil.copytree(image, record.folder)
        names, ended = broken(record, number, code, lasting=lasting)
        wrong += ended or tried(names[-1], record, expected)
        shutil.rmtree(record.folder, ignore_errors=True)
    return wrong


def broken(record: RunRecord, fatal: int, code: int, *, lasting: bool) -> tuple[list[str], list[str]]:
    """Search until one write fails, or that and all later ones; the writes, and what is wrong with the end."""
    names: list[str] = ["nothing"]

    def before(name: str) -> None:
        names.append(name)
        if len(names) == fatal + 2 or (lasting and len(names) > fatal + 1 and not name.startswith(("unlink", "rmdir"))):
            raise OSError(code, os.strerror(code), name)

    with Disk(record.folder).watch(before):
        try:
            go_on(record)
        except (BuildupError, OSError):
            pass
        except Exception:  # noqa: BLE001 - what a user would see as a traceback
            return names, [f"{names[fatal + 1]}: {traceback.format_exc()}"]
    return names, []


def tried(point: str, record: RunRecord, expected: History) -> list[str]:
    """What is wrong with going on from here, if anything is."""
    try:
        check(record, expected)
    except Exception:  # noqa: BLE001 - all points with a problem are wanted
        return [f"{point}: {traceback.format_exc()}"]
    return []


Stops = dict[str, Callable[[Points, History, Collection[int]], list[str]]]
STOPS: Stops = {
    "kill": lambda points, expected, chosen: stopped(points, expected, chosen, Disk.copy),
    "power cut": lambda points, expected, chosen: stopped(points, expected, chosen, Disk.copy_synced),
    "power cut while the log is written": lambda points, expected, chosen: stopped(
        points, expected, chosen, lambda disk, to: disk.copy_synced(to, share=0.6)
    ),
    "full disk": lambda points, expected, chosen: failed(points, expected, chosen, errno.ENOSPC, lasting=True),
    "bad sector": lambda points, expected, chosen: failed(points, expected, chosen, errno.EIO, lasting=False),
}


@pytest.mark.parametrize("what", STOPS)
def test_a_search_comes_to_the_same_decisions_after_a_stop_at_some_writes(
    what: str, points: Points, expected: History
) -> None:
    chosen = random.Random(what).sample(range(len(points.names)), 4)
    assert STOPS[what](points, expected, chosen) == []


@pytest.mark.slow
@pytest.mark.parametrize("what", STOPS)
def test_a_search_comes_to_the_same_decisions_after_a_stop_at_any_write(
    what: str, points: Points, expected: History
) -> None:
    assert len(STOPS) * len(points.names) >= 2000
    assert STOPS[what](points, expected, range(len(points.faults))) == []
