"""Trains with Ray Tune, in worker processes on this machine or on a cluster.

Tune places workers and notices when they die. The dispatcher decides what they train: Tune's searcher asks it for the
next assignment, and each Tune trial is one attempt at one training. Tune keeps no state that is restored.
"""

import gc
import math
import os
import shutil
import signal
import socket
import tempfile
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import Empty
from typing import Any, cast

import ray
from ray import tune

from buildup.errors import SearchError
from buildup.execution.attempt import TrainingThread
from buildup.execution.dispatcher import FetchReusable, MakeJob, Train, TrialDispatcher
from buildup.execution.evaluator import raise_if_infrastructure
from buildup.execution.ray_cluster import check_resources, start_ray
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
    # Tune would write the state of all trials again and again, which nobody restores.
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
    "TUNE_WARN_THRESHOLD_S": "1000000",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "1000000",
}
POLL_INTERVAL = 0.1
"""Seconds between two checks for Ctrl-C while waiting for an event."""


class RayEvaluator:
    """Trains what is requested with Ray Tune, in workers that are reused for the next training."""

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
            folder: The run's folder of trainings, which all nodes of a cluster must share.
            train: Yields the epochs of a job and returns its score. The workers must be able to import it.
            job: Makes the job of a training, given its attempt folder and that of an earlier attempt to resume from.
            workers: How many trainings run side by side.
            cpus_per_worker: CPUs that Ray reserves for each worker.
            gpus_per_worker: GPUs for each worker: a fraction of one, or a whole number.
            address: `host:port` of a Ray cluster, `auto` for the one that this machine belongs to, None to start one.
            verbose: Whether Ray and the workers may print.
            fetch_reusable: Copies a training from another run that has finished it, before it is started.
        """
        self.workers = workers
        self._resources = {"CPU": cpus_per_worker, "GPU": gpus_per_worker}
        self._verbose = verbose
        self._dispatcher = TrialDispatcher(
            folder=folder.absolute(), train=train, job=job, workers=workers, fetch_reusable=fetch_reusable
        )
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tune")
        self._tuning: Future[None] | None = None
        self._results = Path(tempfile.mkdtemp(prefix=f"buildup-tune-{os.getpid()}-"))
        self._environment = {name: os.environ.get(name) for name in (*ENVIRONMENT, "TUNE_MAX_PENDING_TRIALS_PG")}
        os.environ.update(ENVIRONMENT, TUNE_MAX_PENDING_TRIALS_PG=str(workers))
        self._owns_ray = False
        try:
            gpus = None if gpus_per_worker else 0  # None: as many as Ray finds
            self._owns_ray = start_ray(max(1, math.ceil(workers * cpus_per_worker)), gpus, address, verbose)
            check_resources(self._resources, workers, address)
        except BaseException:
            self.close()
            raise
        # A full garbage collection over all objects of the libraries takes a quarter of a second, in which no worker
        # gets its next training.
        gc.freeze()

    def request(self, requested: Sequence[Training]) -> None:
        """Start the first of these as workers become free, in this order, and stop what runs but is not listed."""
        self._dispatcher.request(requested)
        if self._tuning is None and self._dispatcher.pending:
            # Not before: Tune looks for trials only once a second while it has none.
            self._tuning = self._thread.submit(self._tune)

    def next_event(self, timeout: float | None = None) -> Event | None:
        """The next thing that happened, waiting for it up to `timeout` seconds; None when nothing did."""
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            rest = POLL_INTERVAL if end is None else max(0.0, min(POLL_INTERVAL, end - time.monotonic()))
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
        """Stop all trainings at once. They keep their checkpoints, and a given cluster keeps running."""
        gc.unfreeze()
        self._dispatcher.closed = True
        if self._tuning is not None:
            for worker in self._dispatcher.busy_workers():
                # Tune would wait many seconds for an epoch to end. It does so for processes on other machines.
                if worker.host == socket.gethostname():
                    with suppress(ProcessLookupError):
                        os.kill(worker.pid, signal.SIGKILL)
            self._thread.shutdown()
            self._tuning = None
        if self._owns_ray:
            ray.shutdown()
            self._owns_ray = False
        shutil.rmtree(self._results, ignore_errors=True)
        for name, value in self._environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    def _tune(self) -> None:
        reports = _Reports(self._dispatcher)
        resources = {name.lower(): share for name, share in self._resources.items() if share}
        tuner = tune.Tuner(
            tune.with_resources(_TrainingWorker, resources),
            tune_config=tune.TuneConfig(
                search_alg=_Searcher(self._dispatcher),
                num_samples=-1,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=tune.RunConfig(
                name="run",
                storage_path=str(self._results),
                stop=reports,
                callbacks=[reports],
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                failure_config=tune.FailureConfig(max_failures=0),
                verbose=int(self._verbose),
            ),
        )
        tuner.fit()


class _TrainingWorker(tune.Trainable):
    """A worker process. Each step reports one update of its training."""

    _training: TrainingThread | None = None

    def setup(self, config: dict[str, Any]) -> None:
        self._training = TrainingThread(config["assignment"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        self.config = {}  # Tune sends it back with each result
        assert self._training is not None
        return {"update": self._training.next_update()}

    def cleanup(self) -> None:
        if self._training is not None:
            self._training.release()
            self._training = None


class _Searcher(tune.search.Searcher):
    """Gives Tune the assignments of the dispatcher."""

    def __init__(self, dispatcher: TrialDispatcher) -> None:
        super().__init__()
        self._dispatcher = dispatcher

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        if self._dispatcher.closed:
            # A string, which Ray's own signature does not allow.
            return cast(dict[str, Any], tune.search.Searcher.FINISHED)
        assignment = self._dispatcher.next_assignment(trial_id)
        return None if assignment is None else {"assignment": assignment}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Does nothing: `_Reports` gets the error, too."""

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: the study holds the whole state."""


class _Reports(tune.Stopper, tune.Callback):
    """Passes updates and the ends of trials to the dispatcher; stops a trial when its worker should take another."""

    def __init__(self, dispatcher: TrialDispatcher) -> None:
        self._dispatcher = dispatcher

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return self._dispatcher.report(trial_id, result.pop("update"))

    def stop_all(self) -> bool:
        return self._dispatcher.closed

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._dispatcher.release(trial.trial_id, None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        # Tune sets the exception of the trial only later, but its file is there.
        file = Path(trial.error_file or "")
        error = file.read_text(errors="replace").strip() if file.is_file() else "no reason"
        self._dispatcher.release(trial.trial_id, error)
