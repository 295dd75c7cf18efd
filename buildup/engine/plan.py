"""`plan`: estimate the trainings and the duration of a search. Only the speed of a few steps is measured."""

import hashlib
import json
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import version
from itertools import islice
from math import ceil, inf
from pathlib import Path
from statistics import fmean
from typing import Any

import buildup
from buildup.engine.forecast import Forecast, forecast_plan
from buildup.engine.load_state import replay_for
from buildup.engine.replay import Replay
from buildup.engine.request import Request, resolve
from buildup.files import cores, recall, remember, user_cache
from buildup.graph.network import Edit, Network, apply, edits_between
from buildup.graph.serialize import fingerprint
from buildup.models.cost import Cost, cost
from buildup.report.words import duration
from buildup.settings import SearchSettings
from buildup.strategies.alternet import Variant
from buildup.strategies.samplers import SampledRule
from buildup.training.dataset import DataInfo
from buildup.training.execution import device_kind
from buildup.training.execution_words import Execution, execution_from_words
from buildup.training.recipe import Recipe, recipe_to_values
from buildup.training.speed import Speed, measure_speed
from buildup.training.transplant import imitation_steps, new_blocks
from buildup.trials.history import History
from buildup.trials.training import Candidate, Check, Training

MOST_ROWS = 1000
"""The most candidates that a plan lists."""


