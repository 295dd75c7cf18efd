"""Reads the Optuna study of a run, which is the source of truth for outcomes and decisions."""

import re
import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna import Study as Study
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from buildup.errors import RunError, command
from buildup.store import trial_attrs as entry
from buildup.store.run_dir import METRICS_FILE, read_epochs, trainings_in
from buildup.store.storage import cause_of, hide_password, opened_storage, way_back
from buildup.trials.decision import decision_from_values
from buildup.trials.history import History
from buildup.trials.outcome import PER_IMAGE, Epoch, Outcome, Score, short_hash
from buildup.trials.training import CHECKS

MARK = "buildup"
"""The study attribute that identifies a study of this program."""
CONCLUSION = "final"
"""The study attribute with the result of `final`."""
FORMAT = 1
EPOCHS = "epochs"
"""The trial attribute with a training's epochs, if the run began with another number."""
REUSED = "reused_from"
"""The trial attribute with the run that a training was copied from."""
SET_ASIDE = "set_aside"
"""The study attribute with the numbers of the failed trials whose trainings are done anew, in new trials."""
DAMAGE = (StorageInternalError, SQLAlchemyError, ValueError, LookupError, TypeError, AttributeError, AssertionError)
"""What Optuna raises where pages of a database are damaged, or hold something else than it wrote."""
TRAINING_ID = re.compile(rf"[0-9a-f]+(-({'|'.join(CHECKS)}))?-s[0-9]+")


def read_history(
    folder: Path, storage_url: str | None, study_name: str, revision: int = 0, epochs: int | None = None
) -> History:
    """Read the history of a run, without locking it: another process may be writing it."""
    with existing_storage(folder, storage_url) as storage, reporting_damage(folder, storage_url):
        return history_of(folder, load_study(storage, storage_url, study_name), revision, epochs)


def open_study(folder: Path, storage_url: str | None, study_name: str) -> Study:
    """The study of a run, for reading. Its storage is closed when the study is garbage collected."""
    holder = ExitStack()
    study = load_study(holder.enter_context(existing_storage(folder, storage_url)), storage_url, study_name)
    weakref.finalize(study, holder.close)
    return study


def read_underway(
    folder: Path, storage_url: str | None, study_name: str, epochs: int | None = None
) -> dict[str, Mapping[str, Any]]:
    """The trial attributes of the trainings that have begun and not ended, by training id."""
    with existing_storage(folder, storage_url) as storage, reporting_damage(folder, storage_url):
        study = load_study(storage, storage_url, study_name)
        begun = [trial.user_attrs for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))]
    return {str(known["training"]): known for known in begun if known.get(EPOCHS) == epochs and "training" in known}


def folders_beside(storage_url: str | None) -> list[Path]:
    """The folders of the runs in a shared storage, as far as this machine can read them."""
    if storage_url is None:
        return []
    with opened_storage(storage_url, Path()) as storage:
        marks = [study.user_attrs.get(MARK) for study in storage.get_all_studies()]
    folders = [Path(str(mark["folder"])) for mark in marks if isinstance(mark, dict) and "folder" in mark]
    return [folder for folder in folders if (folder / "run.yaml").is_file()]


@contextmanager
def existing_storage(folder: Path, storage_url: str | None) -> Iterator[BaseStorage]:
    """The storage of an existing run; raises instead of creating a new one."""
    if storage_url is None and not (folder / "study.db").is_file():
        raise RunError(
            f"{folder} has no study.db: there is no run, or its study lies elsewhere (--storage). If the file is lost, "
            f"`{command('resume', folder, '--rebuild')}` makes it anew from the files of the trainings."
        )
    with opened_storage(storage_url, folder) as storage:
        yield storage


@contextmanager
def reporting_damage(folder: Path, storage_url: str | None) -> Iterator[None]:
    """Turn whatever damaged pages of a study lead to into a `RunError`."""
    try:
        yield
    except DAMAGE as problem:
        file = None if storage_url else folder / "study.db"
        what = file or hide_password(storage_url)
        raise RunError(f"{what}: it can't be read ({cause_of(problem)}).{way_back(file)}") from None


