"""One real search on real images: Ray's workers, Optuna's database, an export that timm loads."""

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal
from urllib.request import urlopen

import optuna
import pytest
import timm
import torch
from safetensors.torch import load_file

from buildup.cli.main import main
from buildup.engine import search
from buildup.engine.load_state import state_of
from buildup.graph.network import Network
from buildup.models.build import build
from buildup.store.run_record import open_record, save_record
from buildup.training.recipe import shipped_recipes
from buildup.trials.decision import Decision
from buildup.trials.event import Event
from buildup.trials.outcome import Score
from local_workers import LocalWorkers

Start = Callable[..., "subprocess.Popen[str]"]
ASKED = [
    "--base",
    "test_resnet",
    "--dataset",
    "digits",
    "--epochs",
    "1",
    "--seeds",
    "1",
    "--fraction",
    "1/8",
    "--image-size",
    "10",
    "--workers",
    "2",
]
QUICK = shipped_recipes()["quick"].read_text()
IDLE = QUICK.replace("lr: 0.4", "lr: 0.0000001").replace("min_steps: 32", "min_steps: 1")
"""A recipe of few steps that learns nothing, so that every base is weak."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with one finished run; it learns too little for anything but a test."""
    folder = tmp_path_factory.mktemp("search")
    before = Path.cwd()
    os.chdir(folder)
    try:
        Path("idle.yaml").write_text(IDLE)
        assert main(["search", *ASKED, "--recipe", "idle.yaml", "--run", "demo", "--allow-weak-base"]) == 0
        yield folder
    finally:
        os.chdir(before)


def test_an_export_that_fails_leaves_the_report_and_is_made_by_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unchecked_export: None
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("idle.yaml").write_text(IDLE)
    monkeypatch.setattr(search, "start_workers", LocalWorkers)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("buildup.engine.export._export", full)
        assert main(["search", *ASKED, "--recipe", "idle.yaml", "--run", "full", "--allow-weak-base"]) == 1
    run = open_record("full")
    assert (run.status, run.reason) == ("failed", "no export: [Errno 28] No space left on device")
    assert (run.folder / "report.html").is_file()
    trained = sorted(run.trainings.rglob("final.json"))
    assert main(["resume", "full"]) == 0
    assert open_record("full").status == "finished"
    assert (run.folder / "export" / "model.safetensors").is_file()
    assert sorted(run.trainings.rglob("final.json")) == trained


def test_a_run_leaves_the_files_that_it_promises(place: Path) -> None:
    run = place / "runs" / "demo"
    assert {"run.yaml", "study.db", "decisions.jsonl", "trainings", "export", "report.html"} <= {
        path.name for path in run.iterdir()
    }
    lines = [json.loads(line) for line in (run / "decisions.jsonl").read_text().splitlines()]
    needed = {lines[0]["parent"], *(line["candidate"] for line in lines)}
    assert len(needed) == 4
    longer = run / "trainings" / f"{lines[0]['parent']}-longer-s0" / "metrics.jsonl"
    assert len(longer.read_text().splitlines()) == 2  # one and a half times the one epoch of the others
    view, history = state_of(open_record(str(run)))
    assert view.climb is not None
    later, usual = (history.outcome(key, 0) for key in (f"{lines[0]['parent']}-longer", lines[0]["parent"]))
    assert isinstance(later, Score)
    assert isinstance(usual, Score)
    assert view.climb.gain == later.accuracy - usual.accuracy
    assert {f"{candidate}-s0" for candidate in needed} <= {
        path.parent.name for path in run.glob("trainings/*/metrics.jsonl")
    }
    assert {path.name for path in (run / "export").iterdir()} == {
        "config.json",
        "model.safetensors",
        "alternet.py",
        "README.md",
        "network.svg",
    }


def test_every_stage_is_tried_once_from_the_last_to_the_first(place: Path) -> None:
    lines = [json.loads(line) for line in (place / "runs/demo/decisions.jsonl").read_text().splitlines()]
    assert [line["edit"].split(":")[0] for line in lines] == ["layer4.0.conv2", "layer2.0.conv2", "layer1.0.conv2"]
    for line in lines:
        assert line["judge"] == "point"
        assert (line["verdict"] == "keep") == (line["ci"][0] > 0)
        assert line["params"] > 0


