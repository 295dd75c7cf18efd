"""Trainings that another run has finished already: taken over instead of trained once more.

A training is known by its candidate and its seed, and by everything in its run that decides over the result. Runs
that agree in that lend each other what they trained: the final record and the files, as links where the disk allows.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from buildup.errors import BuildupError
from buildup.search.evaluate import REUSED_FROM, attempt_folder, attempts, final_record
from buildup.search.folder import Run, open_run
from buildup.search.study import folders_beside
from buildup.trials.outcome import Score
from buildup.trials.training import Training

ASKED = frozenset({
    "allow_weak_base", "base", "data_dir", "dataset", "device", "early_drop", "gpus_per_trial", "judge", "max_macs",
    "max_params", "max_trials", "objective", "prior", "ray", "recipe", "reuse", "seed", "seeds", "space", "storage",
    "strategy", "threads", "time_budget", "workers",
})  # fmt: skip
"""The settings that decide what is trained, not what comes of it. Any other must be equal, also those still to come;
in place of some of these, what they stand for is compared (`_told`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """Runs that trained like this one."""

    lenders: tuple[Run, ...]
    others: tuple[str, ...]
    """Why other runs lend nothing, a sentence each."""

    def lend(self, training: Training, folder: Path) -> None:
        """Put a finished training into its folder, if any run has it; one that has begun there is left alone."""
        if attempts(folder):
            return
        for run in self.lenders:
            there = run.trainings / training.id
            found = final_record(there)
            if found and isinstance(found[1].outcome, Score):
                _take_over(attempt_folder(there, found[0]), attempt_folder(folder, 1), str(run.folder))
                return


def library_of(run: Run) -> Library:
    """The runs beside this one, and those whose studies lie in the same storage."""
    lenders, others = [], []
    for other in _runs_beside(run):
        if differing := _differences(run, other):
            others.append(f"{other.folder} was trained otherwise ({', '.join(differing)})")
        else:
            lenders.append(other)
    return Library(lenders=tuple(lenders), others=tuple(others))


def _runs_beside(run: Run) -> Iterator[Run]:
    near = {path.parent for path in run.folder.absolute().parent.glob("*/run.yaml")}
    near |= set(folders_beside(run.settings.storage))
    for folder in sorted(near - {run.folder.absolute()}):
        try:
            yield open_run(str(folder))
        except BuildupError:  # a damaged run lends nothing, and is not this one's business
            continue


def _differences(run: Run, other: Run) -> list[str]:
    ours, theirs = _told(run), _told(other)
    return [name.replace("_", " ") for name in ours if ours[name] != theirs.get(name)]


def _told(run: Run) -> dict[str, Any]:
    """All that decides over what comes of a training, beside its candidate and its seed."""
    settings = run.settings
    return {
        **{name: value for name, value in asdict(settings).items() if name not in ASKED},
        "data": run.data["hash"],
        "split": run.data["split_seed"],
        "recipe": {
            name: value for name, value in run.recipe.items() if name not in ("name", "description", "expected")
        },
        "device": settings.device.partition(":")[0],
        # Without the promise of equal bits, threads only change how sums are rounded, as the next run would.
        "threads": settings.threads if settings.execution.deterministic else None,
    }


def _take_over(theirs: Path, ours: Path, source: str) -> None:
    """Link or copy the files of an attempt: all of them are there at once, or none."""
    aside = ours.with_name(f".{ours.name}")
    shutil.rmtree(aside, ignore_errors=True)  # of a driver that died here
    aside.mkdir(parents=True)
    for path in theirs.iterdir():
        if path.is_file() and path.name != REUSED_FROM:
            try:
                os.link(path, aside / path.name)
            except OSError:
                shutil.copyfile(path, aside / path.name)
    (aside / REUSED_FROM).write_text(source, encoding="utf-8")
    aside.rename(ours)
