"""Real workers: Ray Tune runs the trainings in processes of its own, on this machine or on a cluster.

Tune is used for what it is good at, placing workers and noticing their deaths, and for nothing else: it searches
what the desk says, keeps no state that anyone restores, and prints nothing. Each of its trials is one attempt at
one training, each step of a trial one epoch.
"""

import gc
import logging
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty
from typing import Any, TextIO, cast

import ray
from ray import tune

from buildup.errors import ResourceError, SearchError
from buildup.search.desk import Borrow, Desk, MakeJob, Order, Train
from buildup.search.evaluate import Event, raise_if_of_the_place
from buildup.search.shift import Shift
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
ANSWER = 5.0
"""Seconds that a cluster gets to answer at its address at all."""
CONNECT = 30.0
"""Seconds that connecting to it may take."""
SLICE = 0.1
"""Seconds of waiting after which Python looks whether Ctrl-C was pressed."""
OBJECT_STORE = 100 * 2**20
"""Bytes: orders and reports are small, and Ray would take a third of the memory."""


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
        borrow: Borrow | None = None,
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
        self._desk = Desk(folder=folder.absolute(), train=train, job=job, workers=workers, borrow=borrow)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tune")
        self._tuning: Future[None] | None = None
        self._results = Path(tempfile.mkdtemp(prefix="buildup-tune-"))
        self._environment = {name: os.environ.get(name) for name in (*ENVIRONMENT, "TUNE_MAX_PENDING_TRIALS_PG")}
        os.environ.update(ENVIRONMENT, TUNE_MAX_PENDING_TRIALS_PG=str(workers))
        self._owns_ray = False
        self._stdout = sys.stdout
        if not verbose:
            sys.stdout = cast(TextIO, _Hushed(sys.stdout))
        try:
            gpus = None if gpus_per_worker else 0  # None: as many as Ray finds
            self._owns_ray = _join_ray(max(1, math.ceil(workers * cpus_per_worker)), gpus, address, verbose)
            _check_resources(self._resources, workers, address)
        except BaseException:
            self.close()
            raise
        # Half a million objects of libraries, which each full collection would go through: a quarter of a second
        # in which no worker gets its next training.
        gc.freeze()

    def want(self, wanted: Sequence[Training]) -> None:
        """Start the first of these as workers get free, in this order, and end what runs but is not among them."""
        self._desk.want(wanted)
        if self._tuning is None and self._desk.pending:
            # Not before: Tune looks for trials only once a second while it has none.
            self._tuning = self._thread.submit(self._tune)

    def next_event(self, timeout: float | None = None) -> Event | None:
        """The next thing that happened, waiting for it up to `timeout` seconds; None when nothing did."""
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            rest = SLICE if end is None else max(0.0, min(SLICE, end - time.monotonic()))
            try:
                event = self._desk.events.get(timeout=rest) if rest else self._desk.events.get_nowait()
                return raise_if_of_the_place(event)
            except Empty:
                if self._tuning is not None and self._tuning.done():
                    error = self._tuning.exception()
                    told = "".join(traceback.format_exception(error)) if error else "It ended without an error."
                    raise SearchError(f"Ray Tune stopped; `resume` goes on from the checkpoints.\n{told}") from error
                if (end is not None and time.monotonic() >= end) or (end is None and not self._desk.pending):
                    return None

    def close(self) -> None:
        """End all that runs, at once; trainings keep their checkpoints. A cluster that was given is left running."""
        gc.unfreeze()
        self._desk.closed = True
        if self._tuning is not None:
            for worker in self._desk.busy():
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
            tune.with_resources(_Worker, {name.lower(): share for name, share in self._resources.items() if share}),
            tune_config=tune.TuneConfig(
                search_alg=_Searcher(self._desk),
                num_samples=-1,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=tune.RunConfig(
                name="run",
                storage_path=str(self._results),
                stop=_Stopper(self._desk),
                callbacks=[_Mourner(self._desk)],
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                failure_config=tune.FailureConfig(max_failures=0),
                verbose=int(self._verbose),
            ),
        )
        tuner.fit()


