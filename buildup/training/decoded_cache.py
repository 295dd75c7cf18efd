"""Decoded images on this machine's disk: whoever comes first decodes, and all other trainings map the same pages.

    decoded/cifar100-32-train-1f0c9a.safetensors    pixels, labels, class names, and who decoded them when

Each training's log names that decode, so a run shows in its logs that there was one.
"""

import hashlib
import json
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from buildup.training.dataset import Dataset

FORMAT = "1"


def shared(place: Path, name: str, source: object, decode: Callable[[], Dataset]) -> Dataset:
    """The decoded images of a source: from this place if they are there, else decoded and put there.

    Args:
        place: The folder of decoded sets.
        name: What this set is called; an older set of the same name gives way to it.
        source: Plain values that tell this source from all others, in any state of its files.
        decode: How it is done.
    """
    key = hashlib.sha256(json.dumps([FORMAT, source], sort_keys=True).encode()).hexdigest()[:12]
    path = place / f"{name}-{key}.safetensors"
    try:
        place.mkdir(parents=True, exist_ok=True)
        with FileLock(place / f"{name}.lock", fallback_to_soft=False):  # others wait until the first has decoded
            if (found := _read(path)) is not None:
                return found
            dataset = replace(decode(), origin=f"decoded by {_me()}")
            _write(path, dataset)
            for other in place.glob(f"{name}-*.safetensors"):
                if other != path:
                    other.unlink(missing_ok=True)
            return dataset
    except OSError as problem:
        # Training on is right, and saying so too: each process then decodes for itself.
        return replace(decode(), origin=f"decoded by {_me()}, for itself alone: {problem}")


def _me() -> str:
    return f"{socket.gethostname()}:{os.getpid()} at {datetime.now().astimezone().isoformat(timespec='seconds')}"


def _read(path: Path) -> Dataset | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            values: dict[str, Any] = json.loads(file.metadata()["dataset"])
            for name in ("class_names", "mean", "std"):
                values[name] = tuple(values[name])
            return Dataset(images=file.get_tensor("images"), labels=file.get_tensor("labels"), **values)
    except (SafetensorError, KeyError, TypeError, ValueError):
        return None  # a broken file is written anew


def _write(path: Path, dataset: Dataset) -> None:
    values = {
        "name": dataset.name,
        "class_names": dataset.class_names,
        "mean": dataset.mean,
        "std": dataset.std,
        "mirror": dataset.mirror,
        "val_share": dataset.val_share,
        "origin": dataset.origin,
    }
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        tensors = {"images": dataset.images.contiguous(), "labels": dataset.labels}
        save_file(tensors, temporary, {"dataset": json.dumps(values)})
        temporary.replace(path)
    except SafetensorError as problem:
        raise OSError(str(problem)) from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
