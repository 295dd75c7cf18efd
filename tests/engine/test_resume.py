"""Real workers and a real study together: a driver that is killed at any moment loses nothing."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from buildup.store.storage import opened_storage
from buildup.store.study_reader import read_history

DRIVER = """
    import sys, time
    from pathlib import Path
    from buildup.graph.network import sketch
    from buildup.store.study_writer import StudyWriter
    from buildup.execution.ray_tune import RayEvaluator
    from buildup.trials.training import Candidate
    from buildup.trials.outcome import Epoch, Score
    from buildup.trials.training import Training

    def train(job):
        folder, earlier, seed = job
        kept = [place / "checkpoint.pt" for place in earlier]
        first = next((int(path.read_text()) for path in kept if path.is_file()), 0)
        for number in range(1, 9):
            if number > first:
                time.sleep(0.5)
            (folder / "checkpoint.pt").write_text(str(number))
            yield Epoch(number=number, metrics={"accuracy": 10.0 * seed + number})
        return Score(accuracy=10.0 * seed, correct=bytes([seed]), images=8)

    def main(folder):
        network = sketch("CC|CC")
        settings = {"folder": folder, "storage_url": None, "study_name": "run", "base": network}
        writer = StudyWriter.open(**settings) if (folder / "study.db").exists() else StudyWriter.create(**settings)
        history = writer.history
        evaluator = RayEvaluator(
            folder=folder / "trainings", train=train, job=lambda training, own, earlier: (own, earlier, training.seed),
            workers=2, cpus_per_worker=1, gpus_per_worker=0, address=None, verbose=False,
        )
        candidate = Candidate(network=network)
        print("ready", flush=True)
        while left := [seed for seed in range(6) if not history.outcome(candidate.id, seed)]:
            evaluator.request([Training(candidate=candidate, seed=seed) for seed in left])
            if event := evaluator.next_event(timeout=1.0):
                history = writer.record(history, event)
        evaluator.close()
        writer.close()

    main(Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_driver_that_is_killed_twice_repeats_no_training_and_no_epoch(
    tmp_path: Path, start: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    file = tmp_path / "driver.py"
    file.write_text(textwrap.dedent(DRIVER))
    run = tmp_path / "run"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}

    def driver() -> "subprocess.Popen[bytes]":
        return start([sys.executable, str(file), str(run)], stdout=subprocess.PIPE, env=environment)

    for more in (3, 4):
        before = epochs_in(run)
        process = driver()
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        deadline = time.monotonic() + 60
        while epochs_in(run) < before + more:  # in the middle of two trainings
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    process = driver()
    process.communicate(timeout=90)
    assert process.returncode == 0

    history = read_history(run, None, "run")
    assert sorted(outcome.seconds for outcome in history.outcomes.values()) == [0.0] * 6
    assert all([epoch.number for epoch in curve] == list(range(1, 9)) for curve in history.curves.values())
    with opened_storage(None, run) as storage:
        trials = optuna.load_study(study_name="run", storage=storage).get_trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 6
    assert all(len(trial.intermediate_values) == 8 for trial in trials)
    assert len(list(run.glob("trainings/*/attempt-*"))) > 6, "nothing was interrupted, so nothing was tested"


def epochs_in(run: Path) -> int:
    """How many epochs of all trainings are written down."""
    return sum(path.read_bytes().count(b"\n") for path in run.glob("trainings/*/metrics.jsonl"))
