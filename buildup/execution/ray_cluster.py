"""Starts Ray on this machine or connects to a cluster, and calls functions there."""

import atexit
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

import ray

from buildup.errors import BuildupError, ResourceError
from buildup.execution import has_token
from buildup.execution.background import in_thread
from buildup.execution.ray_nodes import ACCELERATOR, check_resources, grows, words

Value = TypeVar("Value")

ANSWER_TIMEOUT = 5.0
"""Seconds for the first answer from a cluster's address."""
CONNECT_TIMEOUT = 30.0
"""Seconds for connecting to the cluster."""
FREE_TIMEOUT, GROWTH_TIMEOUT = 120.0, 900.0
"""Seconds in which a busy cluster must have a free worker; and one that grows, because new machines take minutes."""
CALL_TIMEOUT = 900.0
"""Seconds for a call on it. Compiling a large network takes minutes."""
OBJECT_STORE = 100 * 2**20
"""Bytes. Assignments and updates are small, and Ray would reserve a third of the memory."""

WORKER_MODULES = ("buildup.execution.ray_tune", "buildup.training.fit")
"""What workers of a search load while the driver prepares their first training."""
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
"""Set while Ray runs; its processes inherit it."""

NO_TOKEN_SIGNS = ("InvalidAuthToken", "no authentication token was found")
"""Parts of what Ray says if this machine has not the token of a cluster. Since 2.60 each new cluster has one."""


def local_resources(workers: int, cpus_per_worker: float, gpus_per_worker: float) -> tuple[int, int | None]:
    """The CPUs and GPUs of a Ray on this machine; None for as many GPUs as it finds."""
    return max(1, math.ceil(workers * cpus_per_worker)), None if gpus_per_worker else 0


@contextmanager
def in_environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment in a block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


_starting: tuple[tuple[int, int | None, bool], "Future[None]"] | None = None
"""A start of Ray that nobody has waited for yet, with its arguments."""


@contextmanager
def starting(workers: int, cpus_per_worker: float, gpus_per_worker: float, verbose: bool) -> Iterator[None]:
    """Start Ray and workers on this machine during a block, where `start_ray` with the same resources waits for Ray.

    A Ray that nobody waits for ends with this process.
    """
    global _starting
    cpus, gpus = local_resources(workers, cpus_per_worker, gpus_per_worker)
    # Ray starts a process for each CPU, which would be too many to load libraries where a worker has several.
    modules = WORKER_MODULES if cpus == workers else ()
    with in_environment(ENVIRONMENT):
        # The kernel ends Ray's processes with the thread that has started them.
        _starting = (cpus, gpus, verbose), in_thread(_start_here, cpus, gpus, verbose, modules, stays=True)
        try:
            yield
        finally:
            _starting = None


def start_ray(cpus: int, gpus: int | None, address: str | None, verbose: bool) -> bool:
    """Start Ray or connect to the cluster at the address; False if this process is connected already."""
    global _starting
    if address is not None:
        _check_address(address)
    if _starting is not None:
        (arguments, started), _starting = _starting, None
        started.result()
        if address is None and arguments == (cpus, gpus, verbose):
            return True
        ray.shutdown()  # it was begun for other settings
    if ray.is_initialized():
        return False
    if address is None:
        _start_here(cpus, gpus, verbose)
    else:
        _init(verbose, address=address)
    return True


def _start_here(cpus: int, gpus: int | None, verbose: bool, modules: Sequence[str] = ()) -> None:
    _init(
        verbose,
        address="local",
        num_cpus=cpus,
        num_gpus=gpus,
        include_dashboard=False,
        object_store_memory=OBJECT_STORE,
        _system_config={"preload_python_modules": list(modules)},
    )


def _init(verbose: bool, **options: Any) -> None:
    level = logging.INFO if verbose else logging.CRITICAL
    logging.getLogger("ray").setLevel(level)
    # Ray sets its own handlers, as is possible in the main thread only.
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    handlers = {number: signal.getsignal(number) for number in numbers}
    try:
        ray.init(log_to_driver=verbose, logging_level=level, **options)
    except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as error:
        address = options["address"]
        where = "starting Ray on this machine" if address == "local" else f"connecting to the Ray cluster at {address}"
        raise ResourceError(f"{where} failed: {error}") from None
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def gpus_of(address: str) -> float:
    """The number of GPUs of a cluster."""
    with _connected(address):
        return float(ray.cluster_resources().get("GPU", 0.0))  # type: ignore[no-untyped-call]


