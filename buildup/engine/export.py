"""Find, load and export the networks that a run has trained. An export is a timm model with a model card."""

import logging
import re
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from buildup.engine.load_state import state_of
from buildup.engine.problems import Problems
from buildup.engine.replay import View
from buildup.engine.reports import findings_of, write_findings
from buildup.errors import RequestError, RunError, command
from buildup.files import write_atomic
from buildup.graph.network import Network
from buildup.models.build import build
from buildup.models.export import check_onnx, check_target, export_network
from buildup.models.pretrained import origin_of
from buildup.models.publish import LONGEST_NAME, check_push, publish
from buildup.report.card import model_card
from buildup.report.diagram import graph_svg
from buildup.report.findings import Findings
from buildup.report.words import macs
from buildup.settings import ExportSettings
from buildup.store.outage import outlast
from buildup.store.run_dir import trained_weights
from buildup.store.run_record import RunRecord
from buildup.training.dataset import parse_fraction
from buildup.training.feed import crop_share
from buildup.training.recipe import recipe_to_values
from buildup.trials.history import History
from buildup.trials.objective import OBJECTIVES
from buildup.trials.outcome import Score
from buildup.trials.training import WEIGHTS, Candidate, candidate_id, seed_of

log = logging.getLogger("buildup")


def keep_winner(run: RunRecord, view: View, history: History) -> bool:
    """Write the winner to `export/` and the report to `report.html`; returns whether the winner still had weights."""
    folder = run.trainings / best_training(run, history, view.best)[0]
    kept = outlast(run.remote_trainings, partial(trained_weights, folder))
    findings = replace(findings_of(run, view, history), exported=kept is not None)
    write_findings(run, findings)
    target = run.folder / "export"
    if target.exists():  # the run was extended after it had finished
        if kept:
            shutil.rmtree(target)
        elif not (before := run.folder / f"export-{len(run.earlier)}").exists():
            target.rename(before)
    if kept:
        _export(run, findings, view.best, target)
    else:  # `clean` removed them when another network had won
        log.warning(f"warning: {run.folder}: the weights of {view.best.layout} were removed, so it is not exported.")
    return kept is not None


def keep_claim(run: RunRecord) -> None:
    """Add the result of a final to the report and to the model card of the winner. The weights stay as they are."""
    view, history = state_of(run)
    findings = findings_of(run, view, history)
    write_findings(run, findings)
    card = run.folder / "export" / "README.md"
    if card.is_file():
        score = best_training(run, history, view.best)[1]
        write_atomic(card, model_card(findings, view.best.network, score, origin=origin_of(run.start)).encode())


def export_candidate(run: RunRecord, settings: ExportSettings) -> tuple[Candidate, str]:
    """Export the winner, or another candidate. Raises all problems of the settings first.

    Returns the candidate, and what timm loads it by.
    """
    problems = Problems()
    view, history = state_of(run)
    candidate = problems.checked(view.best, find_candidate, run, view, settings.candidate)
    if settings.to:
        problems.checked(None, check_target, Path(settings.to))
    if settings.push:
        problems.checked(None, check_push, settings.push, settings.to)
    if not settings.to and not settings.push:
        problems.found.append("--to is missing: the folder to write the network to.")
    if settings.onnx:
        problems.checked(None, check_onnx)
    problems.raise_any()
    findings = findings_of(run, view, history)
    with TemporaryDirectory() as temporary:
        target = Path(settings.to or f"{temporary}/export")
        _export(run, findings, candidate, target, onnx=settings.onnx)
        if not settings.push:
            return candidate, f"local-dir:{target}"
        return candidate, publish(target, settings.push, repository_name(findings, candidate))


def repository_name(findings: Findings, candidate: Candidate) -> str:
    """The name of a repository for a network: base, layout and cost, as far as a name of the Hub may hold them."""
    cost = findings.cost(candidate.network)
    words = (findings.title.partition(" ")[0], candidate.layout.replace("|", "-"), macs(cost[1]) if cost else "")
    return re.sub(r"[^\w.]+", "-", "-".join(filter(None, ("alternet", *words))))[:LONGEST_NAME].strip("-.")