PARTS = ("models", "training")
"""The parts of buildup whose code a measurement depends on."""
WITHOUT_EFFECT = frozenset({"name", "description", "epochs", "warmup_epochs", "milestones", "snapshots", "expected"})
"""Values of a recipe that do not change the time of a step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A candidate that the search may reach, with its cost."""

    candidate: Candidate
    cost: Cost
    seconds: float
    """Seconds of one training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The estimate of a search. Pairs are the least and the most."""

    request: Request
    estimates: tuple[Estimate, ...]
    images_per_second: float
    """The measured training speed of the base."""
    measured: str
    """When the speed was measured; empty for just now."""
    networks: tuple[int, int]
    seeds: tuple[int, int]
    """Seeds of each network, at the first and at the last look."""
    whole: Forecast
    """The forecast without limits, with random verdicts and workers that train ahead."""
    checks: Mapping[Check, tuple[int, float]]
    """Epochs and seconds of the trainings that check the base."""

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The base, then every candidate that the search may reach."""
        return tuple(estimate.candidate for estimate in self.estimates)

    @property
    def trainings(self) -> tuple[int, int]:
        """The number of trainings, within the limits."""
        least, most = self.whole_trainings
        return min(least, self._most[0]), min(most, self._most[0])

    @property
    def whole_trainings(self) -> tuple[int, int]:
        return self.networks[0] * self.seeds[0], self.networks[1] * self.seeds[1]

    @property
    def each(self) -> float:
        """The mean seconds of a training over the candidates."""
        return fmean(estimate.seconds for estimate in self.estimates)

    @property
    def seconds(self) -> tuple[float, float]:
        """The seconds of the search, if no worker trains ahead of verdicts."""
        workers = self.request.settings.workers
        least, most = (
            networks * ceil(seeds / workers) * self.each
            # Without a worker that is free beside the trainings of verdicts, those of the checks come at the end.
            + (sum(seconds for _, seconds in self.checks.values()) / workers if seeds % workers == 0 else 0.0)
            for networks, seeds in zip(self.networks, self.seeds, strict=True)
        )
        return min(least, self._most[1]), min(most, self._most[1])

    @property
    def expected(self) -> Forecast:
        """The forecast, within the limits. Without limits, the checks of the base are counted, too."""
        whole, (trainings, seconds) = self.whole, self._most
        return Forecast(
            seconds=min(whole.seconds, seconds),
            low=min(whole.low, seconds),
            high=min(whole.high, seconds),
            trainings=min(whole.trainings, trainings) if self.ended_by else whole.trainings,
        )

    @property
    def ended_by(self) -> tuple[str, ...]:
        settings = self.request.settings
        trials = [f"--max-trials {settings.max_trials}"] if settings.max_trials else []
        time = [f"--time-budget {duration(settings.time_budget)}"] if settings.time_budget else []
        return (*trials, *time)

    @property
    def _most(self) -> tuple[int, float]:
        """The most trainings and seconds that the limits allow."""
        settings = self.request.settings
        trainings, seconds = self.whole_trainings[1], settings.time_budget or inf
        if settings.time_budget:
            trainings = min(trainings, settings.workers * int(settings.time_budget // self.each))
        if settings.max_trials:
            trainings = min(trainings, settings.max_trials)
            side_by_side = min(settings.workers, self.seeds[0])
            seconds = min(seconds, ceil(settings.max_trials / side_by_side) * self.each)
        return trainings, seconds


def make_plan(settings: SearchSettings, *, anew: bool = False) -> Plan:
    """Estimate a search without training its candidates. All problems of the settings are raised at once.

    With `anew`, the speed of the base is measured even if it is known.
    """
    request = resolve(settings, new_run=False)
    asked, data = request.settings, request.data
    costs = _Costs(request.network)
    steps = replay_for(asked, request.network, request.space, costs.of)
    if request.speeds:
        speed, measured = request.speeds[0], ""
    else:
        speed, measured = known_speed(
            request.network,
            request.recipe,
            execution_from_words(asked.execution),
            device=asked.device,
            threads=asked.threads,
            anew=anew,
        )
    # Epochs but the last validate on no more images than they train on.
    some = ceil(data.val_images / ceil(data.val_images / data.train_images))
    validated = (asked.epochs - 1) * some + data.val_images
    whole = asked.epochs * data.train_images * speed.train + validated * speed.evaluate

    def seconds(training: Training) -> float:
        candidate = training.candidate
        longer = candidate.epochs(asked.epochs) / asked.epochs
        taken = longer * whole * costs.of(candidate).macs / costs.base.macs
        if asked.pretrained is not None:
            taken += _before_training(candidate.network, request.recipe, data, speed)
        return taken

    estimates = []
    for candidate in _reachable(steps):
        if candidate is not steps.base and steps.too_large(candidate):
            continue
        taking = seconds(Training(candidate=candidate, seed=asked.seed))
        estimates.append(Estimate(candidate=candidate, cost=costs.of(candidate), seconds=taking))
    checks = {
        check: (one.epochs(asked.epochs), seconds(Training(candidate=one, seed=asked.seed)))
        for check, one in steps.checked.items()
    }
    first = steps.view(History())
    least, most = sorted(1 + min(first.verdicts_left(kept), len(estimates) - 1) for kept in (False, True))
    return Plan(
        request=request,
        estimates=tuple(estimates),
        images_per_second=1 / speed.train,
        measured=measured,
        networks=(least, most),
        seeds=(steps.seeds, steps.most_seeds),
        whole=forecast_plan(steps, seconds, workers=asked.workers),
        checks=checks,
    )


def _before_training(network: Network, recipe: Recipe, data: DataInfo, speed: Speed) -> float:
    """The seconds in which new blocks imitate those that they replace, and in which the result is validated."""
    recipe = recipe.resolved(train_images=data.train_images)
    steps = imitation_steps(recipe, data.train_images) if new_blocks(network) else 0
    images = steps * min(recipe.batch_size, data.train_images)
    return images * (speed.evaluate + speed.train) + data.val_images * speed.evaluate


def plan_to_values(made: Plan) -> dict[str, Any]:
    settings = made.request.settings
    return {
        "base": settings.base,
        "dataset": settings.dataset,
        "layout": made.estimates[0].candidate.layout,
        "stem": made.request.network.stem,
        "epochs": settings.epochs,
        "seeds": settings.seeds,
        "workers": settings.workers,
        "trainings": dict(zip(("least", "most"), made.trainings, strict=True)),
        "ended_by": list(made.ended_by),
        "seconds": dict(zip(("least", "most"), made.seconds, strict=True)),
        "expected": asdict(made.expected),
        "images_per_second": made.images_per_second,
        "measured": made.measured or "now",
        "checks": {check: {"epochs": one[0], "seconds": one[1]} for check, one in made.checks.items()},
        "complete": len(made.estimates) < MOST_ROWS,
        "candidates": [
            {
                "layout": estimate.candidate.layout,
                "edit": estimate.candidate.edit,
                "fingerprint": estimate.candidate.id,
                "params": estimate.cost.params,
                "macs": estimate.cost.macs,
                "seconds": estimate.seconds,
            }
            for estimate in made.estimates
        ],
    }


def _reachable(steps: Replay) -> Iterator[Candidate]:
    """The base, then every candidate that some sequence of verdicts leads to, breadth first."""
    yield steps.base
    seen, walked = {steps.base.id}, set[tuple[str, str]]()
    ahead = deque([steps.rule.first])
    while ahead and len(seen) < MOST_ROWS:
        step = ahead.popleft()
        if step is None:
            continue
        candidate = step.candidate
        parent = candidate.parent.id if candidate.parent else ""
        if (candidate.id, parent) in walked:
            continue
        walked.add((candidate.id, parent))
        if candidate.id not in seen:
            seen.add(candidate.id)
            yield candidate
        if isinstance(step, Variant) and step.choose is not None:  # the strategy draws some of them
            new = [one for one in step.possible if one.id not in seen]
            seen |= {one.id for one in new}
            yield from new
            ahead.append(step.without)
        ahead.extend(step.successor(kept) for kept in (True, False))
    if isinstance(steps.rule, SampledRule):  # a sampler may propose any layout
        layouts = steps.rule.layouts
        others = (layouts.candidate(counts, steps.base) for counts in layouts.all)
        yield from islice((one for one in others if one.id not in seen), MOST_ROWS - len(seen))


class _Costs:
    """Costs of candidates, as the sum of the changes of each edit. A block costs the same beside any neighbour."""

    def __init__(self, base: Network) -> None:
        self._network = base
        self.base = cost(base)
        self._known: dict[Edit, Cost] = {}

    def of(self, candidate: Candidate) -> Cost:
        params, macs = self.base.params, self.base.macs
        for edit in edits_between(self._network, candidate.network):
            if edit not in self._known:
                self._known[edit] = cost(apply(self._network, edit))
            params += self._known[edit].params - self.base.params
            macs += self._known[edit].macs - self.base.macs
        return Cost(params=params, macs=macs)


def known_speed(
    network: Network, recipe: Recipe, execution: Execution, *, device: str, threads: int, anew: bool = False
) -> tuple[Speed, str]:
    """The speed of a training on this machine, measured if it is not in the cache or if it is wanted anew.

    The cache holds it for a network, a recipe, an execution, a number of threads, and a machine with its versions of
    torch and timm. It is renewed when the code that trains changes. A machine that was busy, or has changed otherwise
    since, is measured anew by `buildup plan --anew`.

    Returns:
        The speed, and when it was measured; empty for just now.
    """
    key = _key(network, recipe, execution, device, threads)
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    place = user_cache() / f"speeds-{_digest()[:8]}" / f"{name}.json"
    found: Any = None if anew else recall(place)
    try:
        times = {part: float(found["seconds"][part]) for part in ("train", "evaluate", "preparation")}
        if not (0 < times["train"] < inf and 0 <= times["evaluate"] < inf and 0 <= times["preparation"] < inf):
            raise ValueError
        return Speed(execution=execution, **times), str(found["measured"])
    except (KeyError, TypeError, ValueError):  # not in the cache, or damaged
        speed = measure_speed(network, recipe, execution, device=device, threads=threads)
    times = {part: seconds for part, seconds in asdict(speed).items() if part != "execution"}
    remember(place, {"key": key, "seconds": times, "measured": datetime.now().isoformat(" ", "minutes")})
    return speed, ""


def _key(network: Network, recipe: Recipe, execution: Execution, device: str, threads: int) -> dict[str, Any]:
    return {
        "network": fingerprint(network),
        "input_shape": network.input_shape,
        "recipe": {name: value for name, value in recipe_to_values(recipe).items() if name not in WITHOUT_EFFECT},
        "execution": execution.words,
        "device": device,
        "threads": threads,
        "chip": device_kind(device),
        "cores": cores(),
        "versions": {name: version(name) for name in ("torch", "timm")},
    }


def _digest() -> str:
    package = Path(buildup.__file__).parent
    files = sorted(file for part in PARTS for file in (package / part).glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
