"""Check what a search needs on this machine, by really using it, and give advice."""

import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch
from packaging.requirements import Requirement

from buildup.errors import BuildupError, counted
from buildup.execution.ray_tune import RayEvaluator
from buildup.files import cores
from buildup.store.storage import hide_password, opened_storage
from buildup.training.data import check_folds, check_test, data_folder, dataset_kind, describe_data, forget_data
from buildup.training.fit import fit
from buildup.training.health import validation_warning
from buildup.training.image_files import contradictions
from buildup.training.standard_datasets import Cifar

SHOWN = ("torch", "timm", "ray", "optuna")
FREE_GIB = 5.0
"""Recommended free disk space. A run keeps the weights of all trainings, 0.1 GiB each for a ResNet-50."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """The result of one check."""

    name: str
    state: Literal["ok", "note", "fails"]
    found: str
    advice: str = ""


def check_machine(
    *, dataset: str | None = None, data_dir: str | None = None, storage: str | None = None, ray: str | None = None
) -> list[Check]:
    """Check everything that a search needs. A search can run if no check fails.

    A dataset is checked if one is named. `storage` is the URL of an Optuna storage to check instead of a local file,
    and `ray` the address of a cluster to check instead of this machine.
    """
    return [
        Check(name="python", state="ok", found=f"{platform.python_version()} at {sys.executable}, {cores()} cores"),
        *_packages(),
        _device(),
        _tried("ray", _ray, ray),
        _tried("storage", _storage, storage),
        _disk(),
        *(_dataset(dataset, data_dir) if dataset else []),
    ]


def _packages() -> list[Check]:
    checks = []
    for line in requires("buildup") or ():
        needed = Requirement(line)
        if needed.marker is not None:
            continue
        try:
            found = version(needed.name)
            wrong = (
                "" if needed.specifier.contains(found, prereleases=True) else f"{found}, needed is {needed.specifier}"
            )
        except PackageNotFoundError:
            wrong = "not installed"
        if wrong:
            checks.append(Check(name=needed.name, state="fails", found=wrong, advice=f"pip install '{line}'"))
    return checks or [Check(name="packages", state="ok", found=", ".join(f"{name} {version(name)}" for name in SHOWN))]


def _device() -> Check:
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        torch.zeros(8, device="cuda").sum().item()
        return Check(name="device", state="ok", found=f"{len(names)} CUDA: {', '.join(sorted(set(names)))}")
    apple = torch.backends.mps.is_available()
    return Check(
        name="device",
        state="note",
        found=f"no CUDA device; training runs on the CPU{', or with --device mps (untested)' if apple else ''}",
        advice="Fine for --dataset digits. For cifar100 plan hours a training (`buildup plan`).",
    )


def _disk() -> Check:
    runs = Path("runs")
    free = shutil.disk_usage(runs if runs.exists() else Path()).free / 2**30
    if free >= FREE_GIB:
        return Check(name="disk", state="ok", found=f"{free:.0f} GiB free for runs/")
    advice = f"Better have {FREE_GIB:g} GiB or more."
    return Check(name="disk", state="note", found=f"{free:.1f} GiB free for runs/", advice=advice)


def _ray(address: str | None) -> str:
    evaluator = RayEvaluator(
        folder=Path("runs", "doctor"),  # nothing is written, but a cluster's nodes are asked whether they see it
        train=fit,
        job=lambda training, folder, earlier: None,  # no training is requested
        workers=1,
        cpus_per_worker=1,
        gpus_per_worker=0,
        address=address,
        verbose=False,
    )
    evaluator.close()
    return f"a cluster answers at {address}" if address else "starts on this machine"


def _storage(url: str | None) -> str:
    with TemporaryDirectory() as folder, opened_storage(url, Path(folder)) as storage:
        storage.get_all_studies()
    return "SQLite files work" if url is None else f"{hide_password(url)} answers"


def _dataset(name: str, data_dir: str | None) -> list[Check]:
    """Whether a dataset is what a search needs: every image is read, and every file that is wrong is named."""
    forget_data()
    try:
        kind, data = dataset_kind(name), describe_data(name, data_dir)
        check_folds(name, data_dir)
        source = kind.source(name, data_folder(data_dir), train=True)
    except BuildupError as error:
        return [Check(name="dataset", state="fails", found=" ".join(str(error).split()))]
    if not data.present:
        found = f"{name} is not in {data_folder(data_dir)} yet"
        if problem := kind.unreachable() if isinstance(kind, Cifar) else "":
            advice = "Put its files there yourself, or name their folder by --data-dir or BUILDUP_DATA."
            found = f"{found}, and can't be fetched: {problem}"
            return [Check(name="dataset", state="fails", found=found, advice=advice)]
        return [Check(name="dataset", state="ok", found=f"{found}; a search fetches it")]
    found = f"{name}, {data.num_classes} classes, {data.train_images + data.val_images:,} training images, "
    checks = [Check(name="dataset", state="ok", found=f"{found}{data.image_size} px, on this disk")]
    if source is not None:
        if broken := source.unreadable():
            advice = "\n".join([*broken.values(), "Mend or remove them, or leave them out with --skip-unreadable."])
            checks = [Check(name="dataset", state="fails", found=f"{found}{len(broken)} unreadable", advice=advice)]
        kept = [index for index in range(len(source.files)) if index not in broken]
        if wrong := contradictions([source.files[index] for index in kept], source.labels[kept].tolist()):
            said = f"{counted(len(wrong), 'image')} in several classes"
            checks.append(Check(name="labels", state="note", found=said, advice="\n".join(wrong)))
    notes = [*data.notes, *filter(None, [validation_warning(data.val_images)])]
    try:
        check_test(name, data_dir)
    except BuildupError as error:
        notes.append(f"`buildup final` can't run: {error}")
    return [*checks, *(Check(name="images", state="note", found=note) for note in notes)]


def _tried(name: str, what: Callable[[str | None], str], address: str | None) -> Check:
    try:
        return Check(name=name, state="ok", found=what(address))
    except BuildupError as error:
        return Check(name=name, state="fails", found=" ".join(str(error).split()))
