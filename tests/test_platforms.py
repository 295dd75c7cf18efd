"""What differs on macOS and Windows, as far as it can be tried on Linux. Nobody has run a search there."""

import ast
import ntpath
import os
import pickle
import re
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path, PureWindowsPath
from typing import Any

import pytest
import torch
from PIL import Image
from timm.data.loader import PrefetchLoader

import buildup
from buildup import files
from buildup.engine.analysis import subjects
from buildup.errors import DataError, RequestError, ResourceError
from buildup.execution import ray_cluster, ray_nodes
from buildup.files import write_atomic
from buildup.settings import AnalyzeSettings
from buildup.store import run_dir
from buildup.store.run_dir import acquire_run_lock, driver_of, has_ended, is_own
from buildup.training import dataset_sources
from buildup.training.data import absolute_name, dataset_kind, open_data
from buildup.training.execution import check_device
from buildup.training.execution_words import parse_execution
from buildup.training.feed import (
    StreamedDataset,
    _SourceImages,
    normalised,
    training_transform,
    validation_transform,
)
from buildup.training.recipe import load_recipe

POSIX_ONLY = {"fcntl", "grp", "pwd", "pty", "resource", "termios", "tty"}
TEXT_CALLS = {"read_text", "write_text"}


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """What our own code asks for to know Windows; paths stay as they are here."""
    for module in (files, run_dir):
        monkeypatch.setattr(module, "os", _Os())
    monkeypatch.delattr(signal, "SIGKILL")


class _Os:
    """The module `os` without what Windows lacks."""

    name = "nt"

    def __getattr__(self, name: str) -> object:
        if name in ("getuid", "sysconf", "sched_getaffinity"):
            raise AttributeError(name)
        return getattr(os, name)


