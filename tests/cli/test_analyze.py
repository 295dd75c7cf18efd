"""`analyze` writes numbers and figures, goes on after a stop, and refuses what can't be measured."""

import csv
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from buildup.cli.main import main
from buildup.diagnostics.analysis import Measurement
from buildup.diagnostics.equivariance import Equivariance
from buildup.diagnostics.figures import Rows
from buildup.engine.analysis import analyze
from buildup.training.recipe import shipped_recipes

TINY = ["resnet10t", "--dataset", "digits", "--device", "cpu", "--quick", "--images", "32"]


def run(*asked: str) -> int:
    return main(["analyze", *TINY, *asked])


def test_numbers_and_figures_are_written_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a"
    assert run("--what", "variance,cka", "--out", str(out), "--json") == 0
    said = capsys.readouterr()
    values = json.loads(said.out)
    assert values["folder"] == str(out)
    assert set(values["summaries"]) == {"variance", "cka"}
    assert "weights are random" in said.err
    for what in ("variance", "cka"):
        assert (out / f"{what}.png").read_bytes().startswith(b"\x89PNG")
        assert (out / f"{what}.svg").is_file()
        table = json.loads((out / f"{what}.json").read_text())["tables"][0]
        with (out / f"{what}.csv").open() as file:
            assert len(list(csv.DictReader(file))) == len(table["rows"])
    assert run("--what", "variance", "--out", str(out)) == 0
    assert "variance: kept from before" in capsys.readouterr().err
    assert not list(out.glob(".*"))
    page = (out / "index.html").read_text()
    assert "resnet10t" in page
    assert "Variance over space" in page
    assert "weights are random" in page
    assert "in the paper" not in page  # random weights say nothing about its claims
    assert "<svg " in page


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--what", "all,cka"], "--what all stands alone"),
        (["--what", "all", "--corruptions", "nowhere"], "--corruptions nowhere: no such folder"),
        (["--what", "variance", "--out", "file"], "--out file: this is a file"),
        (["--what", "cka", "--mc-dropout", "5"], "is for --what calibration or ensemble"),
    ],
)
def test_what_can_not_be_is_said_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asked: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert run(*asked) == 2
    assert said in capsys.readouterr().err


def test_a_model_without_maps_to_shift_is_refused_at_once_and_left_out_of_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def measured(one: Measurement, *_: object) -> dict[str, Any]:
        made.append(one.name)
        return {}

    monkeypatch.setattr(analyze, "run_measurement", measured)
    monkeypatch.setattr(analyze, "_page", lambda *_: "")
    monkeypatch.setattr(Equivariance, "obstacle", lambda *_: "no maps here")
    assert run("--what", "variance,equivariance", "--out", str(tmp_path / "a")) == 2
    assert made == []
    assert run("--what", "all", "--out", str(tmp_path / "b")) == 0
    assert "equivariance is left out. no maps here" in capsys.readouterr().err
    assert "variance" in made
    assert "equivariance" not in made


def test_one_long_part_says_how_far_it_is(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.INFO, "buildup")
    monkeypatch.setattr(analyze, "PROGRESS_INTERVAL", -1.0)
    progress = analyze.Progress(name="cka of net", total=2, each=40, done=1)
    for _ in range(3):
        progress.count_images(nn.Identity(), (torch.zeros(10, 1),))
    said = caplog.messages
    assert [line.partition(",")[0] for line in said] == ["cka of net: 62 %", "cka of net: 75 %"]
    assert all(line.endswith(" left") for line in said)
    caplog.clear()
    progress.end_part()
    assert not caplog.messages


