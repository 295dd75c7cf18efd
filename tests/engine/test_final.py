"""`final`: fresh trainings, the test set opened once, one claim."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from buildup.cli.main import main
from buildup.engine import final as command
from buildup.engine.final import FRESH, run_final
from buildup.engine.load_state import read_final, replay_of, state_of
from buildup.engine.loop import run_loop as run_loop
from buildup.engine.setup import create_writer, open_writer
from buildup.errors import RunError
from buildup.execution.simulated import ScoreRow, SimulatedEvaluator
from buildup.models.read import read_network
from buildup.settings import FinalSettings
from buildup.statistics.base_checks import Climb
from buildup.store.run_record import RunRecord, create_run_dir, open_record, save_record
from buildup.training.data import load_data
from buildup.training.dataset import split
from buildup.training.recipe import load_recipe
from buildup.trials.history import History
from local_workers import LocalWorkers

SIZE = 10
Search = Callable[..., RunRecord]
GAINS = {"CC|CC|CC": ScoreRow(score=80.0), "CC|CC|CM": ScoreRow(score=95.0)}
"""One block helps, by so much that any judge sees it."""


@pytest.fixture(scope="session")
def searched(make_run: Callable[..., RunRecord]) -> Search:
    """Makes a run that was searched on a table of scores; `most` trainings of it."""
    data = load_data("digits", None, SIZE)
    train, val = split(data, FRESH, fraction=1 / 8)

    def searched(name: str, table: dict[str, ScoreRow], *, most: int | None = None) -> RunRecord:
        run = make_run(
            Path("runs") / name,
            base="test_resnet",
            image_size=SIZE,
            fraction="1/8",
            epochs=1,
            seeds=2,
            judge="likely",
            recipe=replace(load_recipe("quick").with_epochs(1), min_steps=1),
            data={
                "hash": data.hash,
                "train_images": len(train),
                "val_images": len(val),
                "mean": tuple(data.mean),
                "std": tuple(data.std),
                "image_size": SIZE,
            },
            network=read_network("test_resnet", input_shape=(1, SIZE, SIZE), num_classes=10),
        )
        create_run_dir(run)
        with closing(create_writer(run)) as writer:
            evaluator = SimulatedEvaluator(table=table, default=ScoreRow(score=70.0))

            def limit(history: History) -> str | None:
                return "enough" if most is not None and len(history.outcomes) >= most else None

            run_loop(replay_of(run), evaluator, writer, writer.history, limit=limit)
        return run

    return searched


@pytest.fixture(scope="module")
def place(searched: Search, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a run whose last block helps, one in which nothing helps, and one that has not ended."""
    folder = tmp_path_factory.mktemp("final")
    before = Path.cwd()
    os.chdir(folder)
    try:
        searched("helps", GAINS)
        searched("whole", GAINS)
        searched("nothing", {"CC|CC|CC": ScoreRow(score=80.0)})
        searched("open", GAINS, most=3)
        yield folder
    finally:
        os.chdir(before)


