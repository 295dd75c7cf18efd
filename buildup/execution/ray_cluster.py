"""Starts Ray on this machine or connects to a cluster, and checks what its machines have."""

import atexit
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import mkstemp
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from buildup.errors import BuildupError, ResourceError
from buildup.execution import handshake
from buildup.execution.evaluator import room
from buildup.execution.handshake import differences, unseen

log = logging.getLogger("buildup")

Value = TypeVar("Value")

ANSWER_TIMEOUT = 5.0
"""Seconds for the first answer from a cluster's address."""
CONNECT_TIMEOUT = 30.0
"""Seconds for connecting to the cluster."""
FREE_TIMEOUT = 120.0
"""Seconds in which a busy cluster must have a free worker."""
NODE_TIMEOUT = 60.0
"""Seconds in which each node of a cluster must tell what it has."""
CALL_TIMEOUT = 900.0
"""Seconds for a call on it. Compiling a large network takes minutes."""
OBJECT_STORE = 100 * 2**20
"""Bytes. Assignments and updates are small, and Ray would reserve a third of the memory."""


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
    """The number of GPUs of a cluster."""
    with _connected(address):
        return float(ray.cluster_resources().get("GPU", 0.0))  # type: ignore[no-untyped-call]


def on_worker(function: Callable[..., Value], *arguments: object, cpus: float, gpus: float, address: str) -> Value:
    """Call a function on a machine of a cluster, with the resources of a worker.

    What holds for a worker is found out there, because the driver may have another chip, or no GPU.
    """
    with _connected(address):
        check_resources({"CPU": cpus, "GPU": gpus}, 1, address)
        remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)
        try:
            ray.get(remote(_nothing).remote(), timeout=FREE_TIMEOUT)
            found: Value = ray.get(remote(function).remote(*arguments), timeout=CALL_TIMEOUT)
        except ray.exceptions.GetTimeoutError:
            raise ResourceError(
                f"The Ray cluster at {address} had no worker with {cpus:g} CPU and {gpus:g} GPU free within "
                f"{FREE_TIMEOUT:g} s, or it did not answer within {CALL_TIMEOUT:g} s. Is another search running there?"
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
    try:
        done = subprocess.run(trial, capture_output=True, text=True, timeout=CONNECT_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        raise ResourceError(
            f"Ray address {address}: something answers there, but it was no Ray cluster within {CONNECT_TIMEOUT:g} s."
        ) from None
    if done.returncode:
        said = [line for line in done.stderr.strip().splitlines() if line.strip()]
        raise ResourceError(f"Ray address {address}: connecting failed. Ray says: {said[-1] if said else 'nothing'}")


def check_resources(resources: dict[str, float], workers: int, address: str | None) -> None:
    """Raise if the workers can never fit on these machines: Ray would wait for them silently."""
    gpus = resources["GPU"]
    if gpus > 1 and gpus != int(gpus):
        raise ResourceError(f"{gpus:g} GPUs per training: Ray gives a share of one GPU, or a whole number of them.")
    found = places(resources)
    if found < workers:
        nodes = [node["Resources"] for node in _nodes()]
        asked = " and ".join(f"{share:g} {name}" for name, share in resources.items() if share)
        exists = "; ".join(
            f"{node.get('CPU', 0):g} CPU and {node.get('GPU', 0):g} GPU" for node in nodes if node.get("CPU")
        )
        where = f"the Ray cluster at {address}" if address else "Ray on this machine"
        raise ResourceError(
            f"{workers} workers with {asked} each do not fit: {where} has {exists or 'nothing'}, "
            f"which is room for {int(found)}. Ask for fewer workers or less for each."
        )


def check_nodes(resources: dict[str, float], expected: Mapping[str, str], folder: Path) -> None:
    """Raise if a machine of a cluster has other software than the driver, or does not see where the run is kept."""
    problems: list[str] = []
    parent = next(parent for parent in folder.absolute().parents if parent.is_dir())
    with _probe(parent) as probe:
        for host, found in _ask_nodes(nodes_with_room(resources), probe):
            if isinstance(found, str):
                log.warning(
                    "warning: node %s gave no answer (%s). Trainings that are placed there may fail.", host, found
                )
                continue
            serious, slight = differences(expected, found[0])
            problems += [f"node {host} has {one}. Install there what the driver has." for one in serious]
            for one in slight:
                log.warning("warning: node %s has %s. Scores may differ in their last digits.", host, one)
            if not found[1]:
                problems.append(f"node {host} {unseen(parent)}")
    if problems:
        raise ResourceError(*problems)


@contextmanager
def _probe(folder: Path) -> Iterator[str]:
    """The path of a file that all nodes must see."""
    try:
        handle, name = mkstemp(dir=folder, prefix=".buildup-")
    except OSError as error:
        raise ResourceError(f"{folder}: no file can be written here ({error.strerror}).") from None
    os.close(handle)
    try:
        yield name
    finally:
        Path(name).unlink(missing_ok=True)


def _ask_nodes(nodes: Sequence[dict[str, Any]], probe: str) -> Iterator[tuple[str, tuple[dict[str, str], bool] | str]]:
    """What each node answers, or why it gives no answer."""
    # Sent whole, because buildup may be missing there.
    ray.cloudpickle.register_pickle_by_value(handshake)  # type: ignore[no-untyped-call]
    try:
        asked = {_on_node(node["NodeID"], handshake.answer, probe): node["NodeManagerHostname"] for node in nodes}
    finally:
        ray.cloudpickle.unregister_pickle_by_value(handshake)  # type: ignore[no-untyped-call]
    ray.wait(list(asked), num_returns=len(asked), timeout=NODE_TIMEOUT)
    for reference, host in asked.items():
        try:
            yield host, ray.get(reference, timeout=0)
        except ray.exceptions.GetTimeoutError:
            yield host, f"within {NODE_TIMEOUT:g} s"
        except ray.exceptions.RayError as error:
            yield host, str(error).strip().splitlines()[-1]


def end_process(pid: int, node: str) -> None:
    """Kill a process on a machine of Ray, without waiting for it."""
    if node == ray.get_runtime_context().get_node_id():
        _kill(pid)
    else:
        _on_node(node, _kill, pid)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


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


def _on_node(node: str, function: Callable[..., object], *arguments: object) -> Any:
    """Call a function on a node, also if all its CPUs are taken."""
    place: Any = NodeAffinitySchedulingStrategy(node, soft=False)  # which Ray's own signature does not allow
    remote: Any = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=place)
    return remote(function).remote(*arguments)


def places(resources: dict[str, float], without: Set[str] = frozenset()) -> float:
    """How many workers fit on the machines of Ray, apart from some that are named by Ray's ids."""
    nodes = [node for node in _nodes() if node["NodeID"] not in without]
    return sum(_room_of(node, resources) for node in nodes)


def nodes_with_room(resources: dict[str, float]) -> list[dict[str, Any]]:
    """The machines that can have a worker, as Ray describes them."""
    return [node for node in _nodes() if _room_of(node, resources)]


def _nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _room_of(node: dict[str, Any], resources: dict[str, float]) -> float:
    return min(room(node["Resources"].get(name, 0.0), share) for name, share in resources.items())
