"""Reuses trainings that another run has finished, instead of training them again.

A training is identified by its candidate, its seed, and everything in its run that affects the result. Runs that agree
in these reuse each other's trainings: the final record and the files, as links if the file system allows. A training
that is still running elsewhere is not waited for: that run may be stopped at any moment.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from buildup.errors import BuildupError, RunError
from buildup.store.run_dir import (
    ELSEWHERE,
    REUSED_FROM,
    attempt_folder,
    attempts,
    final_record,
    kept_snapshots,
    trained_weights,
)
from buildup.store.run_record import RunRecord, open_record
from buildup.store.study_reader import folders_beside
from buildup.training.dataset import parse_fraction
from buildup.training.recipe import effective_values
from buildup.trials.outcome import Score
from buildup.trials.training import Training

NOT_COMPARED = frozenset({
    "allow_weak_base", "base", "cpus_per_trial", "data_dir", "dataset", "device", "disk_budget",
    "gpus_per_trial", "judge", "keep_weights", "look_ahead", "max_macs", "max_params", "max_trials", "no_base_checks",
    "objective", "places", "ray", "recipe", "reuse", "run", "seed", "seeds", "space", "stall_timeout", "storage",
    "storage_path", "strategy", "threads", "time_budget", "track", "workers",
})  # fmt: skip
"""Settings that do not affect the result of a training, or that `_training_settings` replaces by what they stand for.
All others must be equal, including settings that are added later."""


class ReusableRuns:
    """Other runs with the same training settings. They are listed at each call, because they change meanwhile."""

    def __init__(self, run: RunRecord, warn: Callable[[str], None]) -> None:
        """`run` reuses trainings of others; `warn` is called once for each record that can't be read."""
        self._run = run
        self._warn = warn
        self._elsewhere = set(folders_beside(run.settings.storage))
        self._known: dict[Path, tuple[int, RunRecord | None, str]] = {}
        """By folder: the time of its `run.yaml`, the run if it can be reused, and otherwise the reason."""
        self._warned: set[str] = set()

    @property
    def sources(self) -> tuple[RunRecord, ...]:
        return tuple(other for other, _ in self._others() if other)

    @property
    def others(self) -> tuple[str, ...]:
        """Why the trainings of other runs can't be reused, a sentence for each run."""
        return tuple(why for _, why in self._others() if why)

    def fetch(self, training: Training, folder: Path) -> None:
        """Copy a training that another run has finished into its folder, unless an attempt has begun there."""
        if attempts(folder):
            return
        for run in self.sources:
            there = run.trainings / training.id
            try:
                found = final_record(there)
                # Without its weights it could win here, and not be exported.
                if found and isinstance(found[1].outcome, Score) and trained_weights(there):
                    ended, snapshots = attempt_folder(there, found[0]), kept_snapshots(there).values()
                    files = {path.name: path for path in (*ended.iterdir(), *snapshots) if path.is_file()}
                    _copy_attempt(files, attempt_folder(folder, 1), str(run.folder))
                    return
            except (RunError, OSError) as problem:
                text = f"reuse: {run.folder} can't give {training.id}: {problem}"
                if text not in self._warned:
                    self._warned.add(text)
                    self._warn(text)

    def _others(self) -> list[tuple[RunRecord | None, str]]:
        own = self._run.folder.absolute()
        near = {path.parent for path in own.parent.glob("*/run.yaml")}
        found = []
        for folder in sorted((near | self._elsewhere) - {own}):
            with suppress(BuildupError, OSError):  # a damaged run is reported by its own commands
                changed = (folder / "run.yaml").stat().st_mtime_ns
                if folder not in self._known or self._known[folder][0] != changed:
                    other = open_record(str(folder))
                    ours, theirs = _training_settings(self._run), _training_settings(other)
                    differing = ", ".join(name.replace("_", " ") for name in ours if ours[name] != theirs.get(name))
                    why = f"{folder} was trained otherwise ({differing})" if differing else ""
                    self._known[folder] = (changed, None if differing else other, why)
                found.append(self._known[folder][1:])
        return found


def _training_settings(run: RunRecord) -> dict[str, Any]:
    """Everything that affects the result of a training, except its candidate and seed."""
    settings = run.settings
    return {
        **{name: value for name, value in asdict(settings).items() if name not in NOT_COMPARED},
        "data": run.data.hash,
        "split": run.data.split_seed,
        "recipe": effective_values(run.recipe),
        "fraction": parse_fraction(settings.fraction),
        "versions": {name: run.environment.versions.get(name) for name in ("buildup", "torch", "timm")},
        "device": settings.device.partition(":")[0],
        # Unless bitwise equal results are promised, threads only change rounding, as another run does.
        "threads": settings.threads if run.execution.deterministic else None,
    }


def _copy_attempt(theirs: Mapping[str, Path], ours: Path, source: str) -> None:
    """Link or copy the files of a training by their names, so that either all of them appear or none."""
    aside = ours.with_name(f".{ours.name}")
    shutil.rmtree(aside, ignore_errors=True)  # left by a process that died here
    aside.mkdir(parents=True)
    for name in theirs.keys() - {REUSED_FROM, ELSEWHERE}:
        try:
            os.link(theirs[name], aside / name)
        except OSError:
            shutil.copyfile(theirs[name], aside / name)
    (aside / REUSED_FROM).write_text(source, encoding="utf-8")
    aside.rename(ours)