def find_candidate(run: RunRecord, view: View, name: str | int | None) -> Candidate:
    """Find a candidate by step number, layout or start of the fingerprint; the winner if no name is given."""
    if name is None:
        if not view.finished:
            raise RunError(
                f"{run.folder}: the search has not ended, so there is no winner. Go on with "
                f"`{command('resume', run.folder)}`, or choose a network by --candidate."
            )
        return view.best
    name = str(name)
    for number, candidate in enumerate(view.candidates):
        if name == str(number) or (len(name) >= 4 and candidate.id.startswith(name)):
            return candidate
    alike = [(number, one) for number, one in enumerate(view.candidates) if one.layout == name]
    if len({one.id for _, one in alike}) > 1:
        steps = ", ".join(f"{number} ({one.edit or 'the base'})" for number, one in alike)
        raise RequestError(f"--candidate {name}: several networks have this layout. Name one by its step: {steps}.")
    if alike:
        return alike[0][1]
    known = ", ".join(f"{number} ({candidate.layout})" for number, candidate in enumerate(view.candidates))
    raise RequestError(f"--candidate {name}: this run has no such candidate. It has {known}.")


def load_trained(network: Network, training: Path, snapshot: Path | None = None) -> nn.Module:
    """The model of a network with the weights of a finished training, given its folder, or with those of a snapshot."""
    weights = snapshot or trained_weights(training)
    if weights is None:
        raise RunError(
            f"{training} has no {WEIGHTS}: the training has not ended, or they were removed. In the latter case, put "
            "them back from a copy of the run."
        )
    model = build(network)
    try:
        model.load_state_dict(load_file(weights))
    except (OSError, SafetensorError) as error:
        raise RunError(f"{weights}: cannot read the weights: {error}") from error
    except RuntimeError as error:
        raise RunError(f"{weights}: weights of another network: {str(error).splitlines()[-1].strip()}") from error
    return model


def _export(run: RunRecord, findings: Findings, candidate: Candidate, target: Path, *, onnx: bool = False) -> None:
    training, score = best_training(run, findings.history, candidate)
    weights = trained_weights(run.trainings / training)
    if weights is None:
        raise RunError(f"{run.trainings / training}: its {WEIGHTS} is gone, so {candidate.layout} can't be exported.")
    card = model_card(findings, candidate.network, score, onnx=onnx, origin=origin_of(run.start))
    data: dict[str, Any] = {
        "mean": list(run.data.mean),
        "std": list(run.data.std),
        "crop_pct": crop_share(run.data.image_size, streamed=bool(run.data.streamed or run.recipe.resized_crop)),
        "interpolation": "bilinear",
    }
    if run.data.class_names:
        names = run.data.class_names
        data |= {"label_names": list(names), "label_descriptions": {name: name.replace("_", " ") for name in names}}
    trained = training_values(run, training)
    export_network(
        candidate.network,
        load_file(weights),
        target,
        card=card,
        diagram=graph_svg(candidate.network, run.settings.base),
        data=data,
        training=trained,
        onnx=onnx,
    )


def training_values(run: RunRecord, training: str) -> dict[str, Any]:
    return {
        "recipe": recipe_to_values(run.recipe),
        "dataset": run.settings.dataset,
        "data_hash": run.data.hash,
        "seed": seed_of(training),
        "split_seed": run.data.split_seed,
        "fraction": parse_fraction(run.settings.fraction),
    }


def best_training(run: RunRecord, history: History, candidate: Candidate) -> tuple[str, Score]:
    """The training of a candidate with the best validation score, and its score. Of equal ones, the first."""
    objective = OBJECTIVES[run.settings.objective]
    scored = scored_trainings(run, history, candidate)
    return max(scored.items(), key=lambda entry: objective.best(entry[1]))


def scored_trainings(run: RunRecord, history: History, candidate: Candidate) -> dict[str, Score]:
    """The trainings of a candidate that have a score, in the order of their seeds; raises if there is none."""
    # A judge may have asked for more seeds than those of the first look.
    scored = {
        key: outcome
        for key, outcome in sorted(history.outcomes.items(), key=lambda entry: seed_of(entry[0]))
        if candidate_id(key) == candidate.id and isinstance(outcome, Score)
    }
    if not scored:
        raise RunError(f"{run.folder}: {candidate.layout} has no finished training.")
    return scored
