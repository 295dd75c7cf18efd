"""Which device trains: checked by name before anything starts."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware. torch 2.10 can't say, so the kernel is asked, on Linux."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)


@contextmanager
def torch_settings(threads: int, *, deterministic: bool) -> Iterator[None]:
    """torch's process-wide settings for a while; a reused worker gets its own back."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        # cuBLAS reads it when its first handle is made, and is not deterministic without it.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        torch.backends.cudnn.benchmark = before[2]