def test_an_interrupted_measurement_goes_on(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run("--what", "noise", "--out", str(whole)) == 0
    finished = json.loads((whole / "noise.json").read_text())
    cut.mkdir()
    rows = finished["tables"][0]["rows"]
    # Two bands of another accuracy, which only an analysis that goes on would keep, and half a line of a third.
    kept = [[{**row, "accuracy": 12.5}] for row in rows[:2]]
    lines = [json.dumps(finished["identity"]), *map(json.dumps, kept), '[{"low":']
    (cut / ".noise-0.part.jsonl").write_text("\n".join(lines))
    assert run("--what", "noise", "--out", str(cut)) == 0
    again = json.loads((cut / "noise.json").read_text())["tables"][0]["rows"]
    assert [row["accuracy"] for row in again] == [12.5, 12.5, *(row["accuracy"] for row in rows[2:])]


def test_what_was_whole_when_it_was_stopped_is_not_measured_again(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run("--what", "variance", "--out", str(whole)) == 0
    finished = json.loads((whole / "variance.json").read_text())
    rows = [{**row, "variance": 1.5} for row in finished["tables"][0]["rows"]]
    cut.mkdir()
    (cut / ".variance-0.part.jsonl").write_text("\n".join(map(json.dumps, [finished["identity"], rows])))
    assert run("--what", "variance", "--out", str(cut)) == 0
    assert json.loads((cut / "variance.json").read_text())["tables"][0]["rows"] == rows


def test_parts_without_rows_do_not_end_a_measurement_early(tmp_path: Path) -> None:
    class Uneven:
        """Four parts, the first two without rows. It is stopped twice, each time after two of them."""

        name = "uneven"
        stops = iter((2, 2))

        def work(self, subject: Any) -> tuple[int, int]:
            return 4, 1

        def measure(self, subject: Any, done: Rows) -> Iterator[Rows]:
            left = [number for number in range(4) if {"part": number} not in done]
            most = next(self.stops, None)
            yield from ([{"part": number}] if number > 1 else [] for number in left[:most])
            if most:
                raise KeyboardInterrupt

    subject: Any = SimpleNamespace(label="net", model=nn.Identity())
    measurement: Any = Uneven()
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            analyze._resume(measurement, subject, tmp_path / "parts", {})
    assert analyze._resume(measurement, subject, tmp_path / "parts", {}) == [{"part": 2}, {"part": 3}]


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--what", "hesian", "--seed", "x", "--out", str(tmp_path / "a"), "--compare", "resnet19"]
    assert run(*asked) == 2
    said = capsys.readouterr().err
    for problem in ("did you mean 'hessian'", "--seed x", "resnet19"):
        assert problem in said
    assert not (tmp_path / "a").exists()


def test_a_timm_name_needs_a_dataset(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", "resnet10t", "--what", "variance"]) == 2
    assert "--dataset is missing" in capsys.readouterr().err


@pytest.fixture(scope="module")
def dropped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training with dropout."""
    folder = tmp_path_factory.mktemp("dropped")
    recipe, place = folder / "dropped.yaml", folder / "training"
    recipe.write_text(f"{shipped_recipes()['quick'].read_text()}\ndropout: 0.3\n")
    tiny = ["--dataset", "digits", "--fraction", "1/10", "--epochs", "1", "--execution", "float32", "--threads", "1"]
    assert main(["train", "resnet10t", *tiny, "--recipe", str(recipe), "--device", "cpu", "--to", str(place)]) == 0
    return place


def test_a_training_is_analysed_with_its_weights(
    dropped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "training"
    shutil.copytree(dropped, place)
    last = (place / "attempt-1" / "metrics.jsonl").read_text().splitlines()[-1]
    asked = ["analyze", str(place), "--what", "calibration", "--device", "cpu", "--out", str(tmp_path / "a"), "--json"]
    assert main(asked) == 0
    found = json.loads(capsys.readouterr().out)["summaries"]["calibration"]["training"]
    assert found["points"] == pytest.approx(json.loads(last)["metrics"]["accuracy"], abs=0.4)
    (place / "attempt-1" / "weights.safetensors").unlink()
    assert main(asked) == 2
    assert "has no weights.safetensors" in capsys.readouterr().err


def test_passes_with_dropout_are_averaged_beside_the_calibration(
    dropped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a"
    asked = ["analyze", str(dropped), "--what", "calibration", "--images", "32", "--device", "cpu", "--out", str(out)]
    assert main([*asked, "--mc-dropout", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["summaries"]
    averaged, once = found["ensemble"]["training"], found["calibration"]["training"]
    assert averaged["nll"] == once["nll"]
    assert averaged["nll, averaged"] != once["nll"]
    with (out / "ensemble.csv").open() as file:
        assert [row["passes"] for row in csv.DictReader(file)] == ["0", "1", "2", "3"]
    assert "Averaged predictions" in (out / "index.html").read_text()
    assert main([*asked, "--mc-dropout", "2"]) == 0
    assert "calibration: kept from before" in capsys.readouterr().err


def test_passes_are_refused_where_nothing_is_dropped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "a")]
    assert run("--what", "calibration", "--mc-dropout", "2", *out) == 2
    assert "was trained without dropout" in capsys.readouterr().err
    assert run("--what", "variance", "--mc-dropout", "0", *out) == 2
    said = capsys.readouterr().err
    assert "--mc-dropout is for --what calibration" in said
    assert "from 1 to 10,000" in said
    recipe = tmp_path / "dropped.yaml"
    recipe.write_text(f"{shipped_recipes()['quick'].read_text()}\ndropout: 0.3\n")
    assert main(["train", "vit_tiny_cifar", "--dataset", "digits", "--recipe", str(recipe)]) == 2
    assert "has no blocks for it" in capsys.readouterr().err


def test_what_one_image_cannot_tell_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = [*TINY[:-1], "1", "--out", str(tmp_path / "a")]
    assert main(["analyze", *one, "--what", "cka"]) == 2
    assert "at least 4 images" in capsys.readouterr().err
    assert not list((tmp_path / "a").glob(".*"))


def test_a_model_is_not_compared_with_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--what", "variance", "--compare", "resnet10t", "--out", str(tmp_path / "a")) == 2
    assert "named twice" in capsys.readouterr().err


def test_a_timm_model_is_analysed_with_weights_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = {name: 2 * weight for name, weight in timm.create_model("resnet10t").state_dict().items()}
    save_file(weights, tmp_path / "w.safetensors")
    asked = ["--what", "variance", "--json", "--out", str(tmp_path / "a")]
    found = []
    for more in ([], ["--pretrained", str(tmp_path / "w.safetensors")]):
        assert run(*asked, *more) == 0
        said = capsys.readouterr()
        found.append(json.loads(said.out)["identity"]["models"])
    assert found[0] != found[1]
    assert "the weights of fc are random" in said.err


@pytest.mark.slow
def test_a_run_is_analysed_beside_its_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny = ["--base", "resnet18", "--dataset", "digits", "--fraction", "1/10", "--epochs", "1", "--seeds", "1"]
    small = ["--workers", "1", "--device", "cpu", "--max-trials", "2", "--allow-weak-base", "--run", "tiny"]
    main(["search", *tiny, *small])
    capsys.readouterr()
    asked = ["analyze", "tiny:CC|CC|CC|CM", "--compare", "tiny:0", "--what", "variance,lesion", "--quick", "--json"]
    assert main([*asked, "--images", "32", "--device", "cpu"]) == 0
    found = json.loads(capsys.readouterr().out)["summaries"]
    assert list(found["variance"]) == ["tiny CC|CC|CC|CM", "tiny CC|CC|CC|CC"]
    assert "mean_step_msa" in found["variance"]["tiny CC|CC|CC|CM"]
    assert "mean_step_msa" not in found["variance"]["tiny CC|CC|CC|CC"]
    assert main(["analyze", "tiny:7", "--what", "variance"]) == 2
    assert "no such candidate" in capsys.readouterr().err


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = timm.create_model("resnet10t").state_dict()
    weights["layer2.0.conv1.weight"][0] = float("nan")
    save_file(weights, tmp_path / "w.safetensors")
    assert run("--what", "variance", "--pretrained", str(tmp_path / "w.safetensors"), "--out", str(tmp_path / "a")) == 2
    assert "1 of its tensors hold what is no number, layer2.0.conv1.weight first" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_what_memory_would_not_hold_is_refused_before_it_is_tried(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("buildup.engine.analysis.subjects.free_memory", lambda device: 1e6)
    assert run("--what", "landscape", "--out", str(tmp_path / "a")) == 2
    said = capsys.readouterr().err
    assert "128 augmented images of 16 px" in said
    assert "0.0 GiB are free. --quick and --images N keep fewer images" in said
    assert run("--what", "variance", "--out", str(tmp_path / "a")) == 0


def test_one_image_is_enough_for_what_one_image_can_tell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = [*TINY[:-1], "1", "--out", str(tmp_path / "a")]
    assert main(["analyze", *one, "--what", "fourier,variance,calibration", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["summaries"]) == {"fourier", "variance", "calibration"}


def test_what_is_too_small_gets_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = [*TINY[:-1], "5", "--out", str(tmp_path / "a")]
    assert main(["analyze", *one, "--what", "fourier,calibration"]) == 0
    said = capsys.readouterr().err
    assert "resnet10t: fourier leaves out units with maps of 2 x 2 (1); a frequency above zero needs 3 x 3." in said
    assert "resnet10t: 5 images of 10 classes, so 5 or more classes are missing in all accuracies." in said
    assert "fourier leaves out" in (tmp_path / "a" / "index.html").read_text()


def test_published_corruptions_are_checked_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--corruptions", str(tmp_path), "--out", str(tmp_path / "a")]
    assert run("--what", "corruption", *asked) == 2
    assert "gaussian_noise.npy" in capsys.readouterr().err
    assert run("--what", "variance", *asked) == 2
    assert "--corruptions is for --what corruption" in capsys.readouterr().err
    assert run("--what", "variance", "--scaling", "columns", "--decay", "norms", "--out", str(tmp_path / "a")) == 2
    said = capsys.readouterr().err
    assert "did you mean 'column'" in said
    assert "--decay is for --what landscape, which is not asked for" in said
    assert not (tmp_path / "a").exists()
