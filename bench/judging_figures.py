"""The figures of judging.md that error_rates.py does not print: `python bench/judging_figures.py [DRAWS]`.

Prints what `final` would claim from few seeds where nothing helps, and how long a verdict takes. With `--finals N` it
prints in place of that what finals claim after searches that kept something, by the noise that they take over.
"""

import sys
import time
from dataclasses import replace
from statistics import fmean

from buildup.engine.replay import make_replay
from buildup.graph.network import sketch
from buildup.space.schema import SearchSpace
from buildup.statistics.judges import JUDGES
from buildup.statistics.paired_difference import Pair, compare
from chance import Chance, Study, search

SPACE = SearchSpace(name="strict", description="")
WHERE = sketch("CC|CC|CC|CC")


def study(judge: str, chance: Chance) -> Study:
    """Searches of 4 verdicts in which nothing helps."""
    return Study(replay=make_replay(WHERE, SPACE, judge=judge, seeds=3), chance=chance)


def claimed(deviation: float, seeds: int, draws: int) -> float:
    """Share of finals with so many seeds that claim a gain where there is none."""
    made = study("likely", Chance(seed_deviation=deviation))
    first = made.replay.rule.first
    assert first is not None
    return sum(made.claim(first.candidate, (), f"{draw}", seeds).claimed for draw in range(draws)) / draws


def claimed_after(judge: str, searches: int, *, gain: float = 0.0, seeds: int = 5, finals: int = 20) -> str:
    """Finals that claim a gain after searches that kept something; the last block has this gain."""
    made = replace(study(judge, Chance(seed_deviation=0.4)), worth={[*WHERE.blocks][-1].path: gain} if gain else {})
    found: dict[str, list[bool]] = {"all steps": [], "dropped steps": [], "itself alone": []}
    for number in range(searches):
        view, _ = search(made.replay, made.draw(f"x{number}", 5000))
        if view.best is not view.candidates[0]:
            for name, earlier in zip(found, (view.comparisons, view.dropped, ()), strict=True):
                names = (f"x{number}/f{final}" for final in range(finals))
                found[name] += [made.claim(view.best, earlier, one, seeds).ci[0] > 0 for one in names]
    kept = len(found["all steps"]) // finals
    shares = ", ".join(f"{fmean(claims):.1%} with the noise of {name}" for name, claims in found.items())
    return f"{judge}, {kept} of {searches} searches kept something, a gain of {gain:g} there: {shares}"


def seconds_a_verdict() -> float:
    """Of `likely` on 3 pairs of 5,000 images each time drawn anew, the median of 50."""
    made = study("likely", Chance())
    first = made.replay.rule.first
    assert first is not None
    times = []
    for number in range(50):
        draw = made.draw(f"{number}", 5000)
        pairs = [Pair(candidate=draw(first.candidate, seed), parent=draw(made.replay.base, seed)) for seed in range(3)]
        start = time.perf_counter()
        JUDGES["likely"].judge(compare(pairs), (), first=3, last=12, share=0.25)
        times.append(time.perf_counter() - start)
    return sorted(times)[25]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--finals"]:
        searches = int(sys.argv[2])
        print(claimed_after("proven", searches), claimed_after("likely", searches), sep="\n")
        print(claimed_after("likely", 100, gain=0.5, seeds=3, finals=3))
        sys.exit()
    draws = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    for deviation in (0.4, 1.0, 2.0):
        shares = ", ".join(f"{claimed(deviation, seeds, draws):.1%} ({seeds} seeds)" for seeds in (1, 2, 3, 5))
        print(f"claims of {draws}, true deviation {deviation:g}: {shares}")
    print(f"a verdict: {1e3 * seconds_a_verdict():.2f} ms")
