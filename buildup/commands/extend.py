"""A search taken further, at its end or before: more seeds, or another space, from the trainings that are there.

The rule decides anew under the new settings. Verdicts before stay where they were made: in the study, in
`decisions-1.jsonl`, `decisions-2.jsonl` and so on, and in `run.yaml` with the settings that they were made under.
"""

import shlex
import shutil
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from buildup.commands.problems import Problems
from buildup.commands.request import check_strategy
from buildup.graph.fingerprint import fingerprint
from buildup.models.read import read
from buildup.rules.limits import Limits
from buildup.rules.moves import start
from buildup.search.final import FOLDER, RESULT
from buildup.search.folder import Run, save
from buildup.search.journal import DECISIONS
from buildup.search.lock import take
from buildup.space.load import load
from buildup.space.schema import SearchSpace

MOST_SEEDS = 1000


def extension(run: Run, flags: Mapping[str, Any], problems: Problems) -> Run | None:
    """The run as it is asked to be; None where nothing of it changes. Writes nothing."""
    if flags["epochs"]:
        problems.found.append(_other_epochs(run, flags["epochs"]))
    seeds = problems.whole("--seeds", flags["seeds"], run.settings.seeds, most=MOST_SEEDS)
    if seeds < run.settings.seeds:
        problems.found.append(
            f"--seeds {seeds}: this run has {run.settings.seeds} of each network already. Ask for more, or none."
        )
    space = run.space
    if flags["space"]:
        with problems.caught():
            space = load(flags["space"])
            _check_space(run, space, problems)
    if seeds == run.settings.seeds and space == run.space:
        return None
    if (run.folder / RESULT).exists() or (run.folder / FOLDER).exists():
        problems.found.append(
            f"{run.folder}: a final of this run has {'opened the test set' if _is_done(run) else 'begun'}, so it can't "
            f"be extended: what comes after could be steered by it. Start a new search, with --reuse to repeat nothing."
        )
    settings = replace(run.settings, seeds=seeds, space=flags["space"] or run.settings.space)
    earlier = {
        "until": datetime.now(UTC).isoformat(timespec="seconds"),
        "status": run.status,
        "seeds": run.settings.seeds,
        "space": run.settings.space,
        "space values": asdict(run.space),
    }
    return replace(
        run,
        settings=settings,
        space=space,
        status="stopped",
        reason="extended",
        earlier=(*run.earlier, earlier),
        warnings=(*run.warnings, _warning(run, seeds, settings.space)),
    )


def begin(extended: Run) -> None:
    """Begin to decide anew. What was decided is put aside first; from `run.yaml` on, the new settings hold."""
    with closing(take(extended.folder)):
        decisions = extended.folder / DECISIONS
        if decisions.exists():
            shutil.copyfile(decisions, decisions.with_stem(f"{decisions.stem}-{len(extended.earlier)}"))
        save(extended)


def _check_space(run: Run, space: SearchSpace, problems: Problems) -> None:
    settings = run.settings
    base = read(
        settings.base, input_shape=run.network.input_shape, num_classes=run.network.num_classes, stem=space.stem
    )
    network = start(base, space)
    if fingerprint(network) != fingerprint(run.network):
        problems.found.append(
            f"--space {space.name}: it starts from another network than this run, by its stem or its blocks, so no "
            f"training could be kept. Start a new search with it."
        )
        return
    limits = Limits(max_params=settings.max_params, max_macs=settings.max_macs)
    check_strategy(network, space, settings.strategy, limits, settings.seed)


def _other_epochs(run: Run, epochs: str) -> str:
    settings = run.settings
    again = (
        f"buildup search --base {settings.base} --dataset {shlex.quote(settings.dataset)} --recipe "
        f"{shlex.quote(settings.recipe)} --fraction {settings.fraction} --seeds {settings.seeds} "
        f"--epochs {epochs} --run {shlex.quote(f'{run.name}-{epochs}')}"
    )
    return (
        f"--epochs {epochs}: trainings of {epochs} epochs are other trainings from their first step on, since the "
        f"learning rate follows the number of epochs. Nothing of this run could be kept; a new search is: {again}"
    )


def _is_done(run: Run) -> bool:
    return (run.folder / RESULT).exists()


def _warning(run: Run, seeds: int, space: str) -> str:
    settings = run.settings
    what = [f"{settings.seeds} to {seeds} seeds"] if seeds != settings.seeds else []
    what += [f"space {settings.space} to {space}"] if space != settings.space else []
    return (
        f"extended ({', '.join(what) or 'another form of its space'}): all verdicts were made anew after earlier ones "
        f"were seen, so `proven` errs more often than it says. A final is not touched by that."
    )
