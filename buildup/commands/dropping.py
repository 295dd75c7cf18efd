"""`simulate --early-drop`: how often what would have been kept is dropped early, over many drawn searches."""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from typing import Any

from buildup.graph.network import sketch
from buildup.report.table import aligned
from buildup.rules.curves import Learning, count
from buildup.rules.early import EarlyDrop
from buildup.rules.judge import JUDGES
from buildup.rules.listed import RANDOM
from buildup.rules.procedure import Procedure
from buildup.rules.step import Strategy
from buildup.rules.strategies import ALTERNET
from buildup.space.schema import SearchSpace
from buildup.trials.candidate import Candidate

EPOCHS = 14
LEARNINGS = (
    Learning(handicap=0.0, handicaps=0.0),
    Learning(),
    Learning(handicap=3.0, handicaps=1.5),
    Learning(luck=0.3),
)


SEARCHES: tuple[tuple[str, Strategy, tuple[int, ...]], ...] = (
    ("build-up rule", ALTERNET, (3, 4, 6, 3)),
    ("random", RANDOM, (3, 4, 23, 3)),
)
"""By which rule layouts are tried, and how many blocks the stages of the base have."""


def risks(risk: float, judges: Sequence[str], *, seeds: int, runs: int, seed: int) -> tuple[str, dict[str, Any]]:
    """The candidates dropped early, as text and as values."""
    early = EarlyDrop(risk=risk, epochs=EPOCHS)
    rows, values = [], list[dict[str, Any]]()
    for (name, strategy, blocks), judge, learning in product(SEARCHES, judges, LEARNINGS):
        base = Candidate(network=sketch("|".join("C" * number for number in blocks)))
        rule = strategy.make(base, SearchSpace(name="layouts", description=""), 0)
        procedure = Procedure(rule=rule, judge=JUDGES[judge], seeds=seeds, early=early)
        found = count(procedure, learning, runs=runs, seed=seed)
        wrongly = found.wrongly / max(1, found.keepable)
        rows.append(
            [
                name,
                judge,
                f"{learning.handicap:g} +- {learning.handicaps:g}",
                f"{learning.luck:g}",
                f"{found.candidates / runs:.1f}",
                f"{found.early / found.candidates:.1%}",
                f"{found.above / max(1, found.early):.1%}",
                f"{wrongly:.1%}",
                f"{found.spared:.1%}",
            ]
        )
        values.append(
            {
                "search": name,
                "judge": judge,
                "learning": asdict(learning),
                "wrongly": wrongly,
                "found": asdict(found),
            }
        )
    head = ["search", "judge", "handicap", "luck", "candidates", "dropped early", "would end above"]
    head += ["kept ones dropped", "epochs spared"]
    text = [
        *aligned([head, *rows]),
        "",
        f"{runs:,} searches a line, {seeds} seeds, {EPOCHS} epochs, risk {risk:g}: the build-up rule in a ResNet-50, "
        "and layouts of a ResNet-101 at random. `kept ones dropped` is the share of the candidates that full trainings "
        "would have kept.",
    ]
    most = max(one["wrongly"] for one in values)
    return "\n".join(text), {"risk": risk, "runs": runs, "seeds": seeds, "wrongly": most, "searches": values}
