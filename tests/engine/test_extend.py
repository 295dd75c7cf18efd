"""`resume --seeds`, `--judge`, `--epochs` and `--space`: a search taken further from the trainings that are there."""

import json
import shutil
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

import buildup
from buildup.cli.main import main
from buildup.engine import search
from buildup.engine.extend import begin, extension
from buildup.engine.load_state import replay_of, state_of
from buildup.engine.problems import Problems
from buildup.engine.setup import open_writer
from buildup.errors import RunError
from buildup.execution.simulated import ScoreRow, SimulatedEvaluator
from buildup.settings import ResumeSettings
from buildup.store.run_dir import DIAGNOSTICS, FINAL
from buildup.store.run_record import RunRecord, open_record, save_record, save_status
from buildup.trials.decision import Decision
from buildup.trials.event import Event, Started
from buildup.trials.outcome import Failure, Reason, Record, record_to_values
from buildup.trials.training import Candidate, Training


class Scores(dict[str, ScoreRow]):
    """Each block that is not the base's own gains half a point."""

    def get(self, layout: str, default: object = None) -> ScoreRow:
        return ScoreRow(score=80 + sum(layout.count(letter) for letter in "MK") / 2)


@pytest.fixture
def run(tried: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished search of one seed; what is trained from here on comes from a table."""
    monkeypatch.setattr(search, "_workers", lambda run, verbose: SimulatedEvaluator(table=Scores()))
    monkeypatch.setattr(search, "keep_winner", lambda *_: None)  # a table leaves no weights to export
    folder = Path(shutil.copytree(tried, tmp_path / "tried"))
    found = open_record(str(folder))
    save_record(replace(found, data=replace(found.data, val_images=290)))
    return folder


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def trials(run: Path) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="tried", storage=f"sqlite:///{run}/study.db").trials


def trainings_in(run: Path) -> Counter[str]:
    return Counter(trial.user_attrs["training"] for trial in trials(run) if trial.state.name == "COMPLETE")


def extended(run: Path, changes: ResumeSettings) -> RunRecord:
    problems = Problems()
    found = extension(open_record(str(run)), changes, problems)
    problems.raise_any()
    assert found is not None
    return found


def test_more_seeds_decide_anew_and_repeat_no_training(run: Path) -> None:
    before, trained = lines_of(run / "decisions.jsonl"), trainings_in(run)
    assert main(["resume", str(run), "--track", "tensorbord"]) == 2
    assert main(["resume", str(run), "--seeds", "2", "--allow-weak-base", "--track", "tensorboard"]) == 0
    assert open_record(str(run)).settings.track == ("tensorboard",)
    assert (run / "tensorboard" / "verdicts").is_dir()
    after = lines_of(run / "decisions.jsonl")
    assert {line["seeds"] for line in after} == {2}
    assert after[0]["layout"] == before[0]["layout"]
    assert lines_of(run / "decisions-1.jsonl") == before

    now = trainings_in(run)
    assert now > trained
    assert set(now.values()) == {1}
    found = open_record(str(run))
    assert found.status == "finished"
    assert [entry["seeds"] for entry in found.earlier] == [1]
    assert found.settings.seeds == 2
    assert any("made anew" in warning for warning in found.warnings)
    view, _ = state_of(found)
    assert view.finished
    assert len(view.decisions) == len(after)


def test_another_space_decides_anew_from_the_same_base(run: Path) -> None:
    trained = trainings_in(run)
    assert main(["resume", str(run), "--space", "kernels", "--allow-weak-base", "--max-trials", "3"]) == 0
    assert "K" in str(lines_of(run / "decisions.jsonl")[0]["layout"])
    assert trainings_in(run) > trained
    assert main(["resume", str(run), "--seeds", "2", "--max-trials", "2", "--allow-weak-base"]) == 0
    assert [entry["space"] for entry in open_record(str(run)).earlier] == ["alternet", "kernels"]
    assert "K" in str(lines_of(run / "decisions-2.jsonl")[0]["layout"])


def test_more_seeds_may_have_a_judge_that_tells_an_interval(run: Path) -> None:
    save_status(open_record(str(run)), "finished", "", ["judge point: chance is not ruled out."])
    assert {line["judge"] for line in lines_of(run / "decisions.jsonl")} == {"point"}
    assert (
        main(["resume", str(run), "--seeds", "2", "--judge", "likely", "--allow-weak-base", "--max-trials", "16"]) == 0
    )
    assert {line["judge"] for line in lines_of(run / "decisions.jsonl")} == {"likely"}
    found = open_record(str(run))
    assert found.earlier[0]["judge"] == "point"
    assert not any("judge point:" in warning for warning in found.warnings)


def test_other_epochs_are_other_trainings_on_the_same_study_and_the_way_back_repeats_none(run: Path) -> None:
    first, before, trained = open_record(str(run)), lines_of(run / "decisions.jsonl"), trainings_in(run)
    assert main(["resume", str(run), "--epochs", "7", "--allow-weak-base", "--max-trials", "2"]) == 0
    longer = open_record(str(run))
    assert longer.recipe == first.recipe.with_epochs(7)
    assert {path.name for path in (run / "trainings-7").iterdir()} == {
        trial.user_attrs["training"] for trial in trials(run) if trial.user_attrs.get("epochs") == 7
    }
    assert trainings_in(run).total() == trained.total() + 2
    assert len(state_of(longer)[1].outcomes) == 2

    assert main(["resume", str(run), "--epochs", "1", "--allow-weak-base", "--max-trials", "3"]) == 0
    assert trainings_in(run).total() == trained.total() + 2
    assert lines_of(run / "decisions.jsonl") == before
    assert open_record(str(run)).recipe == first.recipe


def test_what_runs_when_other_epochs_are_asked_for_is_ended_and_taken_up_on_the_way_back(run: Path) -> None:
    first = open_record(str(run))
    training = Training(candidate=Candidate(network=first.network), seed=99)
    with closing(open_writer(first)) as writer:
        writer.record(writer.history, Event(training=training, update=Started(attempt=1, host="here", pid=1)))
    for epochs in (2, 1):
        begin(extended(run, ResumeSettings(epochs=epochs)))
        with closing(open_writer(open_record(str(run)))) as writer:
            assert training.id not in writer.history.outcomes
            if epochs == 1:
                writer.record(writer.history, Event(training=training, update=Started(attempt=2, host="here", pid=1)))
    own = [trial for trial in trials(run) if trial.user_attrs["training"] == training.id]
    assert [trial.state.name for trial in own] == ["FAIL", "RUNNING"]


def test_what_was_measured_at_other_epochs_is_put_aside(run: Path) -> None:
    (run / DIAGNOSTICS).write_text("")
    begin(extended(run, ResumeSettings(seeds=2)))
    assert (run / DIAGNOSTICS).exists()
    begin(extended(run, ResumeSettings(epochs=2)))
    assert not (run / DIAGNOSTICS).exists()
    assert (run / "diagnostics-2.jsonl").exists()


def test_another_space_looks_ahead_where_the_search_was_asked_to(run: Path) -> None:
    assert extended(run, ResumeSettings(space="kernels")).space.look_ahead == 0
    found = open_record(str(run))
    save_record(replace(found, settings=replace(found.settings, look_ahead=True)))
    assert extended(run, ResumeSettings(space="kernels")).space.look_ahead == 1


def test_a_driver_that_dies_as_a_run_is_extended_loses_nothing(run: Path) -> None:
    before = (run / "decisions.jsonl").read_text()
    begin(extended(run, ResumeSettings(seeds=2)))  # and here it dies
    view, history = state_of(open_record(str(run)))
    assert view.decisions == ()
    assert view.needed
    assert len(history.outcomes) == sum(trainings_in(run).values())
    with closing(open_writer(open_record(str(run)))):
        assert (run / "decisions.jsonl").read_text() == ""
        assert (run / "decisions-1.jsonl").read_text() == before


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--epochs", "0"], "--epochs 0"),
        (["--judge", "likely"], "--judge likely with --seeds 1"),
        (["--space", "paper"], "starts from another network"),
        (["--seeds", "0"], "--seeds 0"),
    ],
)
def test_what_can_not_be_kept_is_refused(
    run: Path, flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / "run.yaml").read_bytes()
    assert main(["resume", str(run), *flags]) == 2
    assert said in capsys.readouterr().err
    assert (run / "run.yaml").read_bytes() == before


def test_a_run_whose_test_set_was_opened_is_not_extended(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "final").mkdir()
    assert main(["resume", str(run), "--seeds", "2"]) == 2
    assert "final" in capsys.readouterr().err
    assert not open_record(str(run)).earlier


class Deadly(SimulatedEvaluator):
    """Its workers die again and again."""

    def next_event(self, timeout: float | None = None) -> Event | None:
        event = super().next_event(timeout)
        assert event is not None
        lost = Failure(reason=Reason.LOST, message="its worker died")
        return Event(training=event.training, update=Record(outcome=lost, curve=()))


class Damaged(SimulatedEvaluator):
    """Finds a file that can't be read."""

    def next_event(self, timeout: float | None = None) -> Event | None:
        raise RunError("final.json: damaged.")


def test_a_damaged_file_in_the_middle_of_a_search_marks_the_run_as_failed(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_workers", lambda run, verbose: Damaged(table=Scores()))
    assert main(["resume", str(run), "--seeds", "2", "--workers", "3", "--allow-weak-base"]) == 1
    found = open_record(str(run))
    assert (found.status, found.reason) == ("failed", "final.json: damaged.")
    assert found.settings.workers == 3


def test_a_lost_training_ends_the_search_without_a_verdict_and_resume_tries_it_again(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    workers = search._workers
    monkeypatch.setattr(search, "_workers", lambda run, verbose: Deadly(table=Scores()))
    assert main(["resume", str(run), "--seeds", "2", "--allow-weak-base"]) == 1
    assert "its worker died No decision was made on it" in capsys.readouterr().err
    found = open_record(str(run))
    assert found.status == "failed"
    view, history = state_of(found)
    assert view.decisions == ()
    assert not any(isinstance(outcome, Failure) for outcome in history.outcomes.values())

    monkeypatch.setattr(search, "_workers", workers)
    assert main(["resume", str(run), "--allow-weak-base"]) == 0
    assert {line["seeds"] for line in lines_of(run / "decisions.jsonl")} == {2}


@pytest.mark.parametrize("stopped", [False, True])
def test_failed_trainings_are_done_anew_in_new_trials_and_all_verdicts_after_them(
    run: Path, monkeypatch: pytest.MonkeyPatch, stopped: bool
) -> None:
    class Failing(SimulatedEvaluator):
        """Every training of the last stage's M raises."""

        def next_event(self, timeout: float | None = None) -> Event | None:
            event = super().next_event(timeout)
            if event is None or not event.training.candidate.layout.endswith("M"):
                return event
            broken = Failure(reason=Reason.BROKEN, message="Traceback\nZeroDivisionError")
            folder = run / "trainings" / event.training.id / "attempt-1"
            folder.mkdir(parents=True, exist_ok=True)
            record = Record(outcome=broken, curve=())
            (folder / FINAL).write_text(json.dumps(record_to_values(record)))
            return Event(training=event.training, update=record)

    monkeypatch.setattr(search, "_workers", lambda run, verbose: Failing(table=Scores()))
    assert main(["resume", str(run), "--seeds", "2", "--allow-weak-base"]) == 0
    _, history = state_of(open_record(str(run)))
    failed = history.avoidable_failures()
    assert failed
    monkeypatch.setattr(search, "_workers", lambda run, verbose: SimulatedEvaluator(table=Scores()))
    if stopped:
        with monkeypatch.context() as killed:
            killed.setattr(search, "open_writer", interrupted)
            assert main(["resume", str(run), "--retry-failed"]) == 130
        assert main(["resume", str(run)]) == 0
    else:
        assert main(["resume", str(run), "--retry-failed"]) == 0
    found = open_record(str(run))
    _, history = state_of(found)
    assert not history.avoidable_failures()
    assert any(trainings_in(run)[key] == 1 for key in failed)  # the new verdicts may lead past the others
    assert len(found.earlier) == 2
    assert any("failed trainings done anew" in warning for warning in found.warnings)
    assert not any((run / "trainings" / key / "attempt-1" / FINAL).exists() for key in failed)
    assert main(["resume", str(run), "--retry-failed"]) == 0
    assert len(open_record(str(run)).earlier) == 2


def test_checks_of_the_base_that_a_limit_cut_off_are_made_up_for(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun = open_record(str(run))
    save_record(replace(begun, settings=replace(begun.settings, no_base_checks=False)))
    whole = Path(shutil.copytree(run, run.parent / "whole" / run.name))
    assert main(["resume", str(whole), "--allow-weak-base"]) == 0
    view, history = state_of(open_record(str(whole)))
    assert view.ended
    needed = len(replay_of(open_record(str(whole))).required_ids(view) & history.outcomes.keys())
    assert main(["resume", str(run), "--allow-weak-base", "--max-trials", str(needed)]) == 0
    found = open_record(str(run))
    assert found.status == "finished"
    assert state_of(found)[0].checks
    capsys.readouterr()
    assert main(["status", str(run)]) == 0
    assert f"`buildup resume {run}` makes up for it" in capsys.readouterr().out
    assert main(["resume", str(run), "--allow-weak-base"]) == 0
    assert state_of(found)[0].ended
    assert main(["status", str(run)]) == 0
    assert "makes up for it" not in capsys.readouterr().out


def test_a_run_beside_the_folder_of_all_runs_is_resumed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent)
    assert main(["resume", f"./{run.name}", "--allow-weak-base"]) == 0
    assert buildup.open_run(f"./{run.name}").status == "finished"


def test_a_callback_is_told_of_new_decisions_alone(run: Path) -> None:
    before = len(lines_of(run / "decisions.jsonl"))
    told: list[object] = []
    found = search.resume_search(open_record(str(run)), ResumeSettings(allow_weak_base=True), told.append)
    assert 0 < before < len(found.view.decisions)
    assert [one for one in told if isinstance(one, Decision)] == list(found.view.decisions[before:])


@pytest.mark.parametrize("changes", [ResumeSettings(allow_weak_base=True), ResumeSettings(seeds=3)])
def test_a_run_that_was_extended_while_a_command_started_is_not_written_back(
    run: Path, changes: ResumeSettings
) -> None:
    stale = open_record(str(run))  # and now torch is imported for seconds
    assert main(["resume", str(run), "--seeds", "2", "--allow-weak-base"]) == 0
    with pytest.raises(RunError, match="another process extended this run a moment ago"):
        search.resume_search(stale, changes)
    found = open_record(str(run))
    assert (found.settings.seeds, len(found.earlier), found.status) == (2, 1, "finished")


def interrupted(_: RunRecord) -> None:
    raise KeyboardInterrupt