def test_the_study_holds_one_complete_trial_a_training(place: Path) -> None:
    study = optuna.load_study(study_name="demo", storage=f"sqlite:///{place}/runs/demo/study.db")
    complete = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    assert len({trial.user_attrs["training"] for trial in complete}) == len(complete) >= 4
    # What the second worker trained ahead in vain was ended.
    assert {trial.user_attrs["outcome"] for trial in study.trials if trial not in complete} <= {"unneeded"}
    for trial in complete:
        assert list(trial.intermediate_values) == [1, 2][: 1 + ("-longer-" in trial.user_attrs["training"])]
        assert {"layout", "seed", "params", "macs", "outcome", "correct_hash"} <= trial.user_attrs.keys()
        assert trial.datetime_start is not None
        assert trial.datetime_complete is not None
        assert trial.datetime_start < trial.datetime_complete


def test_a_run_on_a_weak_base_is_marked(place: Path) -> None:
    run = open_record("demo")
    assert run.status == "finished"
    assert any("weak base" in warning for warning in run.warnings)
    assert "has not learned" in (place / "runs/demo/report.html").read_text()


def test_the_export_computes_what_was_trained(place: Path) -> None:
    run = open_record("demo")
    view, _ = state_of(run)
    assert view.finished
    expected = _logits_of_training(run.trainings / f"{view.best.id}-s0", view.best.network)
    loaded = timm.create_model(f"local-dir:{place}/runs/demo/export", pretrained=True).eval()
    with torch.inference_mode():
        assert torch.equal(loaded(_images()), expected)


