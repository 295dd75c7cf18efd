"""The machines of a Ray cluster: what they have, what they answer, and processes on them."""

import json
import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkstemp
from typing import Any

import ray
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.experimental.internal_kv import _internal_kv_get
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from buildup.errors import ResourceError
from buildup.execution import handshake
from buildup.execution.evaluator import room
from buildup.execution.handshake import differences, unseen
from buildup.store.remote_folder import RemoteFolder, probe_in

log = logging.getLogger("buildup")

NODE_TIMEOUT = 60.0
"""Seconds in which each node of a cluster must tell what it has."""
ACCELERATOR, ANY_SHARE = "accelerator_type:", 0.001
"""A machine has one of the resource with this prefix and the kind of its GPUs, and all its trainings share it."""


def resources_of(cpus: float, gpus: float, accelerator: str | None = None) -> dict[str, float]:
    return {"CPU": cpus, "GPU": gpus} | ({f"{ACCELERATOR}{accelerator}": ANY_SHARE} if accelerator else {})


def check_resources(resources: Mapping[str, float], workers: int, address: str | None) -> None:
    """Raise if the workers can never fit on these machines: Ray would wait for them silently.

    A cluster that grows may have none of the machines yet.
    """
    gpus = resources["GPU"]
    if gpus > 1 and gpus != int(gpus):
        raise ResourceError(f"{gpus:g} GPUs per training: Ray gives a share of one GPU, or a whole number of them.")
    found = places(resources)
    if found < workers and not (address and grows()):
        nodes = [node["Resources"] for node in alive_nodes()]
        exists = "; ".join(
            f"{node.get('CPU', 0):g} CPU and {node.get('GPU', 0):g} GPU" for node in nodes if node.get("CPU")
        )
        where = f"the Ray cluster at {address}" if address else "Ray on this machine"
        raise ResourceError(
            f"{workers} workers with {words(resources)} each do not fit: {where} has {exists or 'nothing'}, "
            f"which is room for {int(found)}. Ask for fewer workers or less for each."
        )


def words(resources: Mapping[str, float]) -> str:
    """
    >>> words({"CPU": 4, "GPU": 1, "accelerator_type:A100": 0.001})
    '4 CPU and 1 GPU of the kind A100'
    """
    parts = [f"{share:g} {name}" for name, share in resources.items() if share and not name.startswith(ACCELERATOR)]
    kinds = [f" of the kind {name.removeprefix(ACCELERATOR)}" for name in resources if name.startswith(ACCELERATOR)]
    return " and ".join(parts) + "".join(kinds)


def grows() -> bool:
    """Whether the cluster that this process is connected to adds machines when they are asked for."""
    if is_autoscaler_v2():
        return True
    status = json.loads(_internal_kv_get(b"__autoscaling_status") or "{}")
    types = status.get("autoscaler_report", {}).get("node_type_mapping") or {}
    # Without an autoscaler, Ray's monitor makes up a type for each machine.
    return any(name != f"node_{node}" for node, name in types.items())


def check_nodes(
    resources: Mapping[str, float], expected: Mapping[str, str], folder: Path, remote: RemoteFolder | None = None
) -> None:
    """Raise if a machine of a cluster has other software than the driver, or does not see where trainings write."""
    problems: list[str] = []
    parent = next(parent for parent in folder.absolute().parents if parent.is_dir())
    with probe_in(remote) if remote else _probe(parent) as probe:
        with_room = [node for node in alive_nodes() if _room_of(node, resources)]
        for host, found in _ask_nodes(with_room, probe):
            if isinstance(found, str):
                log.warning(
                    "warning: node %s gave no answer (%s). Trainings that are placed there may fail.", host, found
                )
                continue
            serious, slight = differences(expected, found[0])
            problems += [f"node {host} has {one}. Install there what the driver has." for one in serious]
            for one in slight:
                log.warning("warning: node %s has %s. Scores may differ in their last digits.", host, one)
            if found[1] and remote:
                problems.append(
                    f"node {host} can't read {remote}: {found[1]}. It must be mounted there, or needs credentials."
                )
            elif found[1]:
                problems.append(f"node {host} {unseen(parent)}")
    if problems:
        raise ResourceError(*problems)


@contextmanager
def _probe(folder: Path) -> Iterator[str]:
    try:
        handle, name = mkstemp(dir=folder, prefix=".buildup-")
    except OSError as error:
        raise ResourceError(f"{folder}: no file can be written here ({error.strerror}).") from None
    os.close(handle)
    try:
        yield name
    finally:
        Path(name).unlink(missing_ok=True)


def _ask_nodes(nodes: Sequence[dict[str, Any]], probe: str) -> Iterator[tuple[str, tuple[dict[str, str], str] | str]]:
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
    with suppress(OSError):  # it has ended; Windows says so in several ways
        os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))  # Windows has one way to end a process


def _on_node(node: str, function: Callable[..., object], *arguments: object) -> Any:
    """Call a function on a node, also if all its CPUs are taken."""
    place: Any = NodeAffinitySchedulingStrategy(node, soft=False)  # which Ray's own signature does not allow
    remote: Any = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=place)
    return remote(function).remote(*arguments)


def places(resources: Mapping[str, float], without: Set[str] = frozenset()) -> float:
    """How many workers fit on the machines of Ray, apart from some that are named by Ray's ids."""
    nodes = [node for node in alive_nodes() if node["NodeID"] not in without]
    return sum(_room_of(node, resources) for node in nodes)


def alive_nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _room_of(node: dict[str, Any], resources: Mapping[str, float]) -> float:
    return min(room(node["Resources"].get(name, 0.0), share) for name, share in resources.items())
