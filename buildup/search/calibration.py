"""The engine of `calibrate`: candidates of a run trained the cheap ways, to see how well those rank them.

    RUN/calibration/anew-4/        trained anew for 4 epochs: a study and trainings of their own
    RUN/calibration/continued-4/   parents that go on for 4 epochs from their own weights
    RUN/calibration/inherited-4/   candidates that begin with their parents' weights, for 4 epochs
    RUN/calibration.json           how well these ranked the candidates

A candidate that inherits was trained for longer, its parent's epochs included. So its gain is taken over a parent that
went on for as long, with the same seed and the same schedule.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Literal

from buildup.errors import RunError
from buildup.models.inherit import Inheritance
from buildup.rules.cheap import LEAST, Means, full_means, ranking
from buildup.rules.procedure import View
from buildup.search.files import write_whole
from buildup.search.folder import Run
from buildup.search.giver import weights_of
from buildup.training.recipe import recipe_from_values, recipe_to_values
from buildup.trials.candidate import Candidate
from buildup.trials.history import History
from buildup.trials.objective import OBJECTIVES
from buildup.trials.outcome import Failure, Score
from buildup.trials.ranking import Ranking
from buildup.trials.training import Training

FOLDER = "calibration"
RESULT = "calibration.json"

Way = Literal["anew", "continued", "inherited"]
WAYS: tuple[Way, ...] = ("anew", "continued", "inherited")


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What is to be trained."""

    candidates: tuple[Candidate, ...]
    seeds: range
    epochs: int
    """Of a cheap training."""

    @property
    def full(self) -> tuple[Training, ...]:
        """The full trainings of the candidates, which the search may have ended early."""
        return self._each(self.candidates)

    def trainings(self, way: Way) -> tuple[Training, ...]:
        """Those of one way, seed by seed."""
        if way != "continued":
            return self._each(self.candidates)
        parents = {one.parent.id: one.parent for one in self.candidates if one.parent}
        return self._each(tuple(parents.values()))

    def _each(self, candidates: Sequence[Candidate]) -> tuple[Training, ...]:
        return tuple(Training(candidate=candidate, seed=seed) for seed in self.seeds for candidate in candidates)


def choose(run: Run, view: View, history: History, *, count: int, share: float) -> Calibration:
    """Candidates that were tried, spread evenly over the search, whatever they scored."""
    seeds = range(run.settings.seed, run.settings.seed + run.settings.seeds)
    known: dict[str, Candidate] = {}
    for candidate, decision in zip(view.candidates[1:], view.decisions, strict=False):
        assert candidate.parent is not None
        failed = any(isinstance(history.outcome(candidate.id, seed), Failure) for seed in seeds)
        has_parent = all(isinstance(history.outcome(candidate.parent.id, seed), Score) for seed in seeds)
        if decision.seeds and has_parent and not failed:
            known.setdefault(candidate.id, candidate)
    tried = list(known.values())
    if len(tried) < LEAST:
        raise RunError(
            f"{run.folder}: {len(tried)} candidates of it were trained, and an order takes at least {LEAST}. "
            f"Go on with the search first: buildup resume {run.folder}"
        )
    count = min(max(count, LEAST), len(tried))
    picked = tuple(tried[number * (len(tried) - 1) // (count - 1)] for number in range(count))
    epochs = max(1, round(share * run.settings.epochs))
    return Calibration(candidates=picked, seeds=seeds, epochs=epochs)


def part_of(run: Run, way: Way, epochs: int) -> Run:
    """The trainings of one way as a run in its run: same data, same machinery, a study and a folder of their own."""
    name = f"{way}-{epochs}" if run.apart is None else f"{way}-{epochs}-of-{run.apart}"
    recipe = recipe_from_values(run.recipe).with_epochs(epochs)
    settings = replace(run.settings, epochs=epochs)
    return replace(
        run,
        folder=run.folder / FOLDER / name,
        owner=run.study,
        earlier=(),
        recipe=recipe_to_values(recipe),
        settings=settings,
    )


def inherited(run: Run, way: Way, training: Training) -> Inheritance:
    """What a training begins with: the weights that its parent's full training left with the same seed, or its own."""
    candidate = training.candidate
    giver = candidate if way == "continued" or candidate.parent is None else candidate.parent
    return weights_of(run, giver, training.seed)


def rankings(run: Run, asked: Calibration, full: History, cheap: Mapping[Way, History]) -> tuple[Ranking, ...]:
    """How well the cheap ways ranked the candidates."""
    objective, share = OBJECTIVES[run.settings.objective], asked.epochs / run.settings.epochs
    ids = [candidate.id for candidate in asked.candidates]
    anew = full_means(cheap["anew"], ids, asked.seeds, objective)
    gains = _gains(asked, cheap["inherited"], cheap["continued"], run)
    found = (
        ranking(f"{asked.epochs} epochs anew", share, anew, full_means(full, ids, asked.seeds, objective)),
        ranking(f"{asked.epochs} epochs from the parent's weights", share, gains, _gains(asked, full, full, run)),
    )
    return tuple(one for one in found if one)


def write_rankings(run: Run, found: Sequence[Ranking]) -> None:
    """Keep them."""
    write_whole(run.folder / RESULT, json.dumps([asdict(one) for one in found], indent=2).encode())


def read_rankings(folder: Path) -> tuple[Ranking, ...]:
    """Those of a run's folder; none where it was not calibrated."""
    path = folder / RESULT
    if not path.is_file():
        return ()
    try:
        return tuple(Ranking(**values) for values in json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as problem:
        raise RunError(f"{path}: damaged ({problem}). Remove it; `buildup calibrate` writes it anew.") from None


def _gains(asked: Calibration, ours: History, theirs: History, run: Run) -> Means:
    """Mean gains over the parents, of the candidates with all seeds on both sides."""
    objective, gains = OBJECTIVES[run.settings.objective], {}
    for candidate in asked.candidates:
        assert candidate.parent is not None
        pairs = [(ours.outcome(candidate.id, one), theirs.outcome(candidate.parent.id, one)) for one in asked.seeds]
        found = [objective.gain(a, b) for a, b in pairs if isinstance(a, Score) and isinstance(b, Score)]
        if len(found) == len(asked.seeds):
            gains[candidate.id] = fmean(found)
    return gains
