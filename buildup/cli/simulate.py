"""`simulate`: the build-up rule on a table of scores."""

from dataclasses import fields
from typing import Annotated

from buildup.cli.output import AsJson, Details, Flags, answer, table_width
from buildup.errors import counted
from buildup.settings import SimulateSettings


def simulate(
    settings: Annotated[SimulateSettings, Flags] = SimulateSettings(),
    *,
    verbose: Details = False,
    as_json: AsJson = False,
) -> int:
    """The same rule on a table of scores.

    Example: buildup simulate --base resnetv2_50 --space paper --scores table.csv --judge point
    """
    from buildup.engine.simulate import run_simulation
    from buildup.report.text_table import decisions_table

    found = run_simulation(settings)
    lines = [
        *([found.left_unused, ""] if found.left_unused else []),
        decisions_table(found.decisions, width=table_width(verbose=verbose)),
        "",
        f"{found.layout} is left after {counted(found.trainings, 'training')}, the base included "
        f"(judge {found.judge}).",
        f"makespan {found.makespan:g} s on {counted(found.workers, 'worker')}, "
        f"{found.busy:.0%} busy, {found.wasted:g} worker seconds wasted on what no verdict needed.",
    ]
    verdicts = [{"layout": one.layout, "verdict": one.verdict, "reason": one.reason} for one in found.decisions]
    names = [field.name for field in fields(found) if field.name != "decisions"]
    values = {"verdicts": verdicts, **{name: getattr(found, name) for name in names}}
    return answer("\n".join(lines), values, as_json=as_json)
