"""How much faster a search is on 2 to 64 workers than on one: by its own table of scores and by others."""

import argparse
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from answer import answer, simulation
from buildup.engine.loop import run_loop
from buildup.engine.problems import Problems
from buildup.engine.replay import Replay
from buildup.engine.simulate import table_search
from buildup.execution.simulated import InMemoryWriter, Lookup, ScoreRow, SimulatedEvaluator
from buildup.report.text_table import aligned
from buildup.trials.history import History
from buildup.trials.training import Training

WORKERS = (2, 4, 8, 16, 64)
JITTER = 2.0
"""Random durations lie between a half and the double of what the table says."""

Table = Callable[[Training], ScoreRow]


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the flags, follow the table with each number of workers, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--look-ahead", action="store_true", help="try one more block on top of a dropped one")
    for flag, metavar, text in (
        ("--scores", "FILE", "CSV with the columns layout,score[,seconds]"),
        ("--base", "NAME", "search from this timm model"),
        ("--layout", "LAYOUT", "search from this layout, in place of --base: CCC|CCCC|CCCCCC|CCCC"),
        ("--space", "NAME|FILE", "what may be searched (default: alternet)"),
        ("--strategy", "NAME", "alternet (default), or a control"),
        ("--judge", "NAME", "likely, proven or point (default: the space's, point for one seed)"),
        ("--seeds", "N", "trainings of each candidate (default: 1)"),
        ("--seed", "N", "first seed, and that of all that is drawn (default: 0)"),
        ("--default-score", "S", "score of layouts that the table lacks"),
        ("--runs", "N", "searches that a mean is taken over (default: 100)"),
    ):
        parser.add_argument(flag, metavar=metavar, help=text)
    return answer(parser, asked, arguments)


def asked(flags: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The speedups of the search that the flags describe."""
    problems = Problems()
    runs = problems.whole("--runs", flags["runs"], 100)
    replay, look = table_search(simulation(flags), problems)
    return speedup(replay, look, runs=runs)


def speedup(replay: Replay, look: Lookup, *, runs: int) -> tuple[str, dict[str, Any]]:
    """Makespans of one worker over those of many, as text and as values."""

    def table(training: Training) -> ScoreRow:
        return look(training) or ScoreRow(score=0.0)

    seeds = range(replay.first_seed, replay.first_seed + runs)
    measured = []
    for workers in WORKERS:

        def gain(table: Table, workers: int = workers) -> float:
            return _makespan(replay, table, 1) / _makespan(replay, table, workers)

        measured.append(
            {
                "workers": workers,
                "table": gain(table),
                "table_random_durations": fmean(gain(_with_random_seconds(table, one)) for one in seeds),
                "all_keep": gain(_scored(_changes)),
                "all_drop": gain(_scored(lambda layout: -_changes(layout))),
                "random_tables": fmean(gain(_random_scores(one)) for one in seeds),
            }
        )
    heads = ["workers", "this table", "durations random", "all kept", "all dropped", "random tables"]
    rows = [
        [f"{value:.1f}" if number else f"{value:g}" for number, value in enumerate(one.values())] for one in measured
    ]
    text = [
        *aligned([heads, *rows], right=range(len(heads))),
        "",
        f"Times faster than one worker, {replay.seeds} seeds, judge {replay.judge.name}; random durations and "
        f"random tables are means of {runs:,}.",
    ]
    return "\n".join(text), {"runs": runs, "seeds": replay.seeds, "speedups": measured}


def _makespan(replay: Replay, table: Table, workers: int) -> float:
    """How long a search takes."""
    evaluator = SimulatedEvaluator(table=table, workers=workers)
    run_loop(replay, evaluator, InMemoryWriter(), History())
    return evaluator.clock


def _with_random_seconds(table: Table, seed: int) -> Table:
    def varied(training: Training) -> ScoreRow:
        row = table(training)
        chance = random.Random(f"{seed}/{training.id}/seconds").uniform(1 / JITTER, JITTER)
        return replace(row, seconds=row.seconds * chance)

    return varied


def _scored(score: Callable[[str], float]) -> Table:
    """A table without end: each layout has the score that a function gives it."""
    return lambda training: ScoreRow(score=score(training.candidate.layout))


def _changes(layout: str) -> float:
    return float(sum(letter not in "C|" for letter in layout))


def _random_scores(seed: int) -> Table:
    return _scored(lambda layout: random.Random(f"{seed}/{layout}").random())


if __name__ == "__main__":
    sys.exit(main())
