"""The engine of `final`: what is trained anew, what that is worth on the test images, and where it is kept.

    RUN/final/plan.json    what was asked for, written before anything is trained
    RUN/final/study.db     the study of these trainings, apart from that of the search
    RUN/final/trainings/   one folder a training, as in a search
    RUN/final.json         the result

The trainings have seeds that no search uses, and all training images. Only when all of them have ended are the test
images opened, here and nowhere else.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from buildup.errors import RunError
from buildup.models.build import build
from buildup.models.cost import cost
from buildup.statistics.final_test import claim, mean_interval, no_claim
from buildup.statistics.paired_difference import Pair, Spread
from buildup.store.run_dir import FINAL, attempt_folder, attempts, trained_weights, write_atomic
from buildup.store.run_record import RunRecord
from buildup.strategies.control_network import control_of
from buildup.training import fit
from buildup.training.data import open_test
from buildup.training.recipe import recipe_from_values
from buildup.trials.candidate import Candidate
from buildup.trials.final_result import Claim, Contender, Final, Part, final_from_values, final_to_values
from buildup.trials.history import History
from buildup.trials.objective import Objective
from buildup.trials.outcome import Failure, Reason, Score
from buildup.trials.training import WEIGHTS, Training

FOLDER = "final"
PLAN = "plan.json"
RESULT = "final.json"
FRESH = 10_000
"""From the first seed of a search to the first fresh one: no search uses so many."""
MOST_SEEDS = 1000
FAILED = "failed.json"
"""What becomes of the record of a training that is tried again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalPlan:
    """What a final was asked for. It is kept, so that an interrupted one goes on as it began."""

    seeds: int
    control: bool
    recipe_name: str
    recipe: Mapping[str, Any]
    """Its values."""

    @property
    def epochs(self) -> int:
        """Of each training."""
        return int(self.recipe["epochs"])


def read_plan(run: RunRecord) -> FinalPlan | None:
    """What an interrupted final was asked for; None where none began."""
    values = _read(run.folder / FOLDER / PLAN)
    return None if values is None else FinalPlan(**values)


def write_plan(run: RunRecord, plan: FinalPlan) -> None:
    """Keep what is asked for."""
    (run.folder / FOLDER / "trainings").mkdir(parents=True, exist_ok=True)
    write_atomic(run.folder / FOLDER / PLAN, json.dumps(asdict(plan), indent=2).encode())


def read_final(folder: Path) -> Final | None:
    """The result in a run's folder; None where there is none."""
    values = _read(folder / RESULT)
    return None if values is None else final_from_values(values)


def write_final(run: RunRecord, final: Final) -> None:
    """Keep the result."""
    write_atomic(run.folder / RESULT, json.dumps(final_to_values(final), indent=2).encode())


def part_of(run: RunRecord, plan: FinalPlan) -> RunRecord:
    """The trainings of a final as a run in its run: same data, same machinery, a study and a folder of their own."""
    recipe = recipe_from_values(dict(plan.recipe))
    execution = run.execution if recipe.amp else replace(run.execution, precision="float32")
    return replace(
        run,
        folder=run.folder / FOLDER,
        owner=run.study_name,
        earlier=(),
        recipe=recipe,
        settings=replace(run.settings, fraction="1", epochs=plan.epochs, seeds=plan.seeds, execution=execution.words),
    )


def contenders(base: Candidate, winner: Candidate, *, control: bool) -> dict[Part, Candidate]:
    """The networks that are trained anew."""
    networks: dict[Part, Candidate] = {"base": base, "winner": winner}
    if control:
        networks["control"] = control_of(base, winner.network, lambda network: cost(network).params)
    return networks


def trainings_of(run: RunRecord, plan: FinalPlan, networks: Mapping[Part, Candidate]) -> tuple[Training, ...]:
    """All of them, seed by seed."""
    first = run.settings.seed + FRESH
    seeds = range(first, first + plan.seeds)
    return tuple(Training(candidate=candidate, seed=seed) for seed in seeds for candidate in networks.values())


def tried_again(part: RunRecord, history: History) -> History:
    """The history without those failures that another attempt may be spared: all but a loss that became infinite.

    Their records are put aside, so that the workers take these trainings up once more.
    """
    outcomes = dict(history.outcomes)
    for training, outcome in history.outcomes.items():
        if isinstance(outcome, Failure) and outcome.reason is not Reason.DIVERGED:
            del outcomes[training]
            for number in attempts(part.trainings / training):
                record = attempt_folder(part.trainings / training, number) / FINAL
                if record.is_file():
                    record.rename(record.with_name(FAILED))
    return replace(history, outcomes=outcomes)


