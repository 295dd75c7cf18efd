"""The notes of a study: late, but whole, and at no growing cost."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest
from optuna.storages import BaseStorage
from optuna_dashboard import get_note, save_note

from buildup.store import notes as entry
from buildup.store.notes import Notes
from buildup.store.storage import opened_storage
from buildup.trials.decision import Decision


def decision(step: int) -> Decision:
    return Decision(
        step=step,
        candidate=f"candidate-{step}",
        parent="base",
        edit=f"c4.{step}: conv -> msa(heads=24, window=4)",
        layout="CC|CM",
        scores=(70.0,),
        parent_scores=(69.0,),
        gain=1.0,
        ci=(0.1, 1.9),
        verdict="keep",
        reason="kept: it is better " * 20,
        judge="point",
        level=0.05,
        looks=1,
        seeds=1,
    )


DECISIONS = tuple(decision(step) for step in range(1, 31))


@pytest.fixture
def study(tmp_path: Path) -> Iterator[optuna.Study]:
    with opened_storage(None, tmp_path) as storage:
        study = optuna.create_study(storage=storage)
        for _ in DECISIONS:
            study.ask()
        yield study


def trials(study: optuna.Study) -> dict[str, int]:
    return {
        one.candidate: frozen._trial_id for one, frozen in zip(DECISIONS, study.get_trials(deepcopy=False), strict=True)
    }


def written(study: optuna.Study) -> list[str]:
    ids = trials(study).values()
    return [get_note(study), *(get_note(optuna.Trial(study, trial_id)) for trial_id in ids)]


@contextmanager
def counted(study: optuna.Study, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """How often attributes of the study are read and written meanwhile."""
    times = {"get_study_system_attrs": 0, "set_study_system_attr": 0}
    with monkeypatch.context() as patch:
        for name in times:
            real = getattr(type(study._storage), name)

            def call(self: BaseStorage, *args: object, name: str = name, real=real) -> object:  # type: ignore[no-untyped-def]
                times[name] += 1
                return real(self, *args)

            patch.setattr(type(study._storage), name, call)
        yield times


def test_each_decision_is_in_the_end_in_the_table_and_at_its_candidate(study: optuna.Study) -> None:
    notes = Notes(study, trials(study))
    for number in range(1, len(DECISIONS) + 1):
        notes.show(DECISIONS[:number], "")
        notes.write(late=True)
    notes.write()
    assert written(study) == [entry.table(DECISIONS), *map(entry.note, DECISIONS)]


def test_what_comes_fast_is_written_together(study: optuna.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = Notes(study, trials(study))
    notes.show(DECISIONS[:1], "")
    notes.write(late=True)
    with counted(study, monkeypatch) as times:
        for number in range(2, len(DECISIONS) + 1):
            notes.show(DECISIONS[:number], "")
            notes.write(late=True)
        assert times["get_study_system_attrs"] <= 1  # a machine may stand still for a moment
        notes.write()
    assert times["get_study_system_attrs"] <= 2


def test_a_note_that_stands_there_already_costs_nothing_but_a_look(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Notes(study, trials(study))
    first.show(DECISIONS, "")
    first.write()
    with counted(study, monkeypatch) as times:
        again = Notes(study, trials(study))
        again.show(DECISIONS, "")
        again.write()
    assert times == {"get_study_system_attrs": 1, "set_study_system_attr": 0}


def test_one_more_decision_changes_the_end_of_the_table_only(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = Notes(study, trials(study))
    notes.show(DECISIONS[:-1], "")
    notes.write()
    with counted(study, monkeypatch) as times:
        notes.show(DECISIONS, "")
        notes.write()
    parts = len(entry.table(DECISIONS)) // 2045
    assert parts > 6
    assert (
        times["set_study_system_attr"] <= 2 + 3
    )  # the candidate's note with its version, the table's with its last parts
    assert written(study) == [entry.table(DECISIONS), *map(entry.note, DECISIONS)]


def test_a_longer_note_of_someone_else_leaves_no_rest(study: optuna.Study) -> None:
    save_note(study, "written by hand " * 2000)
    notes = Notes(study, trials(study))
    notes.show(DECISIONS, "the winner is better")
    notes.write()
    assert written(study)[0] == entry.table(DECISIONS, "the winner is better")
