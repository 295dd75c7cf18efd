"""The device, workers and threads of a search."""

import logging
import os
from dataclasses import dataclass

from buildup.engine.problems import Problems
from buildup.errors import unknown
from buildup.execution.evaluator import room
from buildup.files import cores
from buildup.settings import RunSettings, SearchSettings
from buildup.training.execution import check_device, device_count

log = logging.getLogger("buildup")

MOST_WORKERS_A_CORE = 4
"""The most workers per CPU core without a cluster or GPU. More only compete for cores and memory."""
GPU_THREADS = 4
"""CPU threads of a training on a GPU."""


def cluster_address(asked: str | None, before: str | None = None) -> str | None:
    """The Ray cluster to use, None to start Ray on this machine: as asked, as in the environment, or as before."""
    address = asked or os.environ.get("RAY_ADDRESS") or before
    if address and not asked and address != before:
        log.info("Ray: %s, from RAY_ADDRESS (--ray local starts Ray here)", address)
    return None if address == "local" else address


def processes_of(gpus_per_trial: float) -> int:
    """How many processes share a training: one for each of its GPUs.

    >>> processes_of(0), processes_of(0.25), processes_of(2.0)
    (1, 1, 2)
    """
    return max(1, int(gpus_per_trial))


def share_of(gpus_per_trial: float) -> float:
    """The share of each of its GPUs that a training may use.

    >>> share_of(0), share_of(0.25), share_of(2)
    (1.0, 0.25, 1.0)
    """
    return min(1.0, gpus_per_trial or 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What a search computes on."""

    device: str
    workers: int
    gpus_per_trial: float
    threads: int
    """CPU threads of one training."""
    cpus_per_trial: float | None
    accelerator: str | None


def hardware_of(problems: Problems, settings: SearchSettings, seeds: int) -> Hardware:
    """The device, workers and threads. With `--ray`, the devices and cores of this machine are not consulted."""
    cluster = settings.ray is not None
    gpus = problems.number("--gpus-per-trial", settings.gpus_per_trial, 0.0)
    device = settings.device
    if settings.ray and device == "auto":
        if settings.gpus_per_trial is None:
            from buildup.execution.ray_cluster import gpus_of  # loads Ray

            device = "cuda" if problems.checked(0.0, gpus_of, settings.ray) else "cpu"
        else:
            device = "cuda" if gpus else "cpu"
    if not (cluster and device.startswith("cuda")):
        device = problems.checked(device, check_device, device)
    on_gpu = device.startswith("cuda")
    if gpus and not on_gpu:
        problems.found.append(
            f"--gpus-per-trial {gpus:g}: the device is {device}, which has no GPU. Leave it out, or use --ray."
        )
    if on_gpu and not gpus:
        if settings.gpus_per_trial is not None:
            problems.found.append(f"--gpus-per-trial 0: the device is {device}. Leave it out, or use --device cpu.")
        gpus = 1.0
    if gpus > 1 and gpus != int(gpus):
        problems.found.append(f"--gpus-per-trial {gpus:g}: a share of one GPU, or a whole number of them, is needed.")
    if device.startswith("cuda:"):
        number = device.removeprefix("cuda:")
        problems.found.append(
            f"--device {device}: Ray chooses the GPU of each training. Use --device cuda, after `export "
            f"CUDA_VISIBLE_DEVICES={number}` if the search is to use no other one."
        )
    # Not by the number of workers: sums of other numbers of threads differ in their last digits, and so may verdicts.
    threads = problems.whole("--threads", settings.threads, GPU_THREADS if on_gpu else 1)
    # By default as many trainings as the GPUs have room for. On a CPU one per core, but no more than there are seeds.
    fitting = int(room(device_count(device), gpus or 1.0)) if on_gpu else min(cores() // threads, seeds)
    usual = seeds if cluster else max(1, fitting)
    most_workers = 100_000 if cluster or on_gpu else MOST_WORKERS_A_CORE * cores()
    workers = problems.whole("--workers", settings.workers, usual, most=most_workers)
    return Hardware(
        device=device,
        workers=workers,
        gpus_per_trial=gpus,
        threads=threads,
        cpus_per_trial=problems.number("--cpus-per-trial", settings.cpus_per_trial, 0.0) or None,
        accelerator=_accelerator(problems, settings, gpus),
    )


def _accelerator(problems: Problems, settings: SearchSettings, gpus: float) -> str | None:
    """The kind of GPU that all trainings of a run get, so that parent and candidate are computed alike.

    None if there is no choice.
    """
    asked = settings.accelerator
    if not (settings.ray and gpus):
        if asked:
            problems.found.append(f"--accelerator {asked}: it chooses among the GPUs of a Ray cluster (--ray).")
        return None
    from buildup.execution.ray_cluster import accelerators_of  # loads Ray

    kinds = problems.checked({}, accelerators_of, settings.ray)
    if asked is None and len(kinds) > 1:
        asked = next(iter(kinds))
        counts = ", ".join(f"{count:g} {kind}" for kind, count in kinds.items())
        log.info("Ray: this cluster has GPUs of several kinds (%s). All trainings run on %s.", counts, asked)
    elif asked and kinds and asked not in kinds:
        problems.found.append(unknown("--accelerator", asked, list(kinds)))
    return asked


def cpus_per_worker(hardware: Hardware | RunSettings) -> float:
    return hardware.cpus_per_trial or hardware.threads * processes_of(hardware.gpus_per_trial)
