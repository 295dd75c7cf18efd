"""How much faster a search is on 2 to 64 workers than on one: by its own table of scores and by others."""

import argparse
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from answer import answer, simulation
from buildup.engine.loop import NullObserver, run_loop
from buildup.engine.problems import Problems
from buildup.engine.replay import Replay
from buildup.engine.simulate import table_search
from buildup.execution.simulated import InMemoryWriter, ScoreRow, SimulatedEvaluator
from buildup.report.text_table import aligned
from buildup.trials.history import History

WORKERS = (2, 4, 8, 16, 64)
JITTER = 2.0
"""Random durations lie between a half and the double of what the table says."""

Look = Callable[[str], ScoreRow]


class _Scores(dict[str, ScoreRow]):
    """A table without end: each layout has the score that a function gives it."""

    def __init__(self, score: Callable[[str], float]) -> None:
        super().__init__()
        self._score = score

    def get(self, layout: str, default: Any = None) -> ScoreRow:  # the one way in which tables are read
        return ScoreRow(score=self._score(layout))


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
    search = table_search(simulation(flags), problems)
    return speedup(search.replay, search.table, search.default, runs=runs, seed=search.replay.first_seed)


def speedup(
    replay: Replay, table: Mapping[str, ScoreRow], rest: ScoreRow | None, *, runs: int, seed: int
) -> tuple[str, dict[str, Any]]:
    """Makespans of one worker over those of many, as text and as values."""
    seeds = [seed + number for number in range(runs)]
    measured = []
    for workers in WORKERS:

        def gain(scores: Mapping[str, ScoreRow], seed: int, jitter: float = 1.0, workers: int = workers) -> float:
            one, many = (_makespan(replay, scores, rest, number, jitter, seed) for number in (1, workers))
            return one / many

        measured.append(
            {
                "workers": workers,
                "table": gain(table, seed),
                "table_random_durations": fmean(gain(table, one, JITTER) for one in seeds),
                "all_keep": gain(_Scores(_changes), seed),
                "all_drop": gain(_Scores(lambda layout: -_changes(layout)), seed),
                "random_tables": fmean(gain(_random_scores(one), one) for one in seeds),
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


def _makespan(
    replay: Replay,
    table: Mapping[str, ScoreRow],
    rest: ScoreRow | None,
    workers: int,
    jitter: float,
    seed: int,
) -> float:
    """How long a search takes."""
    evaluator = SimulatedEvaluator(
        table=table, workers=workers, jitter=jitter, seed=seed, default=rest or ScoreRow(score=0.0)
    )
    run_loop(replay, evaluator, InMemoryWriter(), NullObserver(), History())
    return evaluator.clock


def _changes(layout: str) -> float:
    return float(sum(letter not in "C|" for letter in layout))


def _random_scores(seed: int) -> _Scores:
    return _Scores(lambda layout: random.Random(f"{seed}/{layout}").random())


if __name__ == "__main__":
    sys.exit(main())
