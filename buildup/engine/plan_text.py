"""A plan in words."""

from buildup.engine.plan import MOST_ROWS, Plan
from buildup.report.text_table import PlanRow, candidates_table
from buildup.report.words import duration
from buildup.space.schema import describe_tuning, describe_walk
from buildup.strategies.moves import left_out
from buildup.strategies.registered import STRATEGIES
from buildup.training.health import unsuited
from buildup.trials.objective import OBJECTIVES


def plan_text(made: Plan) -> str:
    """What a search could train and what that would cost."""
    request, settings, data = made.request, made.request.settings, made.request.data
    rows = [
        PlanRow(
            number=number,
            layout=estimate.candidate.layout,
            edit=estimate.candidate.edit or "the base",
            params=estimate.cost.params,
            macs=estimate.cost.macs,
            role="base" if number == 0 else "first" if number == 1 else "possible",
        )
        for number, estimate in enumerate(made.estimates)
    ]
    lines = [
        f"{settings.base} on {settings.dataset}: {data.train_images:,} images to train on, {data.val_images:,} to "
        f"validate on, {data.image_size} px, stem {request.network.stem}.",
        f"Space {request.space.name}: {describe_walk(request.space)}.",
        f"Judge {settings.judge}, by the {OBJECTIVES[settings.objective].title}.",
    ]
    if left_unused := STRATEGIES[settings.strategy].unused(request.space):
        lines.append(left_unused)
    elif request.space.tune:
        lines.append(f"Where a block was kept: {describe_tuning(request.space.tune)}.")
        lines += [f"{problem}." for problem in left_out(request.network, request.space)]
    if not data.present:
        lines.append(f"{settings.dataset} is not on this disk yet; a search fetches it first.")
    if misfit := unsuited(request.network, request.recipe):
        lines.append(misfit)
    lines += ["", candidates_table(rows), ""]
    if len(made.estimates) >= MOST_ROWS:
        lines.append(f"Only the first {MOST_ROWS} candidates are listed.")
    shape = f"{_range(*made.networks)} networks x {_range(*made.seeds)} seeds"
    if made.ended_by:
        limits = " and ".join(made.ended_by)
        shape = f"{limits} counted in; without, {_range(*made.whole_trainings)}, {shape}"
    lines += [
        f"{_range(*made.trainings)} trainings ({shape}), {settings.epochs} epochs each.",
        f"About {duration(made.each)} a training on {settings.device} with {settings.threads} threads "
        f"({made.images_per_second:.1f} images/s while training, measured now), "
        f"{_range(*map(duration, made.seconds))} in all on {settings.workers} workers.",
        f"Expected, with verdicts by chance: {round(made.expected.trainings)} trainings, about "
        f"{duration(made.expected.seconds)} (8 of 10 searches {duration(made.expected.low)} to "
        f"{duration(made.expected.high)}){_gpu_hours(made)}.",
    ]
    return "\n".join(lines)


def _gpu_hours(made: Plan) -> str:
    hours = made.expected.trainings * made.each * made.request.settings.gpus_per_trial / 3600
    return f", {hours:.2g} GPU-hours" if hours else ""


def _range(low: object, high: object) -> str:
    return str(low) if low == high else f"{low} to {high}"
