"""Trainings that another run has finished are taken over, and nothing else is."""

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from buildup.execution.dispatcher import TrialDispatcher
from buildup.graph.network import sketch
from buildup.store.reuse import ReusableRuns
from buildup.store.run_dir import FINAL, attempt_folder, final_record, reused_from
from buildup.store.run_record import RunRecord, create_run_dir, environment, save_record
from buildup.store.study_reader import REUSED
from buildup.store.study_writer import StudyWriter
from buildup.training.execution_words import Execution
from buildup.training.recipe import load_recipe
from buildup.trials.event import Started
from buildup.trials.outcome import Epoch, Failure, Outcome, Reason, Record, Score, record_to_values
from buildup.trials.training import Candidate, Training

NETWORK = sketch("CC|CC")
TRAINING = Training(candidate=Candidate(network=NETWORK), seed=3)
SCORE = Score(accuracy=81.5, metrics={"nll": 0.7}, correct=b"\xa0", images=8, seconds=9.0)
CURVE = (Epoch(number=1, metrics={"accuracy": 70.0}), Epoch(number=2, metrics={"accuracy": 81.5}))
MakeRun = Callable[..., RunRecord]


@pytest.fixture
def run_in(make_run: MakeRun) -> MakeRun:
    """Makes a run on disk."""

    def run_in(folder: Path, **changes: Any) -> RunRecord:
        run = make_run(folder, **changes)
        create_run_dir(run)
        return run

    return run_in


def trained(run: RunRecord, outcome: Outcome = SCORE) -> Path:
    folder = attempt_folder(run.trainings / TRAINING.id, 2)
    folder.mkdir(parents=True)
    (folder / FINAL).write_text(json.dumps(record_to_values(Record(outcome=outcome, curve=CURVE))))
    (folder / "weights.safetensors").write_bytes(b"weights")
    return folder


def library_of(run: RunRecord) -> ReusableRuns:
    def warn(text: str) -> None:
        raise AssertionError(text)

    return ReusableRuns(run, warn)


def desk_of(run: RunRecord) -> TrialDispatcher:
    def train(job: object) -> Any:
        raise AssertionError("nothing is trained here")

    return TrialDispatcher(
        folder=run.trainings, train=train, job=lambda *_: None, workers=1, fetch_reusable=library_of(run).fetch
    )


def test_a_finished_training_is_taken_over_with_its_files_and_says_from_where(run_in: MakeRun, tmp_path: Path) -> None:
    theirs = trained(run_in(tmp_path / "first", strategy="random", seeds=3, workers=7))
    ours = run_in(tmp_path / "second")
    dispatcher = desk_of(ours)
    dispatcher.request([TRAINING])
    event = dispatcher.events.get_nowait()
    assert event.update == Record(outcome=SCORE, curve=CURVE)
    assert dispatcher.next_assignment("anyone") is None
    weights = attempt_folder(ours.trainings / TRAINING.id, 1) / "weights.safetensors"
    assert weights.samefile(theirs / "weights.safetensors")

    writer = StudyWriter.create(folder=ours.folder, storage_url=None, study_name="second", base=NETWORK)
    with closing(writer):
        history = writer.record(writer.history, event)
    assert history.outcomes[TRAINING.id] == SCORE
    (trial,) = optuna.load_study(study_name="second", storage=f"sqlite:///{ours.folder}/study.db").trials
    assert trial.user_attrs[REUSED] == str(tmp_path / "first")
    assert trial.intermediate_values == {1: 70.0, 2: 81.5}


