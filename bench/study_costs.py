"""What the Optuna study costs by itself: `python bench/study_costs.py [TRAININGS]`, in one process and without Ray.

Trainings of 14 epochs are written into studies in the current folder: 20 without SQLite's log, then as many as asked
for with it. Prints milliseconds of each training and of its CPU, at the beginning, after 100, and at the end.
"""

import sys
import tempfile
import time
from pathlib import Path

from buildup.graph.network import sketch
from buildup.store import storage
from buildup.store.study_writer import StudyWriter
from buildup.trials.candidate import Candidate
from buildup.trials.event import Event, Started, Update
from buildup.trials.outcome import Epoch, Record, Score
from buildup.trials.training import Training

AT_ONCE = 20
BASE = Candidate(network=sketch("CC|CC|CC|CC"))
CURVE = tuple(Epoch(number=number, metrics={"accuracy": 10.0 + number}) for number in range(1, 15))


def written(trainings: int) -> list[tuple[float, float]]:
    """The clock and the CPU's clock before the first training and after each."""
    with tempfile.TemporaryDirectory(dir=".") as place:
        writer = StudyWriter.create(
            folder=Path(place), storage_url=None, study_name="run", base=BASE.network, costs=lambda _: (1, 1)
        )
        history, clocks = writer.history, [(time.perf_counter(), time.process_time())]
        for seed in range(trainings):
            training = Training(candidate=BASE, seed=seed)
            record = Record(outcome=Score(accuracy=80.0, correct=bytes(625), images=5000), curve=CURVE)
            updates: list[Update] = [Started(attempt=1, host="one", pid=1), *CURVE, record]
            for update in updates:
                history = writer.record(history, Event(training=training, update=update))
            clocks.append((time.perf_counter(), time.process_time()))
        writer.close()
    return clocks


if __name__ == "__main__":
    asked = max(AT_ONCE, int(sys.argv[1]) if len(sys.argv) > 1 else 500)
    own_disks = storage.OWN_DISKS
    for log, trainings in (("without", AT_ONCE), ("with", asked)):
        storage.OWN_DISKS = own_disks if log == "with" else frozenset()
        clocks = written(trainings)
        for first in sorted({0, min(100, trainings - AT_ONCE), trainings - AT_ONCE}):
            last = first + AT_ONCE
            wall, cpu = (1e3 * (clocks[last][i] - clocks[first][i]) / AT_ONCE for i in (0, 1))
            print(f"{log} the log, trainings {first + 1} to {last}: {wall:.0f} ms each, {cpu:.0f} ms of it CPU")
