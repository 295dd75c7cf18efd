"""The figures of judging.md that error_rates.py does not print: `python bench/judging_figures.py [DRAWS]`.

Prints how often `proven` would keep something if images that all seeds share were taken for fading, what `final` would
claim from few seeds where nothing helps, and how long a verdict takes.
"""

import sys
import time
from collections.abc import Sequence

from buildup.engine.replay import make_replay
from buildup.graph.network import sketch
from buildup.space.schema import SearchSpace
from buildup.statistics import paired_difference as paired
from buildup.statistics.judges import JUDGES
from buildup.statistics.paired_difference import Pair, PooledVariance
from buildup.trials.objective import Objective
from chance import Chance, Study

SPACE = SearchSpace(name="strict", description="")
WHERE = sketch("CC|CC|CC|CC")


def study(judge: str, chance: Chance) -> Study:
    """Searches of 4 verdicts in which nothing helps."""
    return Study(replay=make_replay(WHERE, SPACE, judge=judge, seeds=3), chance=chance)


def kept_if_all_of_it_faded(draws: int) -> float:
    """Share of searches in which `proven` keeps something, if no part of a difference were shared by all seeds."""
    parts = paired._image_variances

    def fading(pairs: Sequence[Pair], objective: Objective) -> tuple[float, float]:
        return parts(pairs, objective)[0], 0.0

    paired._image_variances = fading
    try:
        return study("proven", Chance(own_images=0.1)).tally(draws).kept_anything
    finally:
        paired._image_variances = parts


def claimed(deviation: float, seeds: int, draws: int) -> float:
    """Share of finals with so many seeds that claim a gain where there is none."""
    made = study("likely", Chance(seed_deviation=deviation))
    first = made.replay.rule.first
    assert first is not None
    return sum(made.claim(first.candidate, PooledVariance(), f"{draw}", seeds).claimed for draw in range(draws)) / draws


def seconds_a_verdict() -> float:
    """Of `proven` on 3 pairs of 5,000 images, the median of 200."""
    made = study("proven", Chance())
    first = made.replay.rule.first
    assert first is not None
    draw, times = made.draw("luck", 5000), []
    pairs = [Pair(candidate=draw(first.candidate, seed), parent=draw(made.replay.base, seed)) for seed in range(3)]
    for _ in range(200):
        start = time.perf_counter()
        JUDGES["proven"].judge(pairs, 1, 0.25, PooledVariance())
        times.append(time.perf_counter() - start)
    return sorted(times)[100]


if __name__ == "__main__":
    draws = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    print(f"without the part that does not fade: kept in {kept_if_all_of_it_faded(draws):.1%} of {draws} searches")
    for deviation in (0.4, 1.0, 2.0):
        shares = ", ".join(f"{claimed(deviation, seeds, draws):.1%} ({seeds} seeds)" for seeds in (1, 2, 3, 5))
        print(f"claims of {draws}, true deviation {deviation:g}: {shares}")
    print(f"a verdict: {1e3 * seconds_a_verdict():.2f} ms")
