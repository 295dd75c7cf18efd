"""`bench search`: how busy real workers are kept, and what a training costs the driver beside it."""

import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from buildup.cli.progress import say
from buildup.engine.problems import Problems
from buildup.engine.rehearsal import Rehearsed, rehearse
from buildup.report.text_table import aligned
from buildup.report.words import duration

EPOCHS = 14
SECONDS = "1,5"
TRIALS = "100"
WORKERS = 8


def bench_search(flags: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The rows of the bench, as text and as values."""
    problems = Problems()
    workers = problems.whole("--workers", flags["workers"], WORKERS, most=256)
    lengths = [
        problems.number("--seconds", text, 0.0, least=0.01, most=3600)
        for text in (flags["seconds"] or SECONDS).split(",")
    ]
    marks = [
        problems.whole("--trials", text, 0, least=4 * workers, most=100_000)
        for text in (flags["trials"] or TRIALS).split(",")
    ]
    problems.raise_any()
    rows = []
    for seconds in lengths:
        sleep = duration(max(marks) * seconds / workers)
        say(f"{max(marks):,} trainings of {seconds:g} s on {workers} workers: {sleep} at least")
        with tempfile.TemporaryDirectory(prefix="buildup-bench-") as folder:
            rows.append(rehearse(Path(folder) / "run", workers=workers, seconds=seconds, epochs=EPOCHS, marks=marks))
    return _text(rows), {"rows": [asdict(row) for row in rows]}


def _text(rows: list[Rehearsed]) -> str:
    heads = ["trainings of", "workers", "trainings", "start-up", "busy", "next training after", "at most"]
    shares = [
        [
            f"{row.seconds:g} s",
            f"{row.workers}",
            f"{row.trials}",
            f"{row.start_up:.1f} s",
            f"{row.busy:.1%}",
            f"{row.handover:.3f} s",
            f"{row.longest_handover:.3f} s",
        ]
        for row in rows
    ]
    cost_heads = ["trainings of", "around training", "Tune", "Optuna", "of it CPU", "rule"]
    costs = [
        [
            f"{row.seconds:g} s",
            f"{cost.trials}",
            *(f"{value:.1f} ms" for value in (cost.tune, cost.optuna, cost.optuna_cpu, cost.rule)),
        ]
        for row in rows
        for cost in row.costs
    ]
    most = max(rows, key=lambda row: row.driver_mib)
    return "\n".join(
        [
            *aligned([heads, *shares], right=range(len(heads))),
            "",
            *aligned([cost_heads, *costs], right=range(len(cost_heads))),
            "",
            f"Trainings of {EPOCHS} epochs that only sleep. What one costs the driver: CPU of Tune and the rule, "
            "and the seconds that Optuna takes with its disk.",
            f"The driver has {most.driver_mib:.0f} MiB for itself; a training adds {most.driver_growth_kib:.0f} KiB.",
        ]
    )