class _Worker(tune.Trainable):
    """One process that works off orders: each step is one report."""

    _shift: Shift | None = None

    def setup(self, config: dict[str, Any]) -> None:
        self._take(config["order"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        self._take(new_config["order"])
        return True

    def step(self) -> dict[str, Any]:
        self.config = {}  # Tune sends it back with each result
        assert self._shift is not None
        return {"report": self._shift.next_report()}

    def cleanup(self) -> None:
        if self._shift is not None:
            self._shift.leave()
            self._shift = None

    def _take(self, order: Order) -> None:
        self._shift = Shift(order)


class _Hushed:
    """Standard output without what Ray tells there, whatever its settings: which worker died, and also which we ended.

    We tell of deaths ourselves, and a result may have to be the only thing there.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        if threading.current_thread().name == "ray_listen_error_messages":
            return len(text)
        return self._stream.write(text)


class _Searcher(tune.search.Searcher):
    """Gives Tune what the desk says."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        if self._desk.closed:
            return cast(dict[str, Any], tune.search.Searcher.FINISHED)  # a word, against Ray's own signature
        order = self._desk.next_order(trial_id)
        return None if order is None else {"order": order}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: `_Mourner` is told more."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study holds all there is to know."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing was saved."""


class _Stopper(tune.Stopper):
    """Hands reports in, and ends Tune's trials when their workers are needed elsewhere."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return self._desk.hand_in(trial_id, result.pop("report"))

    def stop_all(self) -> bool:
        return self._desk.closed


class _Mourner(tune.Callback):
    """Tells the desk who has left it, and why."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._desk.leave(trial.trial_id, None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        # Where Tune itself looks for the error, it is put only later.
        file = Path(trial.error_file or "")
        self._desk.leave(trial.trial_id, file.read_text(errors="replace").strip() if file.is_file() else "no reason")


def _join_ray(cpus: int, gpus: int | None, address: str | None, verbose: bool) -> bool:
    """Start Ray here or connect to the cluster; False where this process has it already."""
    logging.getLogger("ray").setLevel(logging.INFO if verbose else logging.CRITICAL)
    if address is not None:
        _check_address(address)
    if ray.is_initialized():
        return False
    options: dict[str, Any] = {
        "log_to_driver": verbose,
        "logging_level": logging.INFO if verbose else logging.CRITICAL,
    }
    if address is None:
        options |= {
            "address": "local",
            "num_cpus": cpus,
            "num_gpus": gpus,
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE,
        }
    else:
        options["address"] = address
    with _own_signals():
        try:
            ray.init(**options)
        except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as error:
            where = f"connecting to the Ray cluster at {address}" if address else "starting Ray on this machine"
            raise ResourceError(f"{where} failed: {error}") from None
    return True


def _check_address(address: str) -> None:
    """Refuse an address where no Ray answers. Ray itself would try for minutes, and then end the whole process."""
    if address != "auto":
        host, _, port = address.rpartition(":")
        if not host or "/" in host or not port.isdecimal():
            raise ResourceError(
                f"Ray address {address!r}: `host:port` of the cluster's head is needed, such as 10.0.0.1:6379, "
                f"or `auto` for the cluster that this machine belongs to. Run the search on a machine of the cluster."
            )
        try:
            socket.create_connection((host, int(port)), timeout=ANSWER).close()
        except (OSError, OverflowError) as error:
            raise ResourceError(
                f"Ray address {address}: nothing answers there within {ANSWER:g} s ({error}). "
                f"Is the cluster up (`ray start --head --port {port}` on {host}), and is the port open from here?"
            ) from None
    if ray.is_initialized():
        return
    trial = [sys.executable, "-c", "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False)", address]
    try:
        done = subprocess.run(trial, capture_output=True, text=True, timeout=CONNECT, check=False)
    except subprocess.TimeoutExpired:
        raise ResourceError(
            f"Ray address {address}: something answers there, but it was no Ray cluster within {CONNECT:g} s."
        ) from None
    if done.returncode:
        said = [line for line in done.stderr.strip().splitlines() if line.strip()]
        raise ResourceError(f"Ray address {address}: connecting failed. Ray says: {said[-1] if said else 'nothing'}")


def _check_resources(resources: dict[str, float], workers: int, address: str | None) -> None:
    """Refuse what these machines can never give: Ray would wait for it in silence."""
    gpus = resources["GPU"]
    if gpus > 1 and gpus != int(gpus):
        raise ResourceError(f"{gpus:g} GPUs per training: Ray gives a share of one GPU, or a whole number of them.")
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    places = sum(min(_places(node.get(name, 0.0), share) for name, share in resources.items()) for node in nodes)
    if places < workers:
        asked = " and ".join(f"{share:g} {name}" for name, share in resources.items() if share)
        exists = "; ".join(
            f"{node.get('CPU', 0):g} CPU and {node.get('GPU', 0):g} GPU" for node in nodes if node.get("CPU")
        )
        where = f"the Ray cluster at {address}" if address else "Ray on this machine"
        raise ResourceError(
            f"{workers} workers with {asked} each do not fit: {where} has {exists or 'nothing'}, "
            f"which is room for {int(places)}. Ask for fewer workers or less for each."
        )


def _places(there: float, share: float) -> float:
    if not share:
        return math.inf
    # A share of a GPU never spans two of them.
    return math.floor(there) * math.floor(1 / share + 1e-9) if share < 1 else math.floor(there / share + 1e-9)


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep Ctrl-C and termination ours: Ray sets handlers of its own when it starts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
