"""Which device trains: checked by name before anything starts."""

import torch

from buildup.errors import ResourceError, unknown


def check_device(name: str) -> str:
    """The device behind a name: `auto` takes a GPU where there is one.

    >>> check_device("cpu")
    'cpu'
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except (RuntimeError, ValueError):
        raise ResourceError(unknown("--device", name, ("auto", "cpu", "cuda", "mps"))) from None
    if device.type not in {"cpu", "cuda", "mps"}:
        raise ResourceError(unknown("--device", name, ("auto", "cpu", "cuda", "mps")))
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise ResourceError(
                f"--device {name}: this machine has {count or 'no'} CUDA devices. Use --device cpu, or auto."
            )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ResourceError("--device mps: this machine has none. Use --device cpu, or auto.")
    return name


def device_count(name: str) -> int:
    """How many devices a name stands for."""
    return max(1, torch.cuda.device_count()) if name == "cuda" else 1
