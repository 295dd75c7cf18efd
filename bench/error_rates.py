"""How often the judges err where nothing helps, and what they find where something does, over many drawn searches."""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from answer import answer, simulation
from buildup.engine.problems import Problems
from buildup.engine.replay import make_replay
from buildup.engine.simulate import space_of, start_network
from buildup.graph.layout import layout
from buildup.graph.network import Network, sketch
from buildup.report.diagnostic_table import LEVEL
from buildup.report.text_table import aligned
from buildup.space.schema import SearchSpace
from buildup.strategies.alternet import build_up
from buildup.strategies.registered import STRATEGIES
from buildup.trials.training import Candidate
from chance import FINAL_IMAGES, FINAL_SEEDS, Chance, Study, Tally

DEVIATIONS = (0.2, 0.4, 1.0, 4.0)
"""True seed deviations of a paired difference, in points: of networks that learned, and of some that hardly did."""
FOUND_AT = (0.2, 0.4)
"""Those of the power study."""
SMALL = 300
"""Validation images of a small dataset."""
OWN_IMAGES = 0.1
LESS = 0.12
"""Disagreement of two trainings with less noise than usual."""
GAINS = (0.2, 0.5, 1.0)
STEPS = 0.4
"""What each of four steps is worth where the whole search is asked for."""
DRAWN_GAINS = ((0.0, 0.5), (-0.3, 0.5), (0.0, 0.2))
"""Mean and deviation of the gains of the blocks, in points."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """A search to be repeated: with no gain anywhere it comes to this many verdicts."""

    name: str
    network: Network
    space: SearchSpace


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of the table: one kind of search."""

    where: Where
    judge: str
    seeds: int
    chance: Chance
    said: str
    """The true gains in words."""
    worth: Mapping[str, float] = field(default_factory=dict)
    gains: tuple[float, float] | None = None
    claims: bool = True


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
    study.add_argument("--kept", action="store_true", help="how many of the blocks that are kept truly help")
    study.add_argument(
        "--winner", action="store_true", help="how well the gain of the winner over the base is estimated"
    )
    study.add_argument("--power", action="store_true", help="how often a judge keeps what helps")
    parser.add_argument("--look-ahead", action="store_true", help="try one more block on top of a dropped one")
    for flag, metavar, text in (
        ("--base", "NAME", "search from this timm model (default: searches of 4 and, of --aa, of 8 verdicts)"),
        ("--layout", "LAYOUT", "search from this layout, in place of --base: CCC|CCCC|CCCCCC|CCCC"),
        ("--space", "NAME|FILE", "what may be searched from there (default: alternet)"),
        ("--judge", "NAME", "likely, proven or point (default: proven for --aa, likely for --kept, both for --power)"),
        ("--seeds", "N", "trainings of each candidate at the first look (default: 3)"),
        ("--noise", "SD", "true seed deviation in points (default: several)"),
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
    places: Sequence[Where] = USUAL if flags["aa"] else USUAL[:1]
    if flags["base"] or flags["layout"]:
        with problems.caught():
            space = space_of(simulation(flags))
            network = start_network(flags["base"], flags["layout"], space)
            places = [Where(name=layout(network), network=network, space=space)]
    else:
        problems.found += [
            f"{flag}: without --base or --layout, searches of its own are repeated. Say where yours starts, or leave "
            "it out."
            for flag, value in (("--space", flags["space"]), ("--look-ahead", flags["look_ahead"]))
            if value
        ]
    problems.raise_any()
    study = next(one for one in STUDIES if flags[one])
    make, usual_deviations, usual_judges = STUDIES[study]
    deviations = (deviation,) if flags["noise"] is not None else usual_deviations
    judges = (judge,) if judge else usual_judges
    lines = [line for where in places for one in judges for line in make(where, one, seeds, deviations)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        tallies = list(pool.map(_tally, lines, [runs] * len(lines), [seed] * len(lines)))
    return _text(lines, tallies, runs), {
        "runs": runs,
        "searches": [_values(line, tally) for line, tally in zip(lines, tallies, strict=True)],
    }


def _nothing(where: Where, judge: str, seeds: int, deviations: Sequence[float]) -> list[Line]:
    """The A/A study: nothing helps, and whatever is kept or claimed is a mistake.

    Where settings are searched, too, the first place helps once, so that there is a place to search them at.
    """
    worth = {_first_place(where): GAINS[-1]} if where.space.tune else {}
    said = f"first place {GAINS[-1]:+.1f}, no setting" if worth else "none"
    return [
        Line(where=where, judge=judge, seeds=seeds, chance=chance, said=said, worth=worth)
        for chance in _noises(deviations)
    ]


def _kept(where: Where, judge: str, seeds: int, deviations: Sequence[float]) -> list[Line]:
    """The study of what is kept: each search draws what its blocks are worth."""
    return [
        Line(
            where=where,
            judge=judge,
            seeds=seeds,
            chance=chance,
            said=f"N({gains[0]:g}, {gains[1]:g})",
            gains=gains,
            claims=False,
        )
        for gains in DRAWN_GAINS
        for chance in _noises(deviations)
        if chance.unequal == 1 and not chance.own_images
    ]


def _power(where: Where, judge: str, seeds: int, deviations: Sequence[float]) -> list[Line]:
    """What is found where something helps: one step, and four steps with `final` after them."""
    chances = [Chance(seed_deviation=deviation) for deviation in deviations]
    first = chances[0]
    chances += [replace(first, disagreement=LESS), replace(first, own_images=OWN_IMAGES)]
    chances.append(replace(first, own_images=OWN_IMAGES, one_split=True))
    return [
        Line(where=where, judge=judge, seeds=seeds, chance=chance, said=said, worth=worth)
        for chance in chances
        for said, worth in _worths(where).items()
    ]


def _winner(where: Where, judge: str, seeds: int, deviations: Sequence[float]) -> list[Line]:
    """The study of the winner's gain: what blocks are worth is drawn by each search, or the same in all."""
    chances = [Chance(seed_deviation=deviation) for deviation in deviations]
    usual = Line(where=where, judge=judge, seeds=seeds, chance=chances[0], said="", claims=False)
    lines = [replace(usual, said=f"N({gains[0]:g}, {gains[1]:g})", gains=gains) for gains in DRAWN_GAINS]
    lines += [replace(usual, said=said, worth=worth) for said, worth in _worths(where, GAINS[1:]).items()]
    return [replace(line, chance=chance) for chance in chances for line in lines]


def _worths(where: Where, gains: Sequence[float] = GAINS) -> dict[str, dict[str, float]]:
    """What is worth something where something helps: one step, or each of the first ones of all stages."""
    worths = {f"one of {gain:+.1f}": {_first_place(where): gain} for gain in gains}
    worths[f"each of {STEPS:+.1f}"] = {stage.blocks[-1].path: STEPS for stage in where.network.stages}
    return worths


STUDIES: Mapping[str, tuple[Callable[..., list[Line]], Sequence[float], Sequence[str]]] = {
    "aa": (_nothing, DEVIATIONS, ("proven",)),
    "kept": (_kept, DEVIATIONS, ("likely",)),
    "winner": (_winner, DEVIATIONS[:-1], ("likely", "proven")),
    "power": (_power, FOUND_AT, ("proven", "likely")),
}
"""For each study the lines of its table, the seed deviations and the judges, where no flag names one."""


def _noises(deviations: Sequence[float]) -> list[Chance]:
    """The models of chance that nothing may be kept under."""
    plain = [Chance(seed_deviation=deviation, images=images) for images in (5_000, SMALL) for deviation in deviations]
    own = [replace(plain[0], own_images=OWN_IMAGES)]
    wild = [replace(one, heavy_tails=True) for one in plain]
    return plain + own + wild + [replace(one, unequal=2.0) for one in plain if one.images > SMALL]


def _first_place(where: Where) -> str:
    """Where the rule goes in any case: a gain elsewhere might never be tried."""
    step = build_up(Candidate(network=where.network), where.space, 0).first
    assert step is not None, "a space in which nothing can be tried is refused"
    return next(block.path for block in step.candidate.network.blocks if block not in where.network.blocks)


def _tally(line: Line, runs: int, seed: int) -> Tally:
    where = line.where
    replay = make_replay(
        where.network, where.space, strategy=STRATEGIES["alternet"], judge=line.judge, seeds=line.seeds
    )
    study = Study(replay=replay, chance=line.chance, worth=line.worth, gains=line.gains, claims=line.claims)
    return study.tally(runs, seed)


def _text(lines: Sequence[Line], tallies: Sequence[Tally], runs: int) -> str:
    head = ["search", "judge", "seeds", "seed deviation", "images", "true gains", "kept", "of them help", "false in"]
    rows = [[*head, "found", "bias", "of the mean", "covered", "final claims", "falsely", "trainings"]]
    for line, found in zip(lines, tallies, strict=True):
        helps = bool(line.worth or line.gains)
        rows.append(
            [
                line.where.name,
                line.judge,
                f"{line.seeds}",
                _noise(line.chance),
                f"{line.chance.images:,}",
                line.said,
                f"{found.kept / runs:.2f}",
                f"{100 * found.kept_helping:.1f} %" if found.kept and helps else "-",
                f"{100 * found.kept_false:.1f} %",
                f"{found.kept_true:.2f}" if line.worth else "-",
                f"{found.bias:+.2f}",
                f"{found.plain_bias:+.2f}",
                f"{100 * found.covered:.0f} %" if found.kept_anything else "-",
                f"{found.claimed:.2f}" if line.claims else "-",
                f"{100 * found.claimed_falsely:.1f} %" if line.claims else "-",
                f"{found.trainings:.1f}",
            ]
        )
    model = (
        f"{runs:,} searches a line. Kept: blocks a search. False in: searches that keep anything that is no "
        f"better than its parent. Found: the share of the true gains that is kept. Bias: the gain of the winner by "
        "the model, less the true one; of the mean: that of the mean over seeds. Covered: searches that keep "
        f"something in which the model's {100 * LEVEL:g} % interval holds the true gain. Two trainings of one network "
        f"disagree on {100 * Chance().disagreement:g} % of the "
        f"images if no line says otherwise; `final` takes {FINAL_SEEDS} fresh seeds and {FINAL_IMAGES:,} fresh images."
    )
    return "\n".join([*aligned(rows), "", model])


def _noise(chance: Chance) -> str:
    """The seed deviation in words, with what is unusual beside it."""
    parts = [f"{chance.seed_deviation:g}"]
    parts += [f"{100 * chance.disagreement:g} % disagree"] * (chance.disagreement != Chance().disagreement)
    parts += [f"{100 * chance.own_images:g} % own images"] * bool(chance.own_images)
    parts += ["one split"] * chance.one_split + ["heavy tails"] * chance.heavy_tails
    parts += [f"candidates {chance.unequal:g} times"] * (chance.unequal != 1)
    return ", ".join(parts)


def _values(line: Line, found: Tally) -> dict[str, Any]:
    chance = line.chance
    return {
        "search": line.where.name,
        "judge": line.judge,
        "seeds": line.seeds,
        "seed_deviation": chance.seed_deviation,
        "images": chance.images,
        "disagreement": chance.disagreement,
        "own_images": chance.own_images,
        "one_split": chance.one_split,
        "heavy_tails": chance.heavy_tails,
        "unequal": chance.unequal,
        "true_gains": line.said,
        "kept_anything": found.kept_anything,
        "kept_true": found.kept_true,
        "kept_false": found.kept_false,
        "kept": found.kept,
        "kept_helping": found.kept_helping,
        "bias": found.bias,
        "plain_bias": found.plain_bias,
        "covered": found.covered,
        "verdicts": found.verdicts,
        "held": found.held,
        "claimed": found.claimed,
        "claimed_falsely": found.claimed_falsely,
        "trainings": found.trainings,
    }


if __name__ == "__main__":
    sys.exit(main())