def test_a_final_trains_anew_and_opens_the_test_set_once(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "start_workers", LocalWorkers)
    assert main(["final", "helps", "--seeds", "3", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["seeds"] == [FRESH, FRESH + 1, FRESH + 2]
    assert values["train_images"] == open_record("helps").data.train_images
    assert [one["layout"] for one in values["contenders"]] == ["CC|CC|CC", "CC|CC|CM"]
    base, winner = (one["mean"] for one in values["contenders"])
    (claim,) = values["claims"]
    assert claim["gain"] == pytest.approx(winner - base)
    assert claim["claimed"] == (claim["ci"][0] > 0)
    assert claim["sentence"] in values["verdict"]

    run = open_record("helps")
    searched_seeds = {int(key.rpartition("-s")[2]) for key in state_of(run)[1].outcomes}
    assert not searched_seeds & set(values["seeds"])
    found = read_final(run.folder)
    assert found is not None
    assert found.verdict == values["verdict"]
    study = optuna.load_study(study_name="helps", storage="sqlite:///runs/helps/study.db")
    assert study.user_attrs["final"]["verdict"] == values["verdict"]

    assert main(["status", "helps"]) == 0
    assert values["verdict"] in capsys.readouterr().out
    assert main(["report", "helps", "--format", "md"]) == 0
    assert "## Final evaluation" in capsys.readouterr().out

    assert main(["final", "helps"]) == 2
    said = capsys.readouterr()
    assert "the test set was already used" in said.err
    assert "CC|CC|CM" in said.err
    assert said.out == ""

    (run.folder / "final.json").unlink()
    assert main(["final", "helps", "--seeds", "4"]) == 2
    assert "--seeds: a final of this run has begun, with --seeds 3, --epochs 1" in capsys.readouterr().err
    assert main(["final", "helps", "--json"]) == 0  # as after a crash: nothing is trained, the same numbers come out
    again = json.loads(capsys.readouterr().out)
    assert {**again, "opened": ""} == {**values, "opened": ""}


def test_a_final_may_train_on_all_images_that_are_not_of_the_test(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "start_workers", LocalWorkers)
    assert main(["final", "whole", "--fraction", "all", "--seeds", "3", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["train_images"] + values["test_images"] == 1797
    assert values["fraction"] == "all"


def test_a_final_says_that_a_gain_may_have_another_cause(
    place: Path, searched: Search, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    view, history = state_of(searched("doubted", GAINS))
    monkeypatch.setattr(command, "_carry_out", lambda *_, **__: None)
    for gain in (1.0, 30.0):
        found = (
            replace(view, climb=Climb(gain=gain, least=gain - 0.5, interval=(gain - 1, gain + 1), check="rate")),
            history,
        )
        monkeypatch.setattr(command, "state_of", lambda _, found=found: found)
        run_final(open_record("doubted"), FinalSettings())
    (said,) = (text for text in caplog.messages if "learning rate is too low" in text)
    assert said.endswith("A final measures the gain, not its cause.")


def test_a_winner_that_is_the_base_leaves_nothing_to_claim(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["final", "nothing"]) == 0
    assert "nothing to claim" in capsys.readouterr().out
    assert open_record("nothing").data.test_set == "not opened"


def test_a_search_that_has_not_ended_has_no_final(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["final", "open"]) == 2
    assert "buildup resume runs/open" in capsys.readouterr().err
    assert not (place / "runs/open/final").exists()


def test_all_that_is_wrong_with_a_final_is_said_at_once(
    place: Path, searched: Search, capsys: pytest.CaptureFixture[str]
) -> None:
    run = searched("wrong", GAINS)
    save_record(replace(run, data=replace(run.data, hash="0" * 64)))
    assert main(["final", "wrong", "--seeds", "0", "--control", "--recipe", "quikc"]) == 2
    said = capsys.readouterr().err
    for part in ("--seeds 0", "not the one that the run began with", "--control: the winner has", "did you mean"):
        assert part in said
    assert not (run.folder / "final").exists()


def test_too_few_seeds_to_hold_what_a_claim_states_are_refused(
    place: Path, searched: Search, capsys: pytest.CaptureFixture[str]
) -> None:
    run = searched("few", GAINS)
    assert main(["final", "few", "--seeds", "2"]) == 2
    assert "--seeds 2: at least 3 are needed" in capsys.readouterr().err
    assert not (run.folder / "final").exists()


def test_a_test_set_whose_result_is_gone_stays_used(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = open_record("nothing")
    save_record(replace(run, data=replace(run.data, test_set="opened by `buildup final`")))
    try:
        assert main(["final", "nothing"]) == 2
    finally:
        save_record(run)
    assert "already used" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_final_repeats_no_training(
    place: Path, searched: Search, start: Callable[..., "subprocess.Popen[str]"]
) -> None:
    run = searched("demo", GAINS)
    command = [sys.executable, "-m", "buildup", "final", "demo"]
    killed = start([*command, "--seeds", "3"], cwd=place, stderr=subprocess.PIPE, text=True)
    assert killed.stderr is not None
    while not (line := killed.stderr.readline()).startswith("training"):
        assert line, "the final ended before it could be killed"
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    part = run.folder / "final"
    ended = {path: path.stat().st_mtime_ns for path in part.glob("trainings/*/attempt-*/final.json")}
    assert ended
    assert read_final(run.folder) is None
    assert open_record("demo").data.test_set == "not opened"

    done = subprocess.run([*command, "--json"], cwd=place, check=True, capture_output=True, text=True)
    values = json.loads(done.stdout)
    assert [len(one["scores"]) for one in values["contenders"]] == [3, 3]
    assert {path: path.stat().st_mtime_ns for path in ended} == ended
    assert "Final evaluation" in (run.folder / "report.html").read_text()
    study = optuna.load_study(study_name="demo-final", storage=f"sqlite:///{part}/study.db")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 6


def test_the_study_of_a_final_is_made_anew_if_it_is_lost_and_named_if_it_is_damaged(
    make_run: Callable[..., RunRecord], tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    save_record(make_run(tmp_path / "run"))
    part = make_run(tmp_path / "run/final")
    open_writer(part).close()
    (part.trainings / "ab12-s0").mkdir(parents=True)
    study = part.folder / "study.db"
    study.unlink()
    open_writer(part).close()
    assert study.is_file()
    study.write_bytes(b"no database")
    with pytest.raises(RunError, match=rf"remove it: `buildup final {tmp_path}/run` makes it anew"):
        open_writer(part)
