"""Trainings that another run has finished already: taken over instead of trained once more.

A training is known by its candidate and its seed, and by everything in its run that decides over the result. Runs
that agree in that lend each other what they trained: the final record and the files, as links where the disk allows.
What another run is still training is not waited for: it may be stopped at any moment, and then nobody would train it.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from buildup.errors import BuildupError, RunError
from buildup.store.run_dir import REUSED_FROM, attempt_folder, attempts, final_record
from buildup.store.run_record import RunRecord, open_run
from buildup.store.study_reader import folders_beside
from buildup.training.dataset import parse_fraction
from buildup.training.recipe import recipe_to_values
from buildup.trials.outcome import Score
from buildup.trials.training import Training

ASKED = frozenset({
    "allow_weak_base", "base", "data_dir", "dataset", "device", "gpus_per_trial", "judge", "look_ahead",
    "max_macs", "max_params", "max_trials", "objective", "ray", "recipe", "reuse", "seed", "seeds", "space",
    "run", "storage", "strategy", "threads", "time_budget", "workers",
})  # fmt: skip
"""The settings that decide what is trained, not what comes of it. Any other must be equal, also those still to come;
in place of some of these, what they stand for is compared (`_told`)."""


class ReusableRuns:
    """Runs that trained like a run, looked for anew each time: others begin, end and are extended meanwhile."""

    def __init__(self, run: RunRecord, warn: Callable[[str], None]) -> None:
        """Find them.

        Args:
            run: who borrows.
            warn: Told of each record that can't be read, once.
        """
        self._run = run
        self._warn = warn
        self._elsewhere = set(folders_beside(run.settings.storage))
        self._known: dict[Path, tuple[int, RunRecord | None, str]] = {}
        """Each run with the time of its `run.yaml`, and why it lends nothing."""
        self._warned: set[str] = set()

    @property
    def sources(self) -> tuple[RunRecord, ...]:
        """Those that lend."""
        return tuple(other for other, _ in self._others() if other)

    @property
    def others(self) -> tuple[str, ...]:
        """Why other runs lend nothing, a sentence each."""
        return tuple(why for _, why in self._others() if why)

    def fetch(self, training: Training, folder: Path) -> None:
        """Put a finished training into its folder, if any run has it; one that has begun there is left alone."""
        if attempts(folder):
            return
        for run in self.sources:
            there = run.trainings / training.id
            try:
                found = final_record(there)
                if found and isinstance(found[1].outcome, Score):
                    _take_over(attempt_folder(there, found[0]), attempt_folder(folder, 1), str(run.folder))
                    return
            except (RunError, OSError) as problem:
                text = f"reuse: {run.folder} does not lend {training.id}: {problem}"
                if text not in self._warned:
                    self._warned.add(text)
                    self._warn(text)

    def _others(self) -> list[tuple[RunRecord | None, str]]:
        own = self._run.folder.absolute()
        near = {path.parent for path in own.parent.glob("*/run.yaml")}
        return [self._read(folder) for folder in sorted((near | self._elsewhere) - {own})]

    def _read(self, folder: Path) -> tuple[RunRecord | None, str]:
        try:
            changed = (folder / "run.yaml").stat().st_mtime_ns
            if folder not in self._known or self._known[folder][0] != changed:
                other = open_run(str(folder))
                differing = ", ".join(_differences(self._run, other))
                why = f"{folder} was trained otherwise ({differing})" if differing else ""
                self._known[folder] = (changed, None if differing else other, why)
        except (BuildupError, OSError):  # a damaged run lends nothing, and is not this one's business
            return None, ""
        return self._known[folder][1:]


def _differences(run: RunRecord, other: RunRecord) -> list[str]:
    ours, theirs = _told(run), _told(other)
    return [name.replace("_", " ") for name in ours if ours[name] != theirs.get(name)]


def _told(run: RunRecord) -> dict[str, Any]:
    """All that decides over what comes of a training, beside its candidate and its seed."""
    settings = run.settings
    return {
        **{name: value for name, value in asdict(settings).items() if name not in ASKED},
        "data": run.data.hash,
        "split": run.data.split_seed,
        "recipe": {
            name: value
            for name, value in recipe_to_values(run.recipe).items()
            if name not in ("name", "description", "expected")
        },
        "fraction": parse_fraction(settings.fraction),
        "versions": {name: run.environment.versions.get(name) for name in ("buildup", "torch", "timm")},
        "device": settings.device.partition(":")[0],
        # Without the promise of equal bits, threads only change how sums are rounded, as the next run would.
        "threads": settings.threads if run.execution.deterministic else None,
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
