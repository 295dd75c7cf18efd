"""What can end a training has a name."""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file

from buildup.errors import DataError, ResourceError
from buildup.graph.network import Network
from buildup.models.read import read_network
from buildup.training import checkpoint, speed
from buildup.training.data import load_data
from buildup.training.execution_words import Execution
from buildup.training.fit import Job, fit
from buildup.training.recipe import load_recipe
from buildup.training.speed import choose_execution
from buildup.training.train_step import Stepper, make_optimizer
from buildup.trials.outcome import Failed, Reason
from fake_cuda import fake_cuda
from following import follow

FEW_STEPS = replace(load_recipe("quick").with_epochs(3), min_steps=4)


def network(channels: int = 1, size: int = 8, classes: int = 10) -> Network:
    return read_network("resnet10t", input_shape=(channels, size, size), num_classes=classes)


def job(folder: Path, **changes: object) -> Job:
    settings = {
        "network": network(),
        "seed": 1,
        "dataset": "digits",
        "image_size": 8,
        "fraction": 0.1,
        "recipe": FEW_STEPS,
        "folder": str(folder),
    }
    return Job(**{**settings, **changes})  # type: ignore[arg-type]  # a test may change any field


@pytest.mark.parametrize(
    "at", [pytest.param(0, id="at once", marks=pytest.mark.slow), pytest.param(6, id="in the second epoch")]
)
def test_too_little_memory_is_met_by_batches_in_two_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    calls = []
    step = Stepper.__call__

    def scarce(self: Stepper, inputs: torch.Tensor, targets: torch.Tensor, lr: float) -> None:
        calls.append(len(inputs))
        if self._parts == 1 and len(calls) > at:
            raise torch.OutOfMemoryError("CUDA out of memory")
        step(self, inputs, targets, lr)

    monkeypatch.setattr(Stepper, "__call__", scarce)
    epochs, score = follow(fit(job(tmp_path)))
    # No epoch is told twice, and the batches stay as large as they were.
    assert [epoch.number for epoch in epochs] == [1, 2, 3]
    assert score.accuracy > 0
    assert len(set(calls)) <= 2
    log = (tmp_path / "log.txt").read_text()
    assert "Once more, with each batch in 2 parts" in log
    assert "in 2 parts, lr" in log


def test_too_little_memory_even_for_half_a_batch_is_a_named_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scarce(self: Stepper, inputs: torch.Tensor, targets: torch.Tensor, lr: float) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")

    monkeypatch.setattr(Stepper, "__call__", scarce)
    with pytest.raises(Failed, match="Too little memory") as failed:
        follow(fit(job(tmp_path)))
    assert failed.value.reason is Reason.OUT_OF_MEMORY


