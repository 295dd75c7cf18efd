"""Trains with Ray Tune, in worker processes on this machine or on a cluster.

Tune places workers and notices when they die. The dispatcher decides what they train: Tune's searcher asks it for the
next assignment, and each Tune trial is one attempt at one training. Tune keeps no state that is restored.
"""

import gc
import math
import os
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from queue import Empty
from typing import Any, cast

import ray
from ray import tune

from buildup.errors import SearchError
from buildup.execution.attempt import TrainingThread
from buildup.execution.background import in_thread
from buildup.execution.counters import counting
from buildup.execution.dispatcher import Assignment, FetchReusable, MakeJob, Train, TrialDispatcher
from buildup.execution.handshake import software
from buildup.execution.ray_cluster import head_answers, kill_ray, start_ray
from buildup.execution.ray_nodes import check_nodes, check_resources, end_process, places, resources_of
from buildup.execution.workers import Hosts
from buildup.store.remote_folder import RemoteFolder
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
CLOSE_TIMEOUT, INTERRUPTED_TIMEOUT = 60.0, 6.0
"""Seconds in which Ray must have stopped, and those after an interrupt: if the same signal has ended Ray's processes,
Ray would wait for them for a minute, and then end this process."""
HEAD_INTERVAL, HEAD_TIMEOUT = 5.0, 20.0
"""Seconds between two looks whether Ray's head answers, and those without an answer after which it is lost."""
WATCH_INTERVAL = 1.0
"""Seconds between two looks at workers that are silent."""


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
        accelerator: str | None = None,
        address: str | None,
        verbose: bool,
        fetch_reusable: FetchReusable | None = None,
        stall_timeout: float | None = None,
        name: str = "",
        remote: RemoteFolder | None = None,
    ) -> None:
        """Start Ray or connect to it.

        Args:
            folder: The run's folder of trainings, which all nodes of a cluster must share, without a remote one.
            train: Yields the epochs of a job and returns its score. The workers must be able to import it.
            job: Makes the job of a training, given its attempt folder and those of earlier attempts, the newest first.
            workers: How many trainings run side by side.
            cpus_per_worker: CPUs that Ray reserves for each worker.
            gpus_per_worker: GPUs for each worker: a fraction of one, or a whole number.
            accelerator: The kind of these GPUs, as Ray names it; any, if it is None.
            address: `host:port` of a Ray cluster, `auto` for the one that this machine belongs to, None to start one.
            verbose: Whether Ray and the workers may print.
            fetch_reusable: Copies a training from another run that has finished it, before it is started.
            stall_timeout: Seconds without a report after which a worker is ended; None to only tell of it.
            name: The name of the run in Ray's metrics.
            remote: Where the trainings write instead, so that nodes need not share the folder.
        """
        self.workers = workers
        self._stall_timeout = stall_timeout
        self._close_timeout = CLOSE_TIMEOUT
        self._watched = self._head_answered = self._head_asked = time.monotonic()
        self._resources = resources_of(cpus_per_worker, gpus_per_worker, accelerator)
        self._verbose = verbose
        self._dispatcher = TrialDispatcher(
            folder=folder.absolute(),
            train=train,
            job=job,
            workers=workers,
            fetch_reusable=fetch_reusable,
            hosts=Hosts(lambda without: places(self._resources, without)),
            expected=(expected := software()),
            count=counting(name),
            remote=remote,
        )
        self._tuning: Future[None] | None = None
        self._results = Path(tempfile.mkdtemp(prefix=f"buildup-tune-{os.getpid()}-"))
        self._environment = {name: os.environ.get(name) for name in (*ENVIRONMENT, "TUNE_MAX_PENDING_TRIALS_PG")}
        os.environ.update(ENVIRONMENT, TUNE_MAX_PENDING_TRIALS_PG=str(workers))
        self._owns_ray = False
        cpus, gpus = max(1, math.ceil(workers * cpus_per_worker)), None if gpus_per_worker else 0
        self._connect(cpus, gpus, address, partial(check_nodes, self._resources, expected, folder, remote))

    def _connect(self, cpus: int, gpus: int | None, address: str | None, check_cluster: Callable[[], None]) -> None:
        """Start Ray with so many CPUs and GPUs (None: as many as it finds), or connect to a cluster and check it."""
        try:
            self._owns_ray = start_ray(cpus, gpus, address, self._verbose)
            check_resources(self._resources, self.workers, address)
            if address is not None:
                check_cluster()
        except BaseException:
            self.close()
            raise
        # A full garbage collection over all objects of the libraries takes a quarter of a second, in which no worker
        # gets its next training.
        gc.freeze()

    def request(self, requested: Sequence[Training]) -> None:
        self._dispatcher.request(requested)
        if self._tuning is None and self._dispatcher.pending:
            # Not before: Tune looks for trials only once a second while it has none.
            self._tuning = in_thread(self._tune)

    def next_event(self, timeout: float | None = None) -> Event | None:
        try:
            return self._next_event(timeout)
        except KeyboardInterrupt:
            self._close_timeout = INTERRUPTED_TIMEOUT
            raise

    def _next_event(self, timeout: float | None) -> Event | None:
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            self._watch()
            rest = POLL_INTERVAL if end is None else max(0.0, min(POLL_INTERVAL, end - time.monotonic()))
            try:
                return self._dispatcher.events.get(timeout=rest) if rest else self._dispatcher.events.get_nowait()
            except Empty:
                if self._tuning is not None and self._tuning.done():
                    error = self._tuning.exception()
                    told = "".join(traceback.format_exception(error)) if error else "It ended without an error."
                    raise SearchError(f"Ray Tune stopped; `resume` goes on from the checkpoints.\n{told}") from error
                if (end is not None and time.monotonic() >= end) or (end is None and not self._dispatcher.pending):
                    return None

    def _watch(self) -> None:
        """Tell of workers that are silent, end those that have stalled, and raise if Ray itself has ended."""
        now = time.monotonic()
        if self._tuning is None or now - self._watched < WATCH_INTERVAL:
            return
        self._watched = now
        for worker in self._dispatcher.watch(self._stall_timeout):
            end_process(worker.pid, worker.node)
        if now - self._head_asked >= HEAD_INTERVAL:
            self._head_asked = now
            if head_answers():
                self._head_answered = now
            elif now - self._head_answered >= HEAD_TIMEOUT:
                # Ray would try for a minute, and then end this process without a word on how to go on.
                self._close_timeout = INTERRUPTED_TIMEOUT
                raise SearchError(
                    f"Ray's head has not answered for {now - self._head_answered:.0f} s: it has ended, or the network "
                    "to it is down. All trainings keep their checkpoints: `buildup resume` (or the same `buildup "
                    "final`) continues from there. A cluster that was given by --ray must be up again first."
                )

    def close(self) -> None:
        """Stop all trainings at once. They keep their checkpoints, and a given cluster keeps running."""
        gc.unfreeze()
        self._dispatcher.closed = True
        if self._tuning is not None:
            for worker in self._dispatcher.busy_workers():
                # Tune would wait many seconds for an epoch to end.
                end_process(worker.pid, worker.node)
        try:
            in_thread(self._stop, self._tuning, self._owns_ray).result(self._close_timeout)
        except TimeoutError:
            if self._owns_ray:
                kill_ray()
        self._tuning, self._owns_ray = None, False
        shutil.rmtree(self._results, ignore_errors=True)
        for name, value in self._environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    @staticmethod
    def _stop(tuning: "Future[None] | None", owns_ray: bool) -> None:
        """Wait for Tune to end, and stop Ray. Both wait a minute for processes that are gone, and then end this one."""
        if tuning is not None:
            tuning.exception()
        if owns_ray:
            ray.shutdown()

    def _tune(self) -> None:
        reports = _Reports(self._dispatcher)
        bundle = {name: float(share) for name, share in self._resources.items() if share}
        tuner = tune.Tuner(
            tune.with_resources(_TrainingWorker, partial(_placement, bundle)),
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


def _placement(bundle: dict[str, float], config: dict[str, Any]) -> tune.PlacementGroupFactory:
    """The resources of a worker, on another machine than those that its assignment avoids."""
    avoided = sorted(config["assignment"].avoided) if "assignment" in config else ()
    options: dict[str, Any] = {"bundle_label_selector": [{"ray.io/node-id": f"!in({','.join(avoided)})"}]}
    return tune.PlacementGroupFactory([bundle], **options if avoided else {})


class _TrainingWorker(tune.Trainable):
    """A worker process. Each step reports one update of its training."""

    _assignment: Assignment | None = None
    _training: TrainingThread | None = None

    def setup(self, config: dict[str, Any]) -> None:
        # Trained only once Tune has taken this worker for it: it may have waited too long, and given it to another.
        self._assignment = config["assignment"]
        signal.signal(signal.SIGTERM, self._leave)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        self._assignment = new_config["assignment"]
        return True

    def step(self) -> dict[str, Any]:
        self.config = {}  # Tune sends it back with each result
        if self._training is None:
            assert self._assignment is not None
            self._training = TrainingThread(self._assignment, ray.get_runtime_context().get_node_id())
        return {"update": self._training.next_update()}

    def _leave(self, number: int, frame: object) -> None:
        if self._training is None:
            os._exit(1)
        self._training.leave()

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
        error = file.read_text(encoding="utf-8", errors="replace").strip() if file.is_file() else "no reason"
        self._dispatcher.release(trial.trial_id, error)