@pytest.mark.parametrize(
    "changes",
    [
        {"fraction": "1/2"},
        {"epochs": 3},
        {"image_size": 8},
        {"device": "cuda:1"},
        {"execution": "bf16,channels-first,eager"},
        {"data": {"hash": "cd" * 32}},
        {"data": {"split_seed": 1}},
        {"recipe": replace(load_recipe("quick"), lr=0.2)},
        {"environment": replace(environment("cpu"), versions={"torch": "1.0"})},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_was_trained_otherwise_is_not_lent_and_why_is_said(
    run_in: MakeRun, tmp_path: Path, changes: dict[str, Any]
) -> None:
    trained(run_in(tmp_path / "first", **changes))
    library = library_of(run_in(tmp_path / "second"))
    assert library.sources == ()
    assert "was trained otherwise" in library.others[0]


def test_one_share_of_the_data_has_many_spellings(run_in: MakeRun, tmp_path: Path) -> None:
    run_in(tmp_path / "first", fraction="0.125")
    assert library_of(run_in(tmp_path / "second", fraction="1/8")).sources


def test_threads_matter_where_equal_bits_are_promised(run_in: MakeRun, tmp_path: Path) -> None:
    for deterministic in (False, True):
        place = tmp_path / str(deterministic)
        execution = Execution(deterministic=deterministic).words
        run_in(place / "first", threads=2, execution=execution)
        second = run_in(place / "second", execution=execution)
        assert bool(library_of(second).sources) == (not deterministic)


@pytest.mark.parametrize("reason", [Reason.DIVERGED, Reason.OUT_OF_MEMORY])
def test_a_failure_is_not_taken_over(run_in: MakeRun, tmp_path: Path, reason: Reason) -> None:
    trained(run_in(tmp_path / "first"), Failure(reason=reason, message="no"))
    second = run_in(tmp_path / "second")
    library_of(second).fetch(TRAINING, second.trainings / TRAINING.id)
    assert final_record(second.trainings / TRAINING.id) is None


def test_a_training_that_has_begun_goes_on_by_itself(run_in: MakeRun, tmp_path: Path) -> None:
    trained(run_in(tmp_path / "first"))
    second = run_in(tmp_path / "second")
    attempt_folder(second.trainings / TRAINING.id, 1).mkdir(parents=True)
    library_of(second).fetch(TRAINING, second.trainings / TRAINING.id)
    assert final_record(second.trainings / TRAINING.id) is None


def test_runs_whose_studies_share_a_storage_lend_to_each_other(run_in: MakeRun, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shared.db"
    first, second = (run_in(tmp_path / place / place, storage=url) for place in ("here", "there"))
    trained(first)
    for run in (first, second):
        StudyWriter.create(folder=run.folder, storage_url=url, study_name=run.study_name, base=NETWORK).close()
    assert [run.folder for run in library_of(second).sources] == [first.folder]


def test_a_driver_that_died_while_it_took_over_left_nothing_half_done(run_in: MakeRun, tmp_path: Path) -> None:
    trained(run_in(tmp_path / "first"))
    second = run_in(tmp_path / "second")
    folder = second.trainings / TRAINING.id
    (folder / ".attempt-1").mkdir(parents=True)
    (folder / ".attempt-1" / "weights.safetensors").write_bytes(b"wei")
    library_of(second).fetch(TRAINING, folder)
    assert (folder / "attempt-1" / "weights.safetensors").read_bytes() == b"weights"
    assert final_record(folder) is not None


def test_a_training_that_another_run_took_over_is_lent_on(run_in: MakeRun, tmp_path: Path) -> None:
    trained(run_in(tmp_path / "first"))
    second, third = run_in(tmp_path / "second"), run_in(tmp_path / "third")
    library_of(second).fetch(TRAINING, second.trainings / TRAINING.id)
    shutil.rmtree(tmp_path / "first")
    library_of(third).fetch(TRAINING, third.trainings / TRAINING.id)
    assert reused_from(third.trainings / TRAINING.id) == str(tmp_path / "second")
    assert reused_from(second.trainings / TRAINING.id) == str(tmp_path / "first")


def test_a_run_that_was_taken_further_lends_what_it_trained_for_the_epochs_that_it_has_now(
    run_in: MakeRun, tmp_path: Path
) -> None:
    first = replace(run_in(tmp_path / "first"), earlier=({"epochs": 5},))
    save_record(first)
    theirs = trained(first)
    assert theirs.parent.parent.name == "trainings-2"
    second = run_in(tmp_path / "second")
    library_of(second).fetch(TRAINING, second.trainings / TRAINING.id)
    assert final_record(second.trainings / TRAINING.id) is not None


def test_a_damaged_run_beside_lends_nothing_and_stops_nobody(run_in: MakeRun, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.yaml").write_text("settings: [")
    assert library_of(run_in(tmp_path / "second")).sources == ()


def test_a_damaged_record_of_another_run_is_named_once_and_passed_over(run_in: MakeRun, tmp_path: Path) -> None:
    first, second, third = (run_in(tmp_path / name) for name in ("first", "second", "third"))
    damaged = trained(first) / FINAL
    damaged.write_text("{")
    trained(second)
    said: list[str] = []
    library = ReusableRuns(third, said.append)
    library.fetch(Training(candidate=TRAINING.candidate, seed=4), third.trainings / "another")
    library.fetch(TRAINING, third.trainings / TRAINING.id)
    assert reused_from(third.trainings / TRAINING.id) == str(tmp_path / "second")
    (warning,) = said
    assert str(damaged) in warning

    damaged.write_text("{")
    library.fetch(TRAINING, third.trainings / "again")
    assert len(said) == 1


def test_what_another_run_finishes_meanwhile_is_not_trained_even_if_that_run_began_later(
    run_in: MakeRun, tmp_path: Path
) -> None:
    ours = run_in(tmp_path / "first")
    dispatcher = desk_of(ours)
    before = Training(candidate=TRAINING.candidate, seed=1)
    dispatcher.request([before, TRAINING])
    assert dispatcher.next_assignment("one") is not None
    trained(run_in(tmp_path / "second"))
    assert dispatcher.report("one", Started(attempt=1, host="here", pid=1)) is False
    assert dispatcher.report("one", Record(outcome=SCORE, curve=CURVE)) is False, "nothing is left to hand over to"
    assert reused_from(ours.trainings / TRAINING.id) == str(tmp_path / "second")
    assert not dispatcher.pending


def test_a_training_that_is_wanted_twice_is_started_once(run_in: MakeRun, tmp_path: Path) -> None:
    dispatcher = desk_of(run_in(tmp_path / "run"))
    again = Training(candidate=Candidate(network=sketch("CC|CC")), seed=3)
    dispatcher.request([TRAINING, again])
    assert dispatcher.next_assignment("first") is not None
    dispatcher.request([again])
    assert dispatcher.next_assignment("second") is None
