"""Devices, and the settings of torch that steps are computed with. `execution_words.py` has the values."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from buildup.errors import ResourceError, unknown


def check_device(name: str) -> str:
    """Check the name of a device. `auto` becomes a GPU where there is one, else the CPU.

    >>> check_device("cpu")
    'cpu'
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except (RuntimeError, ValueError):
        device = torch.device("meta")
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


def has_matrix_units(device: torch.device) -> bool:
    """Whether a device has matrix units for bfloat16: Ampere and later of CUDA, AMX of CPUs.

    torch 2.10 can't tell for CPUs; on Linux the kernel can.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    try:
        return device.type == "cpu" and "amx_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False


@contextmanager
def torch_settings(threads: int, *, deterministic: bool) -> Iterator[None]:
    """Change torch's process-wide settings, and restore them at the end for the next user of a reused worker."""
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


@contextmanager
def no_kernel_search() -> Iterator[None]:
    """Take the kernels that cuDNN recommends. A search for the fastest takes seconds, for each shape of a batch."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
