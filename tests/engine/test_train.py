"""`train` makes one training, and goes on after a stop."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
from safetensors.torch import save_file

from buildup.cli.main import main
from buildup.engine.train import find_network
from buildup.errors import BaseError, SearchError
from buildup.graph.layout import layout
from buildup.training.dataset import DataInfo

TINY = ["train", "resnet10t", "--dataset", "digits", "--fraction", "1/10", "--device", "cpu", "--threads", "1"]


def test_a_training_leaves_its_score_and_is_not_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [*TINY, "--epochs", "1", "--to", str(tmp_path / "a"), "--execution", "float32"]
    assert main([*asked, "--json"]) == 0
    said = capsys.readouterr()
    values = json.loads(said.out)
    assert values["score"]["images"] == 1438 - 116  # all that it did not train on
    assert values["execution"]["precision"] == "float32"
    assert Path(values["weights"]).is_file()
    assert "epoch 1 of 1" in said.err
    assert main(asked) == 2
    assert "this training is finished" in capsys.readouterr().err


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """End where the training would begin."""

    def stop(*_: object) -> None:
        raise SearchError("it has said what it has to say")

    monkeypatch.setattr("buildup.engine.train.run_attempt", stop)


@pytest.mark.usefixtures("untrained")
def test_a_folder_in_which_another_training_began_is_left_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    asked = [*TINY, "--to", str(tmp_path / "a"), "--execution", "float32"]
    assert main(asked) == 1
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
    assert main([*asked, "--seed", "5", "--epochs", "6"]) == 2
    assert "a training with another recipe and seed was begun there" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.json")} == before
    assert not (tmp_path / "a/attempt-2").exists()
    assert main([*asked, "--set", "snapshots=[warmup]"]) == 1  # what does not change the weights may differ
    with caplog.at_level(logging.WARNING, "buildup"):
        assert main([*asked[:-1], "channels-first"]) == 1
    assert "--execution channels-first: this training goes on as it began, float32" in caplog.text


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(("threads", "busy", "warned"), [("2", 1.5, True), ("2", 0.2, False), ("1", 1.5, False)])
def test_several_threads_on_a_busy_machine_are_warned_of(
    threads: str,
    busy: float,
    warned: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (busy, busy, busy))
    monkeypatch.setattr("buildup.engine.train.cores", lambda: 2)
    with caplog.at_level(logging.INFO, "buildup"):
        assert main([*TINY[:-1], threads, "--epochs", "1", "--to", str(tmp_path / "trained")]) == 1
    assert ("--threads 1 may be" in caplog.text) is warned


@pytest.mark.usefixtures("untrained")
def test_what_starts_anew_beside_trained_weights_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = timm.create_model("resnet10t", num_classes=7, in_chans=1)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    asked = [*TINY, "--epochs", "1", "--to", str(tmp_path / "a"), "--pretrained", str(tmp_path / "w.safetensors")]
    with caplog.at_level(logging.INFO, "buildup"):
        assert main([*asked, "--layout", "CC|CC|CC|CM"]) == 1
    assert "fc, which told 7 classes apart, and the data has 10" in caplog.text
    assert "recipe quick starts attention from random weights" in caplog.text


def test_an_empty_name_of_weights_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, "--to", str(tmp_path / "a"), "--pretrained", ""]) == 2
    assert "--pretrained is empty" in capsys.readouterr().err


def test_a_wrong_request_is_refused_with_all_that_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["train", "resnet10", "--dataset", "digits", "--recipe", "quik", "--fraction", "2", "--execution", "fp8"]
    assert main([*asked, "--to", str(tmp_path / "a")]) == 2
    said = capsys.readouterr().err
    for problem in ("did you mean 'quick'", "fraction is '2'", "word of --execution 'fp8'", "resnet10"):
        assert problem in said
    assert not (tmp_path / "a").exists()


def test_any_model_takes_arguments() -> None:
    data = DataInfo(train_images=10, val_images=10, num_classes=7, channels=3, image_size=32)
    whole = find_network("vit_tiny_patch16_224(patch_size=4, depth=2)", None, data)
    assert whole.base_args == {"img_size": 32, "patch_size": 4, "depth": 2}
    assert whole.title == "vit_tiny_patch16_224(img_size=32, patch_size=4, depth=2)"
    with pytest.raises(BaseError, match=r"cannot be made by timm with .*colour"):
        find_network("vit_tiny_patch16_224(colour=4)", None, data)


@pytest.mark.slow
def test_a_model_that_cannot_be_a_base_is_trained_all_the_same(tmp_path: Path) -> None:
    asked = ["train", "vit_tiny_patch16_224", "--dataset", "digits", "--fraction", "1/10", "--epochs", "1"]
    assert main([*asked, "--device", "cpu", "--to", str(tmp_path / "a")]) == 0
    assert main([*asked, "--layout", "CC", "--to", str(tmp_path / "b")]) == 2


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_result_of_an_unbroken_one(
    tmp_path: Path, start: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    def command(name: str) -> list[str]:
        return [sys.executable, "-m", "buildup", *TINY, "--epochs", "4", "--to", str(tmp_path / name), "--json",
                "--execution", "float32"]  # fmt: skip

    def scores(output: str) -> object:
        values = json.loads(output)
        clocks = {"seconds", "throughput"}
        return [{k: v for k, v in epoch["metrics"].items() if k not in clocks} for epoch in values["curve"]]

    whole = subprocess.run(command("whole"), capture_output=True, text=True, check=True)
    (tmp_path / "broken").mkdir()
    # The same execution, so that the comparison is one of numbers.
    broken = start(command("broken"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (tmp_path / "broken" / "attempt-1" / "checkpoint.pt").exists():
        assert broken.poll() is None, "the training ended before it could be killed"
        time.sleep(0.01)
    os.kill(broken.pid, signal.SIGKILL)
    broken.wait()
    (tmp_path / "broken" / "execution.json").read_text()
    resumed = subprocess.run(command("broken"), capture_output=True, text=True, check=True)
    ours = (tmp_path / "broken" / "execution.json").read_text(), (tmp_path / "whole" / "execution.json").read_text()
    assert len(scores(resumed.stdout)) == 4  # type: ignore[arg-type]
    assert ours[0] != ours[1] or scores(resumed.stdout) == scores(whole.stdout)


@pytest.mark.parametrize(
    ("base", "space", "asked", "expected"),
    [
        ("resnet18", "smoothing", "CCS|CCS|CCS|CCS", "CCS|CCS|CCS|CCS"),
        ("resnet18", None, "CC|CM|CM|CM", "CC|CM|CM|CM"),
        ("resnetv2_50", "paper", None, "CCC|CCCC|CCCCCC|CCCC"),
    ],
)
def test_a_space_says_what_layouts_may_hold(base: str, space: str | None, asked: str | None, expected: str) -> None:
    digits = DataInfo(image_size=16, channels=1, num_classes=10, train_images=100, val_images=10)
    assert layout(find_network(base, asked, digits, space)) == expected
