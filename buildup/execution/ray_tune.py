"""Real workers: Ray Tune runs the trainings in processes of its own, on this machine or on a cluster.

Tune is used for what it is good at, placing workers and noticing their deaths, and for nothing else: it searches
what the desk says, keeps no state that anyone restores, and prints nothing. Each of its trials is one attempt at
one training, each step of a trial one epoch.
"""

import gc
import math
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import Empty
from typing import Any, TextIO, cast

import ray
from ray import tune

from buildup.errors import SearchError
from buildup.execution.dispatcher import Assignment, FetchReusable, MakeJob, Train, TrialDispatcher
from buildup.execution.evaluator import raise_if_infrastructure
from buildup.execution.ray_cluster import QuietStdout, check_resources, join
from buildup.execution.ray_trainable import TrainingThread
from buildup.trials.event import Event
from buildup.trials.training import Training

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    # Tune would write all trials so far into a state that nobody restores, again and again.
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
    "TUNE_WARN_THRESHOLD_S": "1000000",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "1000000",
}
SLICE = 0.1
"""Seconds of waiting after which Python looks whether Ctrl-C was pressed."""


class RayEvaluator:
    """Trains what is wanted with Ray Tune, in workers that outlive their trainings."""

    def __init__(
        self,
        *,
        folder: Path,
        train: Train,
        job: MakeJob,
        workers: int,
        cpus_per_worker: float,
        gpus_per_worker: float,
        address: str | None,
        verbose: bool,
        fetch_reusable: FetchReusable | None = None,
    ) -> None:
        """Start Ray or connect to it.

        Args:
            folder: The run's folder of trainings; on a cluster all nodes must see it.
            train: A function of a module that the workers can import: a job in, epochs out, a score at the end.
            job: Makes the job of a training, given its attempt folder and that of an earlier attempt to go on from.
            workers: How many trainings run side by side.
            cpus_per_worker: Ray's CPUs of each.
            gpus_per_worker: GPUs of each, a share of one or a whole number.
            address: `host:port` of a Ray cluster, `auto` for the one that this machine belongs to, None to start one.
            verbose: Whether Ray and the workers may print.
            borrow: Looks for a training elsewhere before it is started.
        """
        self.workers = workers
        self._resources = {"CPU": cpus_per_worker, "GPU": gpus_per_worker}
        self._verbose = verbose
        self._dispatcher = TrialDispatcher(
            folder=folder.absolute(), train=train, job=job, workers=workers, fetch_reusable=fetch_reusable
        )
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tune")
        self._tuning: Future[None] | None = None
        self._results = Path(tempfile.mkdtemp(prefix="buildup-tune-"))
        self._environment = {name: os.environ.get(name) for name in (*ENVIRONMENT, "TUNE_MAX_PENDING_TRIALS_PG")}
        os.environ.update(ENVIRONMENT, TUNE_MAX_PENDING_TRIALS_PG=str(workers))
        self._owns_ray = False
        self._stdout = sys.stdout
        if not verbose:
            sys.stdout = cast(TextIO, QuietStdout(sys.stdout))
        try:
            gpus = None if gpus_per_worker else 0  # None: as many as Ray finds
            self._owns_ray = join(max(1, math.ceil(workers * cpus_per_worker)), gpus, address, verbose)
            check_resources(self._resources, workers, address)
        except BaseException:
            self.close()
            raise
        # Each full collection would go through all objects of the libraries: a quarter of a second in which no worker
        # gets its next training.
        gc.freeze()

    def request(self, requested: Sequence[Training]) -> None:
        """Start the first of these as workers get free, in this order, and end what runs but is not among them."""
        self._dispatcher.request(requested)
        if self._tuning is None and self._dispatcher.pending:
            # Not before: Tune looks for trials only once a second while it has none.
            self._tuning = self._thread.submit(self._tune)

    def next_event(self, timeout: float | None = None) -> Event | None:
        """The next thing that happened, waiting for it up to `timeout` seconds; None when nothing did."""
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            rest = SLICE if end is None else max(0.0, min(SLICE, end - time.monotonic()))
            try:
                event = self._dispatcher.events.get(timeout=rest) if rest else self._dispatcher.events.get_nowait()
                return raise_if_infrastructure(event)
            except Empty:
                if self._tuning is not None and self._tuning.done():
                    error = self._tuning.exception()
                    told = "".join(traceback.format_exception(error)) if error else "It ended without an error."
                    raise SearchError(f"Ray Tune stopped; `resume` goes on from the checkpoints.\n{told}") from error
                if (end is not None and time.monotonic() >= end) or (end is None and not self._dispatcher.pending):
                    return None

    def close(self) -> None:
        """End all that runs, at once; trainings keep their checkpoints. A cluster that was given is left running."""
        gc.unfreeze()
        self._dispatcher.closed = True
        if self._tuning is not None:
            for worker in self._dispatcher.busy_workers():
                # Tune would wait many seconds for an epoch to end. A process elsewhere is left to it.
                if worker.host == socket.gethostname():
                    with suppress(ProcessLookupError):
                        os.kill(worker.pid, signal.SIGKILL)
            self._thread.shutdown()
            self._tuning = None
        if self._owns_ray:
            ray.shutdown()
            self._owns_ray = False
        sys.stdout = self._stdout
        shutil.rmtree(self._results, ignore_errors=True)
        for name, value in self._environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    def _tune(self) -> None:
        tuner = tune.Tuner(
            tune.with_resources(
                _TrainingWorker, {name.lower(): share for name, share in self._resources.items() if share}
            ),
            tune_config=tune.TuneConfig(
                search_alg=_Searcher(self._dispatcher),
                num_samples=-1,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=tune.RunConfig(
                name="run",
                storage_path=str(self._results),
                stop=_Stopper(self._dispatcher),
                callbacks=[_ReleaseCallback(self._dispatcher)],
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                failure_config=tune.FailureConfig(max_failures=0),
                verbose=int(self._verbose),
            ),
        )
        tuner.fit()


class _TrainingWorker(tune.Trainable):
    """One process that works off orders: each step is one report."""

    _training: TrainingThread | None = None

    def setup(self, config: dict[str, Any]) -> None:
        self._take(config["order"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        self._take(new_config["order"])
        return True

    def step(self) -> dict[str, Any]:
        self.config = {}  # Tune sends it back with each result
        assert self._training is not None
        return {"report": self._training.next_report()}

    def cleanup(self) -> None:
        if self._training is not None:
            self._training.release()
            self._training = None

    def _take(self, assignment: Assignment) -> None:
        self._training = TrainingThread(assignment)


class _Searcher(tune.search.Searcher):
    """Gives Tune what the desk says."""

    def __init__(self, dispatcher: TrialDispatcher) -> None:
        super().__init__()
        self._dispatcher = dispatcher

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        if self._dispatcher.closed:
            return cast(dict[str, Any], tune.search.Searcher.FINISHED)  # a word, against Ray's own signature
        assignment = self._dispatcher.next_assignment(trial_id)
        return None if assignment is None else {"order": assignment}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: `_ReleaseCallback` is told more."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study holds all there is to know."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing was saved."""


class _Stopper(tune.Stopper):
    """Hands reports in, and ends Tune's trials when their workers are needed elsewhere."""

    def __init__(self, dispatcher: TrialDispatcher) -> None:
        self._dispatcher = dispatcher

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return self._dispatcher.report(trial_id, result.pop("report"))

    def stop_all(self) -> bool:
        return self._dispatcher.closed


class _ReleaseCallback(tune.Callback):
    """Tells the desk who has left it, and why."""

    def __init__(self, dispatcher: TrialDispatcher) -> None:
        self._dispatcher = dispatcher

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._dispatcher.release(trial.trial_id, None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        # Where Tune itself looks for the error, it is put only later.
        file = Path(trial.error_file or "")
        self._dispatcher.release(
            trial.trial_id, file.read_text(errors="replace").strip() if file.is_file() else "no reason"
        )
