"""`plan`: what a search could train and what that would cost. Nothing is trained but a few timing steps."""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from buildup.commands.request import resolve
from buildup.graph.edit import apply, replacement
from buildup.graph.kinds import Kind
from buildup.graph.layout import layout
from buildup.graph.network import Network
from buildup.models.cost import Cost, cost
from buildup.report.table import PlanRow, candidates_table
from buildup.report.words import duration
from buildup.rules.base import Procedure, imagine
from buildup.rules.strategies import procedure_of
from buildup.training.speed import measure_speed
from buildup.trials.candidate import Candidate
from buildup.trials.decision import Decision

MOST_ROWS = 1000
"""A plan lists at most so many candidates; the number of verdicts is bounded all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """One candidate that the rule could come to."""

    candidate: Candidate
    cost: Cost
    seconds: float
    """Of one training of it."""


def plan(flags: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The candidates with their costs, as text and as values."""
    request = resolve(flags, new_run=False)
    settings = request.settings
    steps = procedure_of(
        request.network,
        request.space,
        strategy=settings.strategy,
        judge=settings.judge,
        seeds=settings.seeds,
        first_seed=settings.seed,
    )
    candidates = list(_reachable(steps))
    costs = _Costs(request.network)
    speed = measure_speed(request.network, request.recipe, device=settings.device, threads=settings.threads)
    base_macs = cost(request.network).macs
    estimates = []
    for candidate in candidates:
        known = costs.of(candidate.network)
        images = settings.epochs * (request.data.train_images * speed.train + request.data.val_images * speed.evaluate)
        estimates.append(Estimate(candidate=candidate, cost=known, seconds=images * known.macs / base_macs))
    least, most = (steps.verdicts_left((), kept) for kept in (False, True))
    least, most = sorted((least, most))
    each = sum(estimate.seconds for estimate in estimates) / len(estimates)
    side_by_side = min(settings.workers, settings.seeds)
    totals = [(1 + verdicts) * settings.seeds for verdicts in (least, most)]
    times = [(1 + verdicts) * settings.seeds * each / side_by_side for verdicts in (least, most)]
    rows = [
        PlanRow(
            number=number,
            layout=estimate.candidate.layout,
            edit=estimate.candidate.edit or "the base",
            params=estimate.cost.params,
            macs=estimate.cost.macs,
            role="base" if number == 0 else "first" if number == 1 else "possible",
        )
        for number, estimate in enumerate(estimates)
    ]
    text = "\n".join(
        [
            f"{settings.base} on {settings.dataset}: {request.data.train_images:,} images to train on, "
            f"{request.data.val_images:,} to validate on, {request.data.image_size} px, stem {request.network.stem}.",
            "" if request.data.present else f"{settings.dataset} is not on this disk yet; a search fetches it first.",
            candidates_table(rows),
            "",
            f"{totals[0]} to {totals[1]} trainings ({1 + least} to {1 + most} networks x {settings.seeds} seeds), "
            f"{settings.epochs} epochs each.",
            f"About {duration(each)} a training on {settings.device} with {settings.threads} threads "
            f"({1 / speed.train:.1f} images/s while training, measured now), "
            f"{duration(times[0])} to {duration(times[1])} in all on {settings.workers} workers.",
        ]
    )
    values = {
        "base": settings.base,
        "dataset": settings.dataset,
        "layout": layout(request.network),
        "stem": request.network.stem,
        "epochs": settings.epochs,
        "seeds": settings.seeds,
        "workers": settings.workers,
        "trainings": {"least": totals[0], "most": totals[1]},
        "seconds": {"least": times[0], "most": times[1]},
        "complete": len(candidates) < MOST_ROWS,
        "candidates": [
            {
                "layout": estimate.candidate.layout,
                "edit": estimate.candidate.edit,
                "fingerprint": estimate.candidate.id,
                "params": estimate.cost.params,
                "macs": estimate.cost.macs,
                "seconds": estimate.seconds,
            }
            for estimate in estimates
        ],
    }
    return text.replace("\n\n\n", "\n\n"), values


def _reachable(steps: Procedure) -> Iterator[Candidate]:
    """The base, then every candidate that some row of verdicts leads to, those after fewer verdicts first."""
    yield steps.base
    seen = {steps.base.id}
    rows: deque[tuple[Decision, ...]] = deque([()])
    while rows and len(seen) < MOST_ROWS:
        decisions = rows.popleft()
        candidate = steps.rule.propose(decisions)
        if candidate is None:
            continue
        if candidate.id not in seen:
            seen.add(candidate.id)
            yield candidate
        rows.extend((*decisions, imagine(candidate, kept)) for kept in (True, False))


class _Costs:
    """Costs of candidates, added up block by block: a block costs the same wherever its neighbours come from."""

    def __init__(self, base: Network) -> None:
        self._base = base
        self._start = cost(base)
        self._known: dict[tuple[str, Kind], Cost] = {}

    def of(self, network: Network) -> Cost:
        """The cost of a network made from the base by replacements alone."""
        changes = [self._change(path, kind) for path, kind in network.replaced.items()]
        return Cost(
            params=self._start.params + sum(change.params for change in changes),
            macs=self._start.macs + sum(change.macs for change in changes),
        )

    def _change(self, path: str, kind: Kind) -> Cost:
        if (path, kind) not in self._known:
            changed = cost(apply(self._base, replacement(self._base, path, kind)))
            self._known[path, kind] = Cost(
                params=changed.params - self._start.params, macs=changed.macs - self._start.macs
            )
        return self._known[path, kind]