def spared(history: History) -> dict[str, Failure]:
    """The trainings that failed in a way that another attempt may be spared."""
    failures = {key: one for key, one in history.outcomes.items() if isinstance(one, Failure)}
    return {key: failure for key, failure in failures.items() if failure.reason is not Reason.DIVERGED}


def examine(part: RunRecord, trainings: Sequence[Training], history: History, device: str) -> dict[str, Score]:
    """Open the test images, and score each network that was trained on them, image by image."""
    settings = part.settings
    recipe = part.recipe
    test = open_test(settings.dataset, settings.data_dir, settings.image_size, recipe)
    scores = {}
    for training in trainings:
        if isinstance(history.outcomes[training.id], Failure):
            continue
        folder = part.trainings / training.id
        if (weights := trained_weights(folder)) is None:
            raise RunError(
                f"{folder}: its {WEIGHTS} is gone, so the final can't be scored. Put it back from a copy of the run."
            )
        model = build(training.candidate.network)
        model.load_state_dict(load_file(weights))
        found = fit.evaluate_model(model.to(torch.device(device)), test, recipe, threads=settings.threads)
        correct = np.packbits(found.correct.numpy()).tobytes()
        write_atomic(folder / "test.bits", correct)
        scores[training.id] = Score(
            accuracy=found.accuracy,
            metrics=found.values,
            correct=correct,
            losses=found.losses.numpy().astype("<f2").tobytes(),
            images=len(test.labels),
        )
    return scores


def conclude(
    plan: FinalPlan,
    networks: Mapping[Part, Candidate],
    trainings: Sequence[Training],
    history: History,
    scores: Mapping[str, Score],
    spread: Spread,
    *,
    objective: Objective,
    train_images: int,
) -> Final:
    """The result: what each network reached, and what may be claimed of the winner."""
    others: list[Part] = [part for part in networks if part != "winner"]
    return Final(
        contenders=tuple(
            _contender(part, one, trainings, history, scores, objective) for part, one in networks.items()
        ),
        claims=tuple(
            _claim(part, networks, trainings, history, scores, spread, len(others), objective) for part in others
        ),
        objective=objective.name,
        seeds=tuple(dict.fromkeys(training.seed for training in trainings)),
        recipe=plan.recipe_name,
        epochs=plan.epochs,
        train_images=train_images,
        test_images=max((score.images for score in scores.values()), default=0),
        opened=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _contender(
    part: Part,
    candidate: Candidate,
    trainings: Sequence[Training],
    history: History,
    scores: Mapping[str, Score],
    objective: Objective,
) -> Contender:
    own = [training for training in trainings if training.candidate.id == candidate.id]
    known = cost(candidate.network)
    reached = {str(training.seed): objective.value(scores[training.id]) for training in own if training.id in scores}
    return Contender(
        part=part,
        layout=candidate.layout,
        fingerprint=candidate.id,
        params=known.params,
        macs=known.macs,
        scores=reached,
        ci=mean_interval(list(reached.values()), 100.0 if objective.unit == "points" else inf),
        failures={str(one.seed): _why(history, one) for one in own if one.id not in scores},
    )


def _claim(
    against: Part,
    networks: Mapping[Part, Candidate],
    trainings: Sequence[Training],
    history: History,
    scores: Mapping[str, Score],
    spread: Spread,
    claims: int,
    objective: Objective,
) -> Claim:
    two = {part: networks[part].id for part in ("winner", against)}
    failed = [
        f"a training of the {part} failed ({_why(history, training)})"
        for training in trainings
        for part, own in two.items()
        if training.candidate.id == own and training.id not in scores
    ]
    rows: dict[int, dict[str, Score]] = {}
    for training in trainings:
        if training.id in scores:
            rows.setdefault(training.seed, {})[training.candidate.id] = scores[training.id]
    pairs = [
        Pair(candidate=row[two["winner"]], parent=row[two[against]])
        for row in rows.values()
        if row.keys() >= set(two.values())
    ]
    if not pairs:
        return no_claim(against, failed)
    return claim(pairs, spread, claims, objective=objective, against=against, failed=failed)


def _why(history: History, training: Training) -> str:
    outcome = history.outcomes[training.id]
    assert isinstance(outcome, Failure)
    return outcome.reason.value


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as problem:
        raise RunError(f"{path}: this can't be read ({problem}). Put it back from a copy of the run.") from None
