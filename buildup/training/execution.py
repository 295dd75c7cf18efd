"""Devices, and the settings of torch that steps are computed with. `execution_words.py` has the values."""

import ctypes
import gc
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from buildup.errors import ResourceError, unknown
from buildup.files import cores
from buildup.training.execution_words import processor_name

OUT_OF_MEMORY_SIGNS = (
    "out of memory",  # "CUDA error: out of memory" of the driver, "MPS backend out of memory"
    "OUT_OF_MEMORY",
    "cudaErrorMemoryAllocation",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "can't allocate memory",
    "not enough memory",
)
"""Parts of the messages of errors that are not torch's own `OutOfMemoryError`."""

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""What `mallopt` of glibc sets: the free memory above which it gives some back, and how many blocks the kernel maps."""

MOST_READING = 16
"""The most processes that read images for one training, unless it is given more threads."""
GPU_FILES = Path("/dev"), "nvidia[0-9]*"
"""The files of a machine's GPUs on Linux. Ray shows a worker only the GPUs that it lends to it, but leaves these."""


SOUND_MPS = (2, 12)
"""The first torch whose attention is right on Apple GPUs for the layout that ours gives it (PyTorch issue 181133)."""


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
    if device.type == "mps" and tuple(map(int, torch.__version__.split(".")[:2])) < SOUND_MPS:
        raise ResourceError(
            f"--device mps: torch {torch.__version__} computes attention wrong there. "
            f"Install torch {'.'.join(map(str, SOUND_MPS))} or later, or use --device cpu."
        )
    return name


def device_kind(name: str) -> str:
    """The kind of a device, on which the last digits of sums depend: the name of a GPU, or of the processor."""
    kind = torch.device(name).type
    if kind == "cuda":
        return torch.cuda.get_device_name(name)
    return "Apple GPU" if kind == "mps" else processor_name() or "CPU"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch, or of a library that torch calls, says that memory ran out.

    >>> is_out_of_memory(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"))
    True
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in OUT_OF_MEMORY_SIGNS)
    ):
        return True
    # The end of a capture in which memory ran out raises an error of its own.
    before = error.__cause__ or error.__context__
    return before is not None and is_out_of_memory(before)


def device_count(name: str) -> int:
    return max(1, torch.cuda.device_count()) if name == "cuda" else 1


def reading_processes(device: torch.device, threads: int, share: float = 1.0) -> int:
    """How many processes read images ahead for a training: none on a CPU, whose steps use all of its threads.

    A GPU needs more of them than a step has threads. They change no result, so each GPU gets its part of the cores.
    """
    if device.type != "cuda":
        return 0
    folder, pattern = GPU_FILES
    gpus = max(device_count("cuda"), len(list(folder.glob(pattern))))
    return max(threads, min(MOST_READING, int(cores() * share / gpus)))


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


def keep_freed_memory() -> None:
    """Keep the memory that a step frees for the next one, where the C library is glibc.

    It would give each large tensor back to the kernel, whose fresh pages the next step has to touch again. A narrow
    ResNet in batches of 512 images trained 829 images/s without this and 948 with it, in 1.54 and 1.65 GiB (one core
    with matrix units, means of three trainings each, alternating).
    """
    with suppress(AttributeError, OSError, TypeError):  # TypeError: Windows has no library of the process itself
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)


@contextmanager
def share_of_memory(device: str, share: float) -> Iterator[None]:
    """Use at most a share of a GPU's memory, and give all of it back at the end."""
    if not device.startswith("cuda"):
        yield
        return
    # Unlike other functions of torch, this one refuses "cuda"; None is the current device.
    index = torch.device(device).index
    torch.cuda.set_per_process_memory_fraction(float(share), index)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, index)
        give_memory_back()


def give_memory_back() -> None:
    """Give the GPU's memory that nothing uses back to the device.

    Compiled blocks and captured steps hold their weights in cycles, which only a collection ends.
    """
    gc.collect()
    torch.cuda.empty_cache()


@contextmanager
def ieee_float32(device: torch.device) -> Iterator[None]:
    """Compute in IEEE float32, without TF32, which torch allows in cuDNN's convolutions, and without autocast.

    TF32 keeps 10 bits of each factor. The settings are those of the process, and are restored at the end.
    """
    backends: Any = torch.backends
    products = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn, backends.mkldnn.matmul)
    places = (*products, backends.mkldnn.conv)
    before = [place.fp32_precision for place in places]
    matmul, tf32 = "highest", True
    with suppress(RuntimeError):  # can't be read where someone set both in different ways
        matmul, tf32 = torch.get_float32_matmul_precision(), backends.cudnn.allow_tf32
    try:
        # torch has two settings for each product, and refuses to multiply where they differ.
        _set_float32("highest", False, ["ieee"] * len(places), places)
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        _set_float32(matmul, tf32, before, places)


def _set_float32(matmul: str, tf32: bool, precisions: Sequence[str], places: Sequence[Any]) -> None:
    """Set torch's older settings first, because they change the newer ones."""
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = tf32
    for place, precision in zip(places, precisions, strict=True):
        place.fp32_precision = precision


@contextmanager
def torch_settings(threads: int, *, deterministic: bool) -> Iterator[None]:
    """Change torch's process-wide settings, and restore them at the end for the next user of a reused worker."""
    before = torch.get_num_threads(), torch.backends.cudnn.benchmark
    strict, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
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
        torch.use_deterministic_algorithms(strict, warn_only=warns)
        torch.backends.cudnn.benchmark = before[1]


@contextmanager
def no_kernel_search() -> Iterator[None]:
    """Take the kernels that cuDNN recommends. A search for the fastest takes seconds, for each shape of a batch."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
