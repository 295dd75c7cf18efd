"""The table of a final evaluation: each retrained network with its scores on the test images."""

from buildup.report.text_table import TextTable
from buildup.report.words import scores_text, short_number
from buildup.trials.final_result import Contender, Final
from buildup.trials.objective import ACCURACY, OBJECTIVES


def tabulate_final(final: Final) -> TextTable:
    """One row per network, the base first."""
    objective = OBJECTIVES[final.objective]
    score = "test accuracy, %" if objective is ACCURACY else f"test {objective.name}, {objective.said}"
    return TextTable(
        columns=(
            ("network", "text"),
            ("layout", "layout"),
            ("params", "number"),
            ("MACs", "number"),
            (score, "number"),
            ("95 % CI of the mean", "number"),
            ("by seed", "text"),
        ),
        rows=[_final_row(contender) for contender in final.contenders],
    )


def _final_row(contender: Contender) -> list[str]:
    by_seed = [scores_text(list(contender.scores.values()))] if contender.scores else []
    return [
        contender.part,
        contender.layout,
        short_number(contender.params),
        short_number(contender.macs),
        "–" if contender.mean is None else f"{contender.mean:.2f}",
        "–" if contender.ci is None else f"{contender.ci[0]:.2f} to {contender.ci[1]:.2f}",
        ", ".join([*by_seed, *contender.failures.values()]),
    ]


def final_table(final: Final) -> str:
    """The table for a terminal."""
    return tabulate_final(final).text()


def final_protocol(final: Final) -> str:
    """How the networks were trained and tested."""
    seeds = f"seeds {final.seeds[0]} to {final.seeds[-1]}" if len(final.seeds) > 1 else f"seed {final.seeds[0]}"
    return (
        f"Each network was retrained with {seeds}, which the search did not use. Training took {final.epochs} epochs "
        f"of recipe {final.recipe} on all {final.train_images:,} training images. The scores are from "
        f"{final.test_images:,} test images, which were opened once, on {final.opened}."
    )
