"""How often the judges err where nothing helps, and what they find where something does, over many drawn searches."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from answer import answer, simulation
from buildup.engine.problems import Problems
from buildup.engine.replay import make_replay
from buildup.engine.simulate import space_of, start_network
from buildup.graph.layout import layout
from buildup.graph.network import Network, sketch
from buildup.models.read import read_network
from buildup.report.text_table import aligned
from buildup.space.schema import SearchSpace
from buildup.strategies.alternet import build_up
from buildup.strategies.registered import STRATEGIES
from buildup.trials.training import Candidate
from chance import FINAL_IMAGES, FINAL_SEEDS, Chance, Study, Tally

DEVIATIONS = (0.0, 0.2, 0.4)
"""True seed deviations of a paired difference, in points."""
LARGE = (1.0, 2.0)
"""Those of networks that have hardly learned, where the judges must not keep more that does not help."""
OWN_IMAGES = 0.1
GAINS = (0.2, 0.5, 1.0)
STEPS = 0.4
"""What each of four steps is worth where the whole search is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """A search to be repeated: with no gain anywhere it comes to this many verdicts."""

    name: str
    network: Network
    space: SearchSpace


STRICT = SearchSpace(name="strict", description="")
USUAL = (
    Where(name="4 verdicts", network=sketch("CC|CC|CC|CC"), space=STRICT),
    Where(name="8 verdicts", network=sketch("CCCC|CCCC|CCCC|CCCC"), space=replace(STRICT, look_ahead=1)),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the flags, search many times, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    study = parser.add_mutually_exclusive_group(required=True)
    study.add_argument("--aa", action="store_true", help="how often a judge keeps something where nothing helps")
    study.add_argument("--power", action="store_true", help="how often a judge keeps what helps")
    parser.add_argument("--look-ahead", action="store_true", help="try one more block on top of a dropped one")
    for flag, metavar, text in (
        ("--base", "NAME", "search from this timm model (default: two searches, of 4 and of 8 verdicts)"),
        ("--layout", "LAYOUT", "search from this layout, in place of --base: CCC|CCCC|CCCCCC|CCCC"),
        ("--space", "NAME|FILE", "what may be searched from there (default: alternet)"),
        ("--judge", "NAME", "of --aa: likely, proven or point (default: proven and likely in turn)"),
        ("--seeds", "N", "trainings of each candidate at the first look (default: 3)"),
        ("--noise", "SD", "true seed deviation in points (default: 0, 0.2 and 0.4; of --aa 1 and 2, too)"),
        ("--seed", "N", "of all that is drawn (default: 0)"),
        ("--runs", "N", "searches a line (default: 1000)"),
    ):
        parser.add_argument(flag, metavar=metavar, help=text)
    return answer(parser, error_rates, arguments)


def error_rates(flags: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The study asked for, on searches of the usual kinds or from where the flags say, as text and as values."""
    problems = Problems()
    seeds = problems.whole("--seeds", flags["seeds"], 3, least=2, most=1000)
    runs = problems.whole("--runs", flags["runs"], 1000)
    seed = problems.whole("--seed", flags["seed"], 0, least=0, most=2**31 - 1)
    deviation = problems.number("--noise", flags["noise"], 0.0, most=100.0)
    judge = problems.choice("judge", flags["judge"], "", ("likely", "proven", "point"))
    if flags["power"] and flags["judge"]:
        problems.found.append("--judge: --power asks each judge in turn. Leave it out.")
    places: Sequence[Where] = USUAL
    if flags["base"] or flags["layout"]:
        with problems.caught():
            space = space_of(simulation(flags))
            network = start_network(flags["base"], flags["layout"], space, read_network)
            places = [Where(name=layout(network), network=network, space=space)]
    else:
        problems.found += [
            f"{flag}: without --base or --layout, searches of its own are repeated. Say where yours starts, or leave "
            "it out."
            for flag, value in (("--space", flags["space"]), ("--look-ahead", flags["look_ahead"]))
            if value
        ]
    problems.raise_any()
    if flags["noise"] is None:
        chances = usual_chances(large=() if flags["power"] else LARGE)
    else:
        chances = usual_chances((deviation,))
    if flags["power"]:
        return power(places, chances, seeds=seeds, runs=runs, seed=seed)
    judges = (judge,) if judge else ("proven", "likely")
    return false_claims(places, judges, chances, seeds=seeds, runs=runs, seed=seed)


def false_claims(
    places: Sequence[Where], judges: Sequence[str], chances: Sequence[Chance], *, seeds: int, runs: int, seed: int
) -> tuple[str, dict[str, Any]]:
    """The A/A study: nothing helps, and whatever is kept or claimed is a mistake.

    Where settings are searched, too, the first place helps once, so that there is a place to search them at.
    """
    rows, values = [], []
    for where, judge, helps in product(places, judges, (False, True)):
        if helps and not where.space.tune:
            continue
        worth = {_first_place(where): GAINS[-1]} if helps else {}
        for chance in chances:
            found = _tally(where, judge, chance, worth, seeds=seeds, runs=runs, seed=seed)
            name = f"{where.name}, first place {GAINS[-1]:+.1f}" if helps else where.name
            shares = [f"{100 * share:.1f} %" for share in (found.kept_false, found.claimed_falsely)]
            rows.append([name, judge, *_named(chance), *shares, f"{found.trainings:.1f}"])
            values.append(_values(where, judge, chance, found, helps=helps))
    head = ["search", "judge", "seed deviation", "own images", "keeps anything", "final claims", "trainings"]
    what = "no block helps"
    if any(where.space.tune for where in places):
        head[4:6] = ["keeps anything false", "final claims falsely"]
        what = "no block helps, but for the first that is tried where a line says so, and no setting does"
    return _text(head, rows, runs, what), {
        "runs": runs,
        "kept_anything": max(one["kept_false"] for one in values),
        "claimed": max(one["claimed_falsely"] for one in values),
        "searches": values,
    }


def power(
    places: Sequence[Where], chances: Sequence[Chance], *, seeds: int, runs: int, seed: int
) -> tuple[str, dict[str, Any]]:
    """What is found where something helps: one step by `proven`, four steps by `likely` and then `final`."""
    rows, values = [], []
    for chance in chances:
        for where in places:
            first = _first_place(where)
            for gain in GAINS:
                found = _tally(where, "proven", chance, {first: gain}, seeds=seeds, runs=runs, seed=seed)
                rows.append([where.name, "proven", *_named(chance), f"one of {gain:+.1f}", *_found(found)])
                values.append(_values(where, "proven", chance, found, gain=gain))
        steps = {stage.blocks[-1].path: STEPS for stage in USUAL[0].network.stages}
        for judge in ("likely", "proven"):
            found = _tally(USUAL[0], judge, chance, steps, seeds=seeds, runs=runs, seed=seed)
            rows.append([USUAL[0].name, judge, *_named(chance), f"four of {STEPS:+.1f}", *_found(found)])
            values.append(_values(USUAL[0], judge, chance, found, gain=STEPS))
    head = [
        "search",
        "judge",
        "seed deviation",
        "own images",
        "true gains",
        "kept of them",
        "final claims",
        "trainings",
    ]
    return _text(head, rows, runs, "the blocks named help"), {"runs": runs, "searches": values}


def usual_chances(deviations: Sequence[float] = DEVIATIONS, large: Sequence[float] = ()) -> tuple[Chance, ...]:
    """The models of chance that the studies run under."""
    plain = [Chance(seed_deviation=deviation) for deviation in deviations]
    own = replace(plain[len(plain) // 2], own_images=OWN_IMAGES)
    return (*plain, own, *(Chance(seed_deviation=deviation) for deviation in large))


def _first_place(where: Where) -> str:
    """Where the rule goes in any case: a gain elsewhere might never be tried."""
    step = build_up(Candidate(network=where.network), where.space, 0).first
    assert step is not None, "a space in which nothing can be tried is refused"
    return next(block.path for block in step.candidate.network.blocks if block not in where.network.blocks)


def _tally(
    where: Where, judge: str, chance: Chance, worth: Mapping[str, float], *, seeds: int, runs: int, seed: int
) -> Tally:
    replay = make_replay(where.network, where.space, strategy=STRATEGIES["alternet"], judge=judge, seeds=seeds)
    return Study(replay=replay, chance=chance, worth=worth).tally(runs, seed)


def _named(chance: Chance) -> tuple[str, str]:
    return f"{chance.seed_deviation:g}", f"{100 * chance.own_images:g} %"


def _found(found: Tally) -> list[str]:
    return [f"{found.kept_true:.2f}", f"{found.claimed:.2f}", f"{found.trainings:.1f}"]


def _text(head: Sequence[str], rows: Sequence[Sequence[str]], runs: int, what: str) -> str:
    model = (
        f"{runs:,} searches a line; {what}. Two trainings of one network disagree on "
        f"{100 * Chance().disagreement:g} % of {Chance().images:,} images; `final` takes {FINAL_SEEDS} fresh seeds "
        f"and {FINAL_IMAGES:,} fresh images."
    )
    return "\n".join([*aligned([head, *rows]), "", model])


def _values(where: Where, judge: str, chance: Chance, found: Tally, **more: float) -> dict[str, Any]:
    return {
        "search": where.name,
        "judge": judge,
        "seed_deviation": chance.seed_deviation,
        "own_images": chance.own_images,
        **more,
        "kept_anything": found.kept_anything,
        "kept_true": found.kept_true,
        "kept_false": found.kept_false,
        "claimed": found.claimed,
        "claimed_falsely": found.claimed_falsely,
        "trainings": found.trainings,
    }


if __name__ == "__main__":
    sys.exit(main())
