"""Extend a search with more seeds, another judge, another space, other epochs, or another try of what failed.

All verdicts are made anew under the new settings, from the existing trainings. Earlier verdicts are kept in the study,
in `decisions-1.jsonl`, `decisions-2.jsonl` and so on; their settings are kept in `run.yaml`. With another number of
epochs the learning rate differs from the first step on. So these trainings get their own folder, and a later return to
the earlier number finds its trainings again.
"""

import shutil
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict, replace
from datetime import UTC, datetime

from buildup.engine.load_state import FINAL_FOLDER, FINAL_RESULT
from buildup.engine.problems import Problems
from buildup.engine.request import check_strategy
from buildup.errors import RequestError
from buildup.graph.serialize import fingerprint
from buildup.models.read import read_network
from buildup.settings import ResumeSettings, RunSettings
from buildup.space.load import load
from buildup.space.schema import SearchSpace
from buildup.store.run_dir import DECISIONS, DIAGNOSTICS, acquire_run_lock, attempts
from buildup.store.run_record import RunRecord, check_extensions, save_record
from buildup.strategies.moves import start, steered
from buildup.training.recipe import recipe_from_values, recipe_to_values

EXTENDED = ("seeds", "epochs", "judge", "space")
"""The settings that an extension may change."""
WARNING = "extended ("
RETRIED = "done anew"
"""In an entry of `RunRecord.earlier`: the failed trainings that are done anew, with the newest attempt of each. They
have the epochs of that entry."""


def extension(run: RunRecord, changes: ResumeSettings, problems: Problems) -> RunRecord | None:
    """The record of the extended run; None if no setting changes. Nothing is written."""
    epochs = problems.whole("--epochs", changes.epochs, run.settings.epochs)
    seeds = problems.whole("--seeds", changes.seeds, run.settings.seeds)
    if seeds < run.settings.seeds:
        problems.found.append(
            f"--seeds {seeds}: this run has {run.settings.seeds} of each network already. Ask for more, or none."
        )
    judge = problems.judge(changes.judge, run.settings.judge, seeds)
    space = problems.checked(run.space, _other_space, run, changes.space) if changes.space else run.space
    settings = replace(run.settings, seeds=seeds, epochs=epochs, judge=judge, space=changes.space or run.settings.space)
    unchanged = replace(settings, space=run.settings.space) == run.settings and space == run.space
    if unchanged and not changes.retry_failed:
        return None
    is_done = (run.folder / FINAL_RESULT).exists()
    if is_done or (run.folder / FINAL_FOLDER).exists():
        problems.found.append(
            f"{run.folder}: a final of this run has {'opened the test set' if is_done else 'begun'}, so it can't "
            f"be extended: what comes after could be steered by it. Start a new search, with --reuse to repeat nothing."
        )
    recipes = {entry["epochs"]: recipe_from_values(entry["recipe"]) for entry in run.earlier if "recipe" in entry}
    recipes[run.settings.epochs] = run.recipe
    earlier = {
        "until": datetime.now(UTC).isoformat(timespec="seconds"),
        "status": run.status,
        **{name: value for name, value in asdict(run.settings).items() if name in EXTENDED},
        "space values": asdict(run.space),
        "recipe": recipe_to_values(run.recipe),
    }
    return replace(
        run,
        settings=settings,
        space=space,
        recipe=recipes.get(epochs) or run.recipe.with_epochs(epochs),
        status="stopped",
        reason="extended",
        earlier=(*run.earlier, earlier),
        # All other warnings are made anew.
        warnings=(*(one for one in run.warnings if one.startswith(WARNING)), _warning(run.settings, settings, changes)),
    )


def with_retries(extended: RunRecord, run: RunRecord, failed: Iterable[str]) -> RunRecord:
    """The record with the failed trainings of the run that its extension does anew."""
    *before, entry = extended.earlier
    newest = {key: max(attempts(run.trainings / key), default=0) for key in failed}
    return replace(extended, earlier=(*before, {**entry, RETRIED: newest}))


def begin(extended: RunRecord) -> None:
    """Start the extension: rename the files of the earlier decisions, then write the new settings to `run.yaml`."""
    folder, number = extended.folder, len(extended.earlier)
    decisions, measured = folder / DECISIONS, folder / DIAGNOSTICS
    with closing(acquire_run_lock(folder)):
        check_extensions(folder, number - 1)
        if decisions.exists():
            shutil.copyfile(decisions, decisions.with_stem(f"{decisions.stem}-{number}"))
        extended.trainings.mkdir(exist_ok=True)
        # The measured verdicts belong to trainings of the earlier number of epochs.
        if extended.settings.epochs != extended.earlier[-1]["epochs"] and measured.exists():
            measured.rename(measured.with_stem(f"{measured.stem}-{number}"))
        save_record(extended)


def _other_space(run: RunRecord, name: str) -> SearchSpace:
    """Load another space. Raises if it can't keep the trainings of a run."""
    settings, space = run.settings, load(name)
    space = steered(space, look_ahead=settings.look_ahead, places=settings.places)
    base = read_network(
        run.network.base,
        input_shape=run.network.input_shape,
        num_classes=run.network.num_classes,
        stem=space.stem,
        base_args=run.network.base_args,
    )
    network = start(base, space)
    if fingerprint(network) != fingerprint(run.network):
        raise RequestError(
            f"--space {space.name}: it starts from another network than this run, by its stem or its blocks, so no "
            f"training could be kept. Start a new search with it."
        )
    check_strategy(network, space, settings)
    return space


def _warning(before: RunSettings, now: RunSettings, asked: ResumeSettings) -> str:
    changes = {name: (getattr(before, name), getattr(now, name)) for name in EXTENDED}
    what = [f"{name} {old} to {new}" for name, (old, new) in changes.items() if old != new]
    what += ["failed trainings done anew"] if asked.retry_failed else []
    return (
        f"{WARNING}{', '.join(what) or 'another form of its space'}): all verdicts were made anew after earlier ones "
        f"were seen, so `proven` errs more often than it says. A final is not touched by that."
    )