def test_the_same_search_again_points_to_resume(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", *ASKED, "--run", "demo"]) == 2
    assert "buildup resume" in capsys.readouterr().err


def test_resuming_a_finished_run_trains_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resume", "demo"]) == 0
    said = capsys.readouterr()
    assert "nothing is left to do" in said.err
    assert "training " not in said.err


def test_status_tells_the_same_story_as_json(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "demo", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["status"] == "finished"
    assert len(values["verdicts"]) == 3
    assert values["left"] is None


@pytest.mark.usefixtures("unchecked_export")
def test_any_candidate_can_be_exported(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "demo", "--to", "first", "--candidate", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["layout"] == "CC|CC|CM"
    assert "CC|CC|CM" in (place / "first" / "README.md").read_text()


def test_the_dashboard_serves_the_study_to_this_machine(place: Path, start: Start) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "buildup", "dashboard", "demo", "--port", str(port)]
    server = start(command, cwd=place, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    assert f"http://127.0.0.1:{port}/dashboard" in server.stderr.readline()
    # Neither a connection that asks nothing yet nor a request that is being answered holds up others, or the end.
    with (
        socket.create_connection(("127.0.0.1", port), timeout=30),
        socket.create_connection(("127.0.0.1", port), timeout=30) as asking,
    ):
        with urlopen(f"http://127.0.0.1:{port}/api/studies", timeout=30) as answer:
            studies = json.load(answer)["study_summaries"]
        assert [study["study_name"] for study in studies] == ["demo", "demo: networks"]
        asking.sendall(b"GET /api/studies HTTP/1.0\r\n\r\n")
        server.terminate()
        assert server.wait(timeout=30) == 0


def test_each_candidate_has_its_diagram_in_the_study(place: Path) -> None:
    artifacts = list((place / "runs/demo/artifacts").iterdir())
    assert len(artifacts) >= 4
    assert all(artifact.read_text().startswith("<svg") for artifact in artifacts)


@pytest.mark.usefixtures("unchecked_export")
@pytest.mark.parametrize(("lost", "status"), [(3, "running"), (1, "finished")])
def test_verdicts_that_were_not_written_down_when_the_driver_died_are_made_up_for(
    place: Path, lost: int, status: Literal["running", "finished"], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[Event | Decision] = []
    monkeypatch.setattr(search, "verdict_counter", lambda _: counted.append)
    run = place / f"lost-{lost}" / "demo"
    shutil.copytree(place / "runs" / "demo", run)
    lines = (run / "decisions.jsonl").read_text().splitlines()
    with closing(sqlite3.connect(run / "study.db")) as study:
        for step in range(len(lines) - lost + 1, len(lines) + 1):
            study.execute("DELETE FROM study_user_attributes WHERE key = ?", (f"decision:{step:04}",))
        study.commit()
    (run / "decisions.jsonl").write_text("".join(f"{line}\n" for line in lines[:-lost]))
    save_record(replace(open_record(str(run)), status=status))
    assert main(["resume", str(run), "--allow-weak-base"]) == 0
    assert (run / "decisions.jsonl").read_text().splitlines() == lines
    assert [asdict(one) for one in state_of(open_record(str(run)))[1].decisions] == [
        asdict(one) for one in state_of(open_record(str(place / "runs" / "demo")))[1].decisions
    ]
    assert len([one for one in counted if isinstance(one, Decision)]) == lost
    assert open_record(str(run)).status == "finished"


def test_a_search_on_a_base_that_did_not_learn_stops_with_the_reason(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(search, "start_workers", LocalWorkers)
    assert main(["search", *ASKED, "--recipe", "idle.yaml", "--run", "weak"]) == 1
    assert "the base test_resnet has not learned" in capsys.readouterr().err
    assert main(["status", "weak", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "stopped"


@pytest.mark.slow
def test_an_interrupted_search_says_how_to_go_on_and_nothing_else(tmp_path: Path, start: Start) -> None:
    search = start(
        [sys.executable, "-m", "buildup", "search", *ASKED, "--epochs", "50", "--run", "demo"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("runs/demo/trainings/*/metrics.jsonl")):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    search.send_signal(signal.SIGINT)
    out, err = search.communicate(timeout=60)
    assert search.returncode == 130
    assert out == ""
    assert err.splitlines()[-1] == "Interrupted. Go on with: buildup resume runs/demo"
    assert len(err.splitlines()) == 2


@pytest.mark.slow
def test_a_killed_search_comes_to_the_same_decisions_and_repeats_no_training(tmp_path: Path, start: Start) -> None:
    # Each run measures what is fastest; under load it may be another precision, and then other scores.
    settled = ["--execution", "float32,channels-last,eager"]
    asked = [*ASKED, "--epochs", "2", "--allow-weak-base", *settled]
    _buildup(tmp_path, "search", *asked, "--run", "whole")
    command = [sys.executable, "-m", "buildup", "search", *asked, "--run", "killed"]
    killed = start(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert killed.stderr is not None
    seen = 0
    while seen < 2:
        line = killed.stderr.readline()
        assert line, "the search ended before it could be killed"
        seen += line.startswith("training")
    killed.kill()
    killed.wait()
    _buildup(tmp_path, "resume", "killed")
    decisions = [
        [json.loads(line) for line in (tmp_path / "runs" / run / "decisions.jsonl").read_text().splitlines()]
        for run in ("whole", "killed")
    ]
    assert decisions[0] == decisions[1]
    study = optuna.load_study(study_name="killed", storage=f"sqlite:///{tmp_path}/runs/killed/study.db")
    complete = [trial.user_attrs["training"] for trial in study.trials if trial.state.name == "COMPLETE"]
    assert len(complete) == len(set(complete)) >= 4


def _buildup(place: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "buildup", *arguments], cwd=place, check=True, capture_output=True)


def _images() -> torch.Tensor:
    return torch.randn(4, 1, 10, 10, generator=torch.Generator().manual_seed(0))


def _logits_of_training(folder: Path, network: Network) -> torch.Tensor:
    model = build(network)
    model.load_state_dict(load_file(next(folder.glob("attempt-*/weights.safetensors"))))
    with torch.inference_mode():
        logits: torch.Tensor = model.eval()(_images())
    return logits