def load_study(storage: BaseStorage, storage_url: str | None, study_name: str) -> Study:
    """The study of a run; raises if there is none, or if it is not one of this program."""
    try:
        study = optuna.load_study(study_name=study_name, storage=storage, sampler=optuna.samplers.RandomSampler())
    except KeyError:
        names = ", ".join(sorted(study.study_name for study in storage.get_all_studies())[:12])
        raise RunError(
            f"{hide_password(storage_url)} has no study {study_name!r}; it has {names or 'none'}. The study of a run "
            "in a shared storage has the name of its folder: if that was renamed, give it its name back."
        ) from None
    mark = study.user_attrs.get(MARK)
    if not isinstance(mark, dict) or mark.get("format") != FORMAT:
        raise RunError(
            f"the study {study_name!r} in {hide_password(storage_url)} was not written by this program "
            f"(its mark is {mark!r}, not format {FORMAT}). Choose another run or another storage."
        )
    return study


def history_of(folder: Path, study: Study, revision: int = 0, epochs: int | None = None) -> History:
    """The history in a study and in the files beside it: the decisions of one revision, trainings of so many epochs."""
    trainings = trainings_in(folder, epochs)
    set_aside = study.user_attrs.get(SET_ASIDE, ())
    outcomes: dict[str, Outcome] = {}
    curves: dict[str, tuple[Epoch, ...]] = {}
    costs: dict[str, tuple[int, int]] = {}
    for trial in study.get_trials(deepcopy=False):
        key = trial.user_attrs.get("training")
        if not isinstance(key, str) or not TRAINING_ID.fullmatch(key):  # it becomes a path
            raise RunError(
                f"trial {trial.number} of the study {study.study_name!r} is no training of this run ({key!r}): "
                f"someone else wrote into the study."
            )
        if trial.user_attrs.get(EPOCHS) != epochs:
            continue
        if "macs" in trial.user_attrs:
            costs[str(trial.user_attrs["candidate"])] = trial.user_attrs["params"], trial.user_attrs["macs"]
        if key not in curves and (curve := read_epochs(trainings / key / METRICS_FILE)):
            curves[key] = curve
        if trial.state is TrialState.COMPLETE:
            assert trial.value is not None
            images: dict[str, Any] = {
                name: _per_image(trainings / key / file, trial.user_attrs.get(f"{name}_hash"))
                for name, file in PER_IMAGE.items()
            }
            outcomes[key] = Score(accuracy=trial.value, **images, **trial.user_attrs["score"])
        elif (
            trial.state is TrialState.FAIL
            and trial.number not in set_aside
            and (failure := entry.failure(trial.user_attrs))
        ):
            outcomes[key] = failure
    steps = sorted(key for key in study.user_attrs if key.startswith(decision_key(revision)))
    decisions = tuple(decision_from_values(study.user_attrs[key]) for key in steps)
    return History(outcomes=outcomes, curves=curves, decisions=decisions, costs=costs)


def _per_image(path: Path, expected: str | None) -> bytes | None:
    """The content of a per-image file, checked against its hash; None if the score has no such file."""
    if expected is None:
        return None
    data = path.read_bytes() if path.is_file() else None
    if data is None or short_hash(data) != expected:
        found = "missing" if data is None else "damaged"
        raise RunError(
            f"{path}: it is {found}, and verdicts need it: its hash would have to be {expected}. "
            f"Put it back from a copy of the run."
        )
    return data


def decision_key(revision: int, step: int | None = None) -> str:
    """The study attribute of a decision; without a step, the prefix of all decisions of a revision.

    Extending a run begins a revision: the rule decides again, and the earlier decisions are kept as they were.
    """
    name = f"decision-{revision}:" if revision else "decision:"
    return name if step is None else f"{name}{step:04d}"