def test_no_module_of_posix_is_imported_and_text_is_utf8() -> None:
    for path in Path(buildup.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            assert not POSIX_ONLY & {*names, getattr(node, "module", "")}, path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in TEXT_CALLS:
                assert "encoding" in {keyword.arg for keyword in node.keywords}, f"{path}:{node.lineno}"


@pytest.mark.usefixtures("windows")
def test_a_file_that_is_read_just_now_is_replaced_a_moment_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, tries = Path.replace, [PermissionError("read"), PermissionError("read"), None]

    def refuse(path: Path, target: Path) -> Path:
        if problem := tries.pop(0):
            raise problem
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", refuse)
    write_atomic(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.usefixtures("windows")
def test_a_process_is_not_ended_by_asking_for_it() -> None:
    assert not has_ended(os.getpid())
    assert not has_ended(2**22 + 1)
    assert is_own(Path(__file__))


def test_a_process_that_has_ended_is_known_elsewhere() -> None:
    assert not has_ended(os.getpid())
    assert has_ended(2**22 + 1)


def test_a_lock_that_nobody_else_can_read_is_held_by_someone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Locked:
        name = "lock"

        def __enter__(self) -> "Locked":
            return self

        def __exit__(self, *_: object) -> None: ...

        def fileno(self) -> int:
            return 0

        def seek(self, place: int) -> None: ...

        def close(self) -> None: ...

        def read(self) -> str:
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", lambda *_, **__: Locked())
    monkeypatch.setattr(run_dir, "lock_descriptor", lambda *_, **__: False)
    monkeypatch.setattr(run_dir, "LOCK_PAUSE", 0.0)
    assert driver_of(tmp_path) == "unknown"
    with pytest.raises(RequestError, match="being written by process unknown"):
        acquire_run_lock(tmp_path)


@pytest.mark.usefixtures("windows")
def test_a_worker_is_ended_where_there_is_no_sigkill(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = []
    monkeypatch.setattr(os, "kill", lambda pid, number: ended.append((pid, number)))
    ray_nodes._kill(4711)
    assert ended == [(4711, signal.SIGTERM)]


def test_a_drive_is_no_run_and_no_kind_of_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def no_run(run: str) -> Path:
        asked.append(run)
        return Path("none")

    monkeypatch.setattr(os.path, "splitdrive", ntpath.splitdrive)
    monkeypatch.setattr(subjects, "folder_of", no_run)
    for name in ("C:\\runs\\demo:2", "demo:2"):
        with pytest.raises(RequestError):
            subjects._find(name, AnalyzeSettings())
    assert asked == ["C:\\runs\\demo", "demo"]
    with pytest.raises(DataError, match="there is no such folder"):
        dataset_kind("C:\\leaves")
    monkeypatch.setattr("buildup.training.data.Path", PureWindowsPath)
    monkeypatch.setattr(PureWindowsPath, "expanduser", lambda path: path, raising=False)
    monkeypatch.setattr(PureWindowsPath, "absolute", lambda path: path, raising=False)
    assert absolute_name("readable:folder:C:\\leaves") == "readable:folder:C:\\leaves"


def test_a_spawned_process_can_be_given_what_reads_images(tmp_path: Path) -> None:
    for shade, name in enumerate(("oak", "fir")):
        folder = tmp_path / "train" / name
        folder.mkdir(parents=True)
        for number in range(6):
            Image.new("RGB", (70, 80), (200 * shade, 20 * number, 90)).save(folder / f"{number}.png")
    recipe = load_recipe("imagenet")
    data = open_data(f"folder:{tmp_path}", None, 32, recipe)
    assert isinstance(data, StreamedDataset)
    images = _SourceImages(
        source=data.source, transforms={True: training_transform(recipe, data), False: validation_transform(data)}
    )
    # Processes are spawned with pickled arguments there, while Linux forks readers.
    image, label = pickle.loads(pickle.dumps(images))[7, 5, True]
    expected, same = images[7, 5, True]
    assert label == same
    assert torch.equal(torch.as_tensor(image), torch.as_tensor(expected))


def test_letters_that_a_pipe_lacks_are_no_error() -> None:
    code = "from buildup import __main__ as program; program.main = lambda _: print('▁▅█ 5 %'); program.run()"
    answer = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, check=True
    )
    assert answer.stdout.strip() == b"??? 5 %"


def test_images_for_an_apple_gpu_are_those_of_the_loader_that_is_not_used_there() -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [
        (torch.randint(0, 256, (count, 3, 4, 4), dtype=torch.uint8, generator=generator), torch.arange(count))
        for count in (3, 2)
    ]
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    made: Any = batches
    loader: Any = PrefetchLoader(made, mean=mean, std=std, channels=3, device=torch.device("cpu"))
    ours = normalised(batches, mean, std, torch.device("cpu"))
    for (images, labels), (expected, theirs) in zip(ours, loader, strict=True):
        torch.testing.assert_close(images, expected)
        assert torch.equal(labels, theirs)


@pytest.fixture
def apple(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)


@pytest.mark.usefixtures("apple")
def test_an_apple_gpu_needs_a_torch_whose_attention_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.__version__", "2.12.0")
    assert check_device("mps") == "mps"
    for old in ("2.10.1", "2.11.0+cpu"):
        monkeypatch.setattr("torch.__version__", old)
        with pytest.raises(ResourceError, match=r"computes attention wrong there\. Install torch 2\.12"):
            check_device("mps")


@pytest.mark.usefixtures("apple")
def test_the_cpu_measures_in_place_of_an_apple_gpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("torch.__version__", "2.15.0")
    assert subjects.measuring_device("mps") == "cpu"
    assert "the CPU makes them all" in caplog.text
    assert subjects.measuring_device("cpu") == "cpu"


def test_norms_that_an_apple_gpu_computes_wrong_are_refused() -> None:
    assert parse_execution("channels-first", "mps") == {"channels_last": False}
    with pytest.raises(RequestError, match="Use channels-first"):
        parse_execution("channels-last", "mps")


def test_ending_a_process_that_has_ended_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for problem in (ProcessLookupError(), PermissionError(13, "access is denied"), OSError(22, "WinError 87")):
        monkeypatch.setattr(os, "kill", lambda *_, problem=problem: (_ for _ in ()).throw(problem))
        ray_nodes._kill(4711)


def test_an_image_on_another_drive_is_named_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.path.relpath", ntpath.relpath)
    assert dataset_sources._within(Path("D:/a.png"), Path("C:/table")) == "D:/a.png"
    assert dataset_sources._within(Path("C:/table/a.png"), Path("C:/table")) == "a.png"


@pytest.mark.parametrize(
    ("kinds", "count"),
    [(["A100"], 8), (["M4-Max"], 0), (["M2"], 0), (["M60"], 8), (["A100", "M1-Pro"], 8), ([], 0)],
)
def test_the_gpu_of_an_apple_computer_is_none_of_a_cluster(
    kinds: list[str], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [
        {
            "Alive": True,
            "Resources": {"GPU": 1.0 if re.match(r"M\d(-|$)", kind) else 8.0, f"accelerator_type:{kind}": 1.0},
        }
        for kind in kinds
    ]
    monkeypatch.setattr(ray_cluster, "_connected", lambda address: nullcontext())
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    assert ray_cluster.gpus_of("auto") == count
