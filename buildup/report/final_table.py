"""The table of a final: each network trained anew, with what it reached on the test images."""

from collections.abc import Sequence

from buildup.report.text_table import aligned, code
from buildup.report.words import accuracies, count, plain
from buildup.trials.final_result import Contender, Final
from buildup.trials.objective import ACCURACY, OBJECTIVES

RIGHT = frozenset({2, 3, 4, 5})
"""The columns with numbers."""


def header(final: Final) -> tuple[str, ...]:
    """What stands over the columns."""
    objective = OBJECTIVES[final.objective]
    what = "test accuracy, %" if objective is ACCURACY else f"test {objective.name}, {objective.said}"
    return ("network", "layout", "params", "MACs", what, "95 % CI of the mean", "by seed")


def final_rows(final: Final) -> list[tuple[str, ...]]:
    """One row a network, the base first."""
    return [
        (
            one.part,
            one.layout,
            count(one.params),
            count(one.macs),
            "–" if one.mean is None else f"{one.mean:.2f}",
            "–" if one.ci is None else f"{one.ci[0]:.2f} to {one.ci[1]:.2f}",
            _by_seed(one),
        )
        for one in final.contenders
    ]


def final_table(final: Final) -> str:
    """For a terminal."""
    return "\n".join(aligned([header(final), *final_rows(final)], right=RIGHT))


def markdown_final(final: Final) -> list[str]:
    """For Markdown."""
    head = header(final)
    ruler = ["---:" if index in RIGHT else "---" for index in range(len(head))]
    rows: list[Sequence[str]] = [head, ruler]
    rows += [[one, f"`{code(layout)}`", *map(plain, others)] for one, layout, *others in final_rows(final)]
    return [f"| {' | '.join(row)} |" for row in rows]


def how(final: Final) -> str:
    """What the table stands on, as a sentence."""
    seeds = f"seeds {final.seeds[0]} to {final.seeds[-1]}" if len(final.seeds) > 1 else f"seed {final.seeds[0]}"
    return (
        f"Trained anew with {seeds}, which no verdict saw, for {final.epochs} epochs of recipe {final.recipe} on all "
        f"{final.train_images:,} training images, and measured on {final.test_images:,} test images, which were opened "
        f"once, on {final.opened}."
    )


def _by_seed(one: Contender) -> str:
    return ", ".join([accuracies(list(one.scores.values())), *one.failures.values()]).removeprefix(", ")
