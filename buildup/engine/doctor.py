"""What works on this machine, what does not, and what to do about it. Each check is the real thing."""

import platform
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch
from packaging.requirements import Requirement

from buildup.errors import BuildupError
from buildup.execution.ray_tune import RayEvaluator
from buildup.store.run_dir import cores, free_gib
from buildup.store.storage import hide_password, opened_storage
from buildup.training.data import data_folder, describe_data
from buildup.training.fit import fit

SHOWN = ("torch", "timm", "ray", "optuna")
ROOM = 5.0
"""GiB that a run should find free: the weights of a ResNet-50 take 0.1, and a run keeps those of all trainings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was tried."""

    name: str
    state: Literal["ok", "note", "fails"]
    found: str
    advice: str = ""


def check_machine(
    *, dataset: str | None = None, data_dir: str | None = None, storage: str | None = None, ray: str | None = None
) -> list[Check]:
    """Try everything that a search needs; one can run here if nothing fails.

    Args:
        dataset: One to look at, too.
        data_dir: Where it is.
        storage: The URL of an Optuna storage to try, in place of a file.
        ray: The address of a cluster to try, in place of this machine.
    """
    return [
        _python(),
        *_packages(),
        _device(),
        _tried("ray", lambda: _ray(ray)),
        _tried("storage", lambda: _storage(storage)),
        _disk(),
        *([_tried("dataset", lambda: _dataset(dataset, data_dir))] if dataset else []),
    ]


def _python() -> Check:
    return Check(name="python", state="ok", found=f"{platform.python_version()} at {sys.executable}, {cores()} cores")


def _packages() -> list[Check]:
    checks = []
    for line in requires("buildup") or ():
        needed = Requirement(line)
        if needed.marker is not None:
            continue
        try:
            found = version(needed.name)
        except PackageNotFoundError:
            checks.append(Check(name=needed.name, state="fails", found="not installed", advice=f"pip install '{line}'"))
            continue
        if not needed.specifier.contains(found, prereleases=True):
            checks.append(
                Check(
                    name=needed.name,
                    state="fails",
                    found=f"{found}, needed is {needed.specifier}",
                    advice=f"pip install '{line}'",
                )
            )
    return checks or [Check(name="packages", state="ok", found=", ".join(f"{name} {version(name)}" for name in SHOWN))]


def _device() -> Check:
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        torch.zeros(8, device="cuda").sum().item()
        return Check(name="device", state="ok", found=f"{len(names)} CUDA: {', '.join(sorted(set(names)))}")
    return Check(
        name="device",
        state="note",
        found="no GPU; training runs on the CPU",
        advice="Fine for --dataset digits. For cifar100 plan hours a training (`buildup plan`).",
    )


def _disk() -> Check:
    free = free_gib(Path("runs"))
    if free < ROOM:
        return Check(
            name="disk",
            state="note",
            found=f"{free:.1f} GiB free for runs/",
            advice=f"Better have {ROOM:g} GiB or more.",
        )
    return Check(name="disk", state="ok", found=f"{free:.0f} GiB free for runs/")


def _ray(address: str | None) -> str:
    with TemporaryDirectory() as folder, closing(_one_worker(Path(folder), address)):
        return f"a cluster answers at {address}" if address else "starts on this machine"


def _one_worker(folder: Path, address: str | None) -> RayEvaluator:
    """Ray with room for one worker, which is never given anything to do."""
    return RayEvaluator(
        folder=folder,
        train=fit,
        job=lambda training, folder, resume_from: None,
        workers=1,
        cpus_per_worker=1,
        gpus_per_worker=0,
        address=address,
        verbose=False,
    )


def _storage(url: str | None) -> str:
    with TemporaryDirectory() as folder, opened_storage(url, Path(folder)) as storage:
        storage.get_all_studies()
    return "SQLite files work" if url is None else f"{hide_password(url)} answers"


def _dataset(name: str, data_dir: str | None) -> str:
    data = describe_data(name, data_dir)
    where = "on this disk" if data.present else f"not in {data_folder(data_dir)} yet; a search fetches it"
    return f"{name}, {data.num_classes} classes, {data.train_images + data.val_images:,} training images, {where}"


def _tried(name: str, what: Callable[[], str]) -> Check:
    try:
        return Check(name=name, state="ok", found=what())
    except BuildupError as error:
        return Check(name=name, state="fails", found=" ".join(str(error).split()))
