"""The settings of torch that an execution needs are torch's own again afterwards."""

import platform
import subprocess
import sys
from contextlib import suppress
from typing import Any

import pytest
import torch

from buildup.training.execution import ieee_float32

BACKENDS: Any = torch.backends


def settings() -> list[Any]:
    """The newer settings, and the older ones, which torch refuses to tell where the two differ."""
    products = (BACKENDS.cuda.matmul, BACKENDS.cudnn.conv, BACKENDS.cudnn.rnn, BACKENDS.mkldnn.matmul)
    newer = [product.fp32_precision for product in products]
    return [*newer, torch.get_float32_matmul_precision(), BACKENDS.cuda.matmul.allow_tf32, BACKENDS.cudnn.allow_tf32]


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
@pytest.mark.parametrize("tf32", [True, False])
def test_float32_is_exact_inside_and_as_it_was_afterwards(precision: str, tf32: bool) -> None:
    matmul, cudnn, first = torch.get_float32_matmul_precision(), BACKENDS.cudnn.allow_tf32, settings()
    torch.set_float32_matmul_precision(precision)
    BACKENDS.cudnn.allow_tf32 = tf32
    before = settings()
    try:
        with suppress(KeyError), ieee_float32(torch.device("cpu")):
            assert settings() == ["ieee"] * 4 + ["highest", False, False]
            raise KeyError
        assert settings() == before
    finally:
        torch.set_float32_matmul_precision(matmul)
        BACKENDS.cudnn.allow_tf32 = cudnn
        for place, own in zip((BACKENDS.cuda.matmul, BACKENDS.mkldnn.matmul), (first[0], first[3]), strict=True):
            place.fp32_precision = own
        assert settings() == first


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps memory in its own way")
def test_a_step_finds_the_memory_that_the_one_before_freed() -> None:
    script = """
import resource, torch
from buildup.training.execution import keep_freed_memory

def pages(steps, size=64 * 2**20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        torch.full((size,), 1, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

fresh = pages(4)
keep_freed_memory()
pages(8)
print(pages(4) / fresh)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.1