LIMITED = """
import resource, sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_failures import *
given = job(Path(sys.argv[1]), network=network(3, 256, 2), dataset=sys.argv[3], image_size=256, fraction=1.0,
            data_dir=sys.argv[1], recipe=replace(load_recipe("quick").with_epochs(1), batch_size=64, min_steps=1))
load_data(given.dataset, given.data_dir, 256)
warm = torch.zeros(1, 3, 256, 256).requires_grad_()
torch.nn.functional.conv2d(warm, torch.zeros(8, 3, 3, 3)).sum().backward()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[4]) * 2**20,) * 2)
print([epoch.number for epoch in fit(given)])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits address space")
def test_a_memory_limit_on_the_cpu_is_met_alike(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(40):
            Image.new("RGB", (64, 64), (number, 0, 0)).save(tmp_path / "images" / name / f"{number}.png")
    said = []
    for limit in (1300, 100):
        arguments = [
            str(tmp_path / f"run{limit}"),
            str(Path(__file__).parent),
            f"folder:{tmp_path / 'images'}",
            str(limit),
        ]
        done = subprocess.run(
            [sys.executable, "-c", LIMITED, *arguments],
            capture_output=True, text=True, check=False, env={**os.environ, "MALLOC_ARENA_MAX": "1"},
        )  # fmt: skip
        said.append(done.stdout + done.stderr)
    assert "[1]" in said[0]
    assert "Once more" in (tmp_path / "run1300" / "log.txt").read_text()
    assert "Failed: Too little memory" in said[1]


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs a device that is always full")
def test_a_full_disk_at_the_checkpoint_is_a_named_failure_and_spoils_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "TIME_SHARE", 1e9)  # after every epoch
    training = fit(job(tmp_path))
    next(training)
    while not (tmp_path / "checkpoint.pt").exists():
        time.sleep(0.01)
    really = tempfile.mkstemp

    def full(dir: Path, prefix: str) -> tuple[int, str]:
        if "checkpoint" not in prefix:
            return really(dir=dir, prefix=prefix)
        (dir / "temporary").symlink_to("/dev/full")
        return os.open(os.devnull, os.O_RDONLY), str(dir / "temporary")

    monkeypatch.setattr(tempfile, "mkstemp", full)
    with pytest.raises(Failed, match="Free some space there") as failed:
        follow(training)
    assert failed.value.reason is Reason.DISK_FULL
    assert not (tmp_path / "temporary").is_symlink()
    monkeypatch.undo()
    epochs, _ = follow(fit(job(tmp_path / "again", resume_from=(str(tmp_path),))))
    assert [epoch.number for epoch in epochs] == [1, 2, 3]


def test_a_full_disk_at_the_end_is_a_named_failure_and_spoils_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object) -> None:  # in the words that safetensors 0.8 says it with
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        with pytest.raises(Failed, match="Free some space there") as failed:
            follow(fit(job(tmp_path)))
    assert failed.value.reason is Reason.DISK_FULL
    epochs, _ = follow(fit(job(tmp_path / "again", resume_from=(str(tmp_path),))))
    assert [epoch.number for epoch in epochs] == [1, 2, 3]


def test_two_parts_have_the_gradients_of_the_whole() -> None:
    """With a norm that looks at one image at a time, so that the parts of a batch know as much as all of it."""
    weights = []
    for parts in (1, 2):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 8), torch.nn.GELU(), torch.nn.Linear(8, 3))
        recipe = replace(load_recipe("paper"), lr=0.01)
        execution = Execution()
        stepper = Stepper(model, make_optimizer(model, recipe, execution), recipe, execution, parts=parts)
        generator = torch.Generator().manual_seed(0)
        for _ in range(3):
            inputs = torch.randn(7, 3, 2, 2, generator=generator)
            stepper(inputs, torch.randn(7, 3, generator=generator).softmax(1), 0.01)
        weights.append(torch.cat([value.flatten() for value in model.state_dict().values()]))
        assert stepper.take_sums()[0] > 0
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"network": network(classes=7)}, "it has 10 classes, and the network tells 7 apart"),
        ({"network": network(channels=3)}, "its images have 1 channels, and the network takes 3"),
        ({"network": network(size=16)}, "its images have 8 px, and the network was made for 16"),
        ({"data_hash": "0" * 64}, "not the data that the run began with"),
    ],
)
def test_data_that_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    with pytest.raises(DataError, match=said):
        follow(fit(job(tmp_path, **changes)))


def test_the_data_that_the_run_began_with_is_taken(tmp_path: Path) -> None:
    known = load_data("digits", None, 8).hash
    training = fit(job(tmp_path, data_hash=known, recipe=FEW_STEPS.with_epochs(1)))
    epochs, _ = follow(training)
    assert len(epochs) == 1
    assert load_file(tmp_path / "weights.safetensors")


def ended_in_a_capture() -> RuntimeError:
    """What `torch.cuda.graph` raises at its end, when memory ran out inside."""
    try:
        try:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        finally:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA driver error: out of memory"),
        MemoryError(),
        ended_in_a_capture(),
    ],
    ids=["torch", "driver", "cuBLAS", "cuDNN", "driver of torch", "host", "capture"],
)
def test_memory_that_runs_out_under_any_name_gets_the_retry_and_a_sentence_when_measuring(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Stepper.__call__

    def scarce(self: Stepper, inputs: torch.Tensor, targets: torch.Tensor, lr: float) -> None:
        if self._parts == 1:
            raise error
        step(self, inputs, targets, lr)

    monkeypatch.setattr(Stepper, "__call__", scarce)
    _, score = follow(fit(job(tmp_path, recipe=replace(FEW_STEPS, epochs=1, min_steps=1))))
    assert score.accuracy > 0
    assert "Once more, with each batch in 2 parts" in (tmp_path / "log.txt").read_text()
    with pytest.raises(ResourceError, match="does not fit into the memory"):
        choose_execution(network(), FEW_STEPS, device="cpu", threads=1, steps=1)


def test_a_resumed_training_that_is_retried_yields_its_earlier_epochs_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fit(job(tmp_path / "1"))
    next(first)
    first.close()
    capture, calls = Stepper.capture, []

    def scarce(self: Stepper, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        calls.append(self)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        capture(self, inputs, targets)

    monkeypatch.setattr(Stepper, "capture", scarce)
    epochs, _ = follow(fit(job(tmp_path / "2", resume_from=(str(tmp_path / "1"),))))
    assert len(calls) == 2
    assert [epoch.number for epoch in epochs] == [1, 2, 3]


def test_other_errors_of_cuda_are_no_lack_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Stepper, inputs: torch.Tensor, targets: torch.Tensor, lr: float) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(Stepper, "__call__", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        follow(fit(job(tmp_path)))


def test_a_form_of_steps_that_needs_too_much_memory_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    def scarce(self: Stepper, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        if self._execution.steps != "eager":
            raise torch.AcceleratorError("CUDA error: out of memory")

    monkeypatch.setattr(Stepper, "capture", scarce)
    monkeypatch.setattr(speed, "GPU_STEPS", 1)
    with fake_cuda():
        found = choose_execution(network(), replace(FEW_STEPS, batch_size=4), device="cuda", threads=1, steps=1)
    assert [one.execution.steps for one in found] == ["eager"]


def test_after_a_failed_capture_no_other_one_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def scarce(self: Stepper, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        tried.append(self._execution.steps)
        if self._execution.steps != "eager":
            raise torch.AcceleratorError("CUDA error: out of memory")

    monkeypatch.setattr(Stepper, "capture", scarce)
    monkeypatch.setattr(speed, "GPU_STEPS", 1)
    monkeypatch.setattr(speed, "COMPILING", 0.0)
    with fake_cuda():
        choose_execution(network(), replace(FEW_STEPS, batch_size=4), device="cuda", threads=1, steps=10**6)
    assert tried == ["eager", "captured"]


def test_steps_in_parts_are_eager_and_go_on_from_captured_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fit(job(tmp_path / "1", device="cuda", execution=Execution(steps="captured")))
    captured: list[str] = []
    step = Stepper.__call__

    def scarce(self: Stepper, inputs: torch.Tensor, targets: torch.Tensor, lr: float) -> None:
        if self._parts == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        captured.append(self._execution.steps)
        step(self, inputs, targets, lr)

    with fake_cuda():
        next(first)
        first.close()
        monkeypatch.setattr(Stepper, "__call__", scarce)
        again = {"device": "cuda", "execution": Execution(steps="captured"), "resume_from": (str(tmp_path / "1"),)}
        epochs, _ = follow(fit(job(tmp_path / "2", **again)))
    assert [epoch.number for epoch in epochs] == [1, 2, 3]
    assert set(captured) == {"eager"}
