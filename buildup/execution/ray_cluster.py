"""Starts Ray on this machine or connects to a cluster, and calls functions there."""

import atexit
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

import ray

from buildup.errors import BuildupError, ResourceError
from buildup.execution import has_token
from buildup.execution.ray_nodes import ACCELERATOR, alive_nodes, check_resources, grows, words

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

APPLE = re.compile(rf"{ACCELERATOR}M\d(-.*)?")
"""The resource of an Apple computer, whose GPU Ray counts, too."""

NO_TOKEN_SIGNS = ("InvalidAuthToken", "no authentication token was found")
"""Parts of what Ray says if this machine has not the token of a cluster. Since 2.60 each new cluster has one."""


def start_ray(cpus: int, gpus: int | None, address: str | None, verbose: bool) -> bool:
    """Start Ray or connect to the cluster at the address; False if this process is connected already."""
    level = logging.INFO if verbose else logging.CRITICAL
    logging.getLogger("ray").setLevel(level)
    if address is not None:
        _check_address(address)
    if ray.is_initialized():
        return False
    options: dict[str, Any] = {"address": address}
    if address is None:
        options = {"address": "local", "num_cpus": cpus, "num_gpus": gpus, "include_dashboard": False}
        options["object_store_memory"] = OBJECT_STORE
    # Ray sets its own handlers, as is possible in the main thread only.
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    handlers = {number: signal.getsignal(number) for number in numbers}
    try:
        ray.init(log_to_driver=verbose, logging_level=level, **options)
    except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as error:
        where = f"connecting to the Ray cluster at {address}" if address else "starting Ray on this machine"
        raise ResourceError(f"{where} failed: {error}") from None
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return True


def gpus_of(address: str) -> float:
    with _connected(address):
        nodes = [node["Resources"] for node in alive_nodes()]
        return float(sum(one.get("GPU", 0.0) for one in nodes if not any(APPLE.fullmatch(name) for name in one)))


def accelerators_of(address: str) -> dict[str, float]:
    """The number of GPUs of each kind that a cluster has, as Ray names them, the most numerous first."""
    found: Counter[str] = Counter()
    with _connected(address):
        for node in alive_nodes():
            for name in node["Resources"]:
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
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_TIMEOUT).close()
    except OSError:
        return False
    return True


def kill_ray() -> None:
    """Kill the processes of the Ray that this process has started, and do not wait for Ray when this process ends."""
    atexit.unregister(ray.shutdown)
    node: Any = ray._private.worker._global_node
    if node is not None:
        node.kill_all_processes(check_alive=False, allow_graceful=False)
