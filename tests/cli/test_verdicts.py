"""`analyze RUN --verdicts`: parent and candidate side by side, kept with the run, and shown in its report."""

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from buildup.cli.main import main
from buildup.diagnostics.analysis import labelled_batches
from buildup.diagnostics.hessian import ExtremeEigenvalues
from buildup.diagnostics.predictions import evaluate
from buildup.engine.analysis import verdicts
from buildup.engine.load_state import state_of
from buildup.models.build import build
from buildup.store.run_record import open_record
from buildup.training.data import load_data
from buildup.training.dataset import split

SEED = 3
"""Of the run that is measured."""


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "diagnostics.jsonl").read_text().splitlines()]


def analyze(run: Path, *asked: str) -> int:
    return main(["analyze", str(run), "--verdicts", "--quick", "--device", "cpu", *asked])


def test_what_is_lost_without_a_block_is_measured_on_images_that_the_run_did_not_train_on(
    tried: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert analyze(tried, "--what", "lesion", "--images", "40", "--json") == 0
    values = json.loads(capsys.readouterr().out)
    view, _ = state_of(open_record(str(tried)))
    assert [one["edit"] for one in values["verdicts"]] == [decision.edit for decision in view.decisions]
    assert [{"run": str(tried), **line} for line in lines(tried)] == values["verdicts"]
    data = load_data("digits")
    _, held = split(data, SEED, fraction=0.25)
    shown = torch.randperm(len(held), generator=torch.Generator().manual_seed(0))[:40].sort().values
    images = data.part(held[shown])
    last = view.candidates[2]
    assert last.parent is not None
    for when, candidate in (("before", last.parent), ("after", last)):
        model = build(candidate.network, seed=SEED)
        intact = evaluate(model, labelled_batches(images, 128)).accuracy
        block = last.edit.partition(":")[0]
        parent, _, name = block.rpartition(".")
        setattr(model.get_submodule(parent), name, nn.Identity())
        lost = intact - evaluate(model, labelled_batches(images, 128)).accuracy
        assert values["verdicts"][1][when]["lesion"] == pytest.approx(lost)
    correlations = {(one["measure"], one["when"]): one for one in values["correlations"]}
    assert {when for _, when in correlations} == {"before", "change"}
    assert correlations["lesion", "before"]["count"] == len(view.decisions)


def test_what_was_measured_is_kept_and_only_the_rest_is_measured(
    tried: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert analyze(tried, "--what", "lesion", "--images", "40") == 0
    whole = lines(tried)
    marked = json.loads(json.dumps(whole[0]))
    marked["by_seed"]["before"]["lesion"] = [12.5]
    (tried / "diagnostics.jsonl").write_text(json.dumps(marked) + "\n")
    assert analyze(tried, "--what", "variance", "--images", "40") == 0
    again = lines(tried)
    assert again[0]["by_seed"] == marked["by_seed"]
    assert again[1:] == whole[1:]
    # Other images are another measurement, so nothing is kept.
    assert analyze(tried, "--what", "lesion", "--images", "64") == 0
    assert "measured on something else" in capsys.readouterr().err
    assert lines(tried)[0]["by_seed"] != marked["by_seed"]


def test_verdicts_of_several_runs_are_compared_run_by_run(
    tried: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert analyze(tried, "--what", "lesion", "--images", "32", "--json") == 0
    alone = json.loads(capsys.readouterr().out)
    shutil.copytree(tried, tmp_path / "tried")
    asked = ("--compare", str(tmp_path / "tried"), "--what", "lesion", "--images", "32", "--json")
    assert analyze(tried, *asked) == 0
    both = json.loads(capsys.readouterr().out)
    assert len(both["verdicts"]) == 2 * len(alone["verdicts"])
    for one, two in zip(alone["correlations"], both["correlations"], strict=True):
        assert two["count"] == 2 * one["count"]
        assert two["tau"] == pytest.approx(one["tau"])  # pairs of verdicts of two runs are none
        assert two["high"] - two["low"] <= one["high"] - one["low"]


def test_the_report_tells_it(tried: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tried / "diagnostics.jsonl").unlink(missing_ok=True)
    assert main(["report", str(tried), "--format", "md"]) == 0
    assert "Which diagnostics predict a gain" not in capsys.readouterr().out
    assert analyze(tried, "--what", "lesion", "--images", "64") == 0
    capsys.readouterr()
    assert main(["report", str(tried), "--format", "md"]) == 0
    said = capsys.readouterr().out
    assert "Which diagnostics predict a gain" in said
    assert "too few for a significant result" in said
    assert main(["report", str(tried)]) == 0
    assert "lesion cost of the parent" in (tried / "report.html").read_text()


def test_a_damaged_file_is_named(tried: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tried / "diagnostics.jsonl").write_text('{"step": 1}\n')
    assert analyze(tried, "--what", "lesion") == 2
    assert "diagnostics.jsonl: damaged" in capsys.readouterr().err
    (tried / "diagnostics.jsonl").unlink()


def test_verdicts_without_weights_are_left_out(tried: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = {path: path.read_bytes() for path in tried.glob("trainings/*/attempt-1/weights.safetensors")}
    base = state_of(open_record(str(tried)))[0].candidates[0]
    (tried / "trainings" / f"{base.id}-s{SEED}" / "attempt-1" / "weights.safetensors").unlink()
    assert analyze(tried, "--what", "lesion", "--images", "32") == 0
    assert "step 1: left out" in capsys.readouterr().err
    assert [line["step"] for line in lines(tried)] == [2]
    for path in weights:
        path.unlink(missing_ok=True)
    assert analyze(tried, "--what", "lesion", "--images", "32") == 2
    assert "the weights of its trainings are gone" in capsys.readouterr().err
    for path, content in weights.items():
        path.write_bytes(content)


def test_all_that_is_wrong_is_said_at_once(tried: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert analyze(tried, "--what", "cka", "--recipe", "quick", "--compare", str(tried), "--seed", "x") == 2
    said = capsys.readouterr().err
    for problem in ("cka", "--recipe is not for --verdicts", "tried is named twice", "--seed x"):
        assert problem in said
    assert analyze(tried.parent / "nothing") == 2
    assert "not a run folder" in capsys.readouterr().err


@pytest.mark.slow
def test_curvature_is_added_to_what_is_there(tried: Path) -> None:
    assert analyze(tried, "--what", "lesion") == 0
    before = lines(tried)
    assert analyze(tried) == 0
    for old, new in zip(before, lines(tried), strict=True):
        assert new["by_seed"]["before"]["lesion"] == old["by_seed"]["before"]["lesion"]
        assert new["before"].keys() == {"lesion", "variance", "frequency", "top", "ape", "nep"}
        assert new["before"]["top"] >= new["before"]["ape"] > 0
    # The parent of the second verdict is the candidate of the first, which was kept.
    first, second = lines(tried)[:2]
    assert first["candidate"] == second["parent"]
    assert first["after"]["top"] == second["before"]["top"]


def test_a_run_is_analysed_on_images_that_it_did_not_train_on(tried: Path, tmp_path: Path) -> None:
    out = tmp_path / "a"
    asked = ["analyze", f"{tried}:0", "--what", "variance", "--device", "cpu", "--out", str(out)]
    assert main(asked) == 0
    data = load_data("digits")
    _, held = split(data, SEED, fraction=0.25)
    described = json.loads((out / "variance.json").read_text())["identity"]["images"]
    assert data.part(held).hash[:16] in str(described)


def test_curvature_is_measured_after_the_warm_up_where_its_weights_were_kept(
    tried: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def squares(model: nn.Module, batches: Iterable[object], **settings: object) -> Iterator[ExtremeEigenvalues]:
        """In place of the eigenvalues, which take a minute: numbers that tell weights apart."""
        total = sum(float(weight.detach().square().sum()) for weight in model.parameters())
        for _ in batches:
            yield ExtremeEigenvalues(values=(total,), residuals=(0.0,), products=1, converged=True)

    monkeypatch.setattr(verdicts, "batch_eigenvalues", squares)
    run = tmp_path / "tried"
    shutil.copytree(tried, run)
    values = yaml.safe_load((run / "run.yaml").read_text())
    values["recipe"]["snapshots"] = ["warmup"]
    (run / "run.yaml").write_text(yaml.safe_dump(values))
    view, _ = state_of(open_record(str(run)))
    base, kept, dropped = (
        run / "trainings" / f"{candidate.id}-s{SEED}" / "attempt-1" for candidate in view.candidates[:3]
    )
    early = f"weights-{values['recipe']['warmup_epochs']:.0f}.safetensors"
    shutil.copy(base / "weights.safetensors", base / early)
    save_file(build(view.candidates[1].network, seed=99).state_dict(), kept / early)
    assert analyze(run, "--what", "hessian", "--json") == 0
    first, second = json.loads(capsys.readouterr().out)["verdicts"]
    assert (first["before"]["early_ape"], first["before"]["early_nep"]) == (
        first["before"]["ape"],
        first["before"]["nep"],
    )
    assert first["after"]["early_ape"] not in (None, first["after"]["ape"])
    assert second["before"] == first["after"]
    assert not (dropped / early).exists()
    assert second["after"]["early_ape"] is None
    assert second["after"]["ape"] is not None