def accelerators_of(address: str) -> dict[str, float]:
    """The number of GPUs of each kind that a cluster has, as Ray names them, the most numerous first."""
    found: Counter[str] = Counter()
    with _connected(address):
        for node in ray.nodes():  # type: ignore[no-untyped-call]
            for name in node["Resources"] if node["Alive"] else ():
                if name.startswith(ACCELERATOR):
                    found[name.removeprefix(ACCELERATOR)] += node["Resources"].get("GPU", 0)
    return {name: count for name, count in found.most_common() if count}


def on_worker(
    function: Callable[..., Value], *arguments: object, resources: Mapping[str, float], address: str
) -> Value:
    """Call a function on a machine of a cluster, with the resources of a worker.

    What holds for a worker is found out there, because the driver may have another chip, or no GPU.
    """
    with _connected(address):
        check_resources(resources, 1, address)
        free = GROWTH_TIMEOUT if grows() else FREE_TIMEOUT
        others = {name: share for name, share in resources.items() if name not in ("CPU", "GPU")}
        remote = ray.remote(num_cpus=resources["CPU"], num_gpus=resources["GPU"], resources=others, max_retries=0)
        try:
            ray.get(remote(_nothing).remote(), timeout=free)
            found: Value = ray.get(remote(function).remote(*arguments), timeout=CALL_TIMEOUT)
        except ray.exceptions.GetTimeoutError:
            raise ResourceError(
                f"The Ray cluster at {address} had no worker with {words(resources)} free within "
                f"{free:g} s, or it did not answer within {CALL_TIMEOUT:g} s. Is another search running there?"
            ) from None
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, BuildupError):
                raise cause from None
            said = (str(cause).strip() or type(cause).__name__).splitlines()[-1]
            raise ResourceError(f"A worker of the Ray cluster at {address} can't train: {said}") from error
        except ray.exceptions.RayError as error:
            raise ResourceError(f"The Ray cluster at {address} can't start a worker: {error}") from error
    return found


def _nothing() -> None:
    """Ends as soon as a worker is free."""


@contextmanager
def _connected(address: str) -> Iterator[None]:
    owned = start_ray(0, None, address, verbose=False)
    try:
        yield
    finally:
        if owned:
            ray.shutdown()


@cache
def _check_address(address: str) -> None:
    """Raise if no Ray cluster answers at an address. Ray itself would try for minutes and then exit the process."""
    if address != "auto":
        host, _, port = address.rpartition(":")
        if not host or "/" in host or not port.isdecimal():
            raise ResourceError(
                f"Ray address {address!r}: `host:port` of the cluster's head is needed, such as 10.0.0.1:6379, "
                f"or `auto` for the cluster that this machine belongs to. Run the search on a machine of the cluster."
            )
        try:
            socket.create_connection((host, int(port)), timeout=ANSWER_TIMEOUT).close()
        except (OSError, OverflowError) as error:
            raise ResourceError(
                f"Ray address {address}: nothing answers there within {ANSWER_TIMEOUT:g} s ({error}). "
                f"Is the cluster up (`ray start --head --port {port}` on {host}), and is the port open from here?"
            ) from None
    if ray.is_initialized():
        return
    trial = [sys.executable, "-c", "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False)", address]
    done = None
    try:
        done = subprocess.run(trial, capture_output=True, text=True, timeout=CONNECT_TIMEOUT, check=False)
        told = done.stderr
    except subprocess.TimeoutExpired as error:
        told = (error.stderr or b"").decode(errors="replace")
    if any(sign in told for sign in NO_TOKEN_SIGNS):
        mode = os.environ.get("RAY_AUTH_MODE")
        here = "the token here is not its token" if has_token() else "no token is here"
        if mode and mode.lower() != "token":
            here = f"RAY_AUTH_MODE is {mode} here"
        raise ResourceError(
            f"Ray address {address}: this cluster wants a token, and {here}. Copy `~/.ray/auth_token` of its head to "
            "this machine, or set RAY_AUTH_TOKEN to it, and RAY_AUTH_MODE=token."
        )
    if done is None:
        raise ResourceError(
            f"Ray address {address}: something answers there, but it was no Ray cluster within {CONNECT_TIMEOUT:g} s."
        )
    if done.returncode:
        said = [line for line in told.strip().splitlines() if line.strip()]
        raise ResourceError(f"Ray address {address}: connecting failed. Ray says: {said[-1] if said else 'nothing'}")


def head_answers() -> bool:
    """Whether the head of Ray, which all its processes need, takes connections."""
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_TIMEOUT).close()
    except OSError:
        return False
    return True


def kill_ray() -> None:
    """Kill the processes of the Ray that this process has started, and wait for nothing at its own end."""
    atexit.unregister(ray.shutdown)
    node: Any = ray._private.worker._global_node
    if node is not None:
        node.kill_all_processes(check_alive=False, allow_graceful=False)
