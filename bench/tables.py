"""Write the tables of the documentation from the result files in `runs/`.

A page marks the place of a table by the comments `<!-- table NAME -->` and `<!-- end -->`. Whatever stands between them
is replaced. `--check` changes nothing and fails if a page differs from its results.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import factors
import order
from aa_searches import summary
from answer import answer, read_lines
from buildup.errors import BuildupError
from buildup.statistics.distributions import share_interval
from error_rates import SMALL
from transfer import TITLES, rows

ROOT = Path(__file__).parents[1]
PAGES = ("docs/judging.md", "docs/results.md", "docs/pretrained.md")
MARKED = re.compile(r"(<!-- table (\S+) -->\n).*?(<!-- end -->\n)", re.DOTALL)
USUAL_IMAGES = 5_000
Result = Mapping[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the flags, write the pages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say which pages differ from their results")
    return answer(parser, write_pages, arguments)


def write_pages(flags: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Write each page anew, or check it."""
    changed = []
    for name in PAGES:
        page = ROOT / name
        before = page.read_text()
        after = with_tables(before)
        if before != after:
            changed.append(name)
            if not flags["check"]:
                page.write_text(after)
    if changed and flags["check"]:
        raise BuildupError(f"{', '.join(changed)}: not as its results say. Run python bench/tables.py.")
    return f"Written: {', '.join(changed) or 'nothing, all pages are as their results say'}.", {"written": changed}


def with_tables(page: str) -> str:
    """The page with its tables made anew."""
    unknown = {name for _, name, _ in MARKED.findall(page)} - TABLES.keys()
    if unknown:
        raise BuildupError(f"No table is called {', '.join(sorted(unknown))}. There are {', '.join(TABLES)}.")
    return MARKED.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}\n{found[3]}", page)


def null(name: str) -> str:
    """How often searches in which nothing helps keep something."""
    found = _result(name)
    columns = [(images, search) for images in (USUAL_IMAGES, SMALL) for search in ("4 verdicts", "8 verdicts")]
    cells: dict[str, dict[tuple[int, str], Result]] = {}
    for line in found["searches"]:
        cells.setdefault(_noise(line), {})[line["images"], line["search"]] = line
    head = ["seed", *(f"{images:,} images, {search}" for images, search in columns)]
    rows = [
        [noise, *(f"{100 * row[at]['kept_false']:.1f} %" if at in row else "" for at in columns)]
        for noise, row in cells.items()
    ]
    spent = {
        search: [line["trainings"] for line in found["searches"] if line["search"] == search]
        for search in ("4 verdicts", "8 verdicts")
    }
    took = " and ".join(f"{min(each):.0f} to {max(each):.0f} trainings for {name}" for name, each in spent.items())
    kept, claimed = (
        round(found["runs"] * sum(line[name] for line in found["searches"]))
        for name in ("kept_anything", "claimed_falsely")
    )
    low, high = share_interval(claimed, kept)
    note = (
        f"{found['runs']:,} searches a line. They took {took}. Of the {kept:,} finals of those that kept something, "
        f"{claimed} claimed a gain: {100 * claimed / kept:.1f} % ({100 * low:.1f} to {100 * high:.1f})."
    )
    return f"{_table(head, rows)}\n\n{note}"


def kept(name: str) -> str:
    """How many of the kept blocks truly help, by the gains and the noise of the world."""
    found = _result(name)
    usual = [line for line in found["searches"] if line["images"] == USUAL_IMAGES]
    small = [line for line in found["searches"] if line["images"] == SMALL]
    gains = list(dict.fromkeys(line["true_gains"] for line in usual))
    cells: dict[str, dict[str, str]] = {}
    for line in usual:
        cells.setdefault(_noise(line), {})[line["true_gains"]] = _helping([line])
    rows = [[noise, *(row[gain] for gain in gains)] for noise, row in cells.items()]
    note = (
        f"{found['runs']:,} searches a line. In all, {_helping(usual, share=True)} kept blocks help. With {SMALL} "
        f"images, gains of this size can't be told from chance: {len(small) * found['runs']:,} searches kept "
        f"{sum(line['kept'] for line in small)} blocks."
    )
    if held := [100 * line["held"] for line in usual if "held" in line]:
        shares = f"{min(held):.0f} to {max(held):.0f} %"
        note += f" With {USUAL_IMAGES:,} images, {shares} of a line's 90 % intervals hold the true gain."
    return f"{_table(['seed', *gains], rows)}\n\n{note}"


def worst() -> str:
    """The worlds in which the fewest kept blocks help, over all studies."""
    runs = [_result(name) for name in ("kept", "kept_2_seeds", "kept_worst")]
    lines = [line for run in runs for line in run["searches"] if line["seed_deviation"] == 1.0]
    rows = []
    for heavy in (False, True):
        for gains in dict.fromkeys(line["true_gains"] for line in lines):
            here = [
                line
                for line in lines
                if line["true_gains"] == gains and line["heavy_tails"] == heavy and line["images"] == USUAL_IMAGES
            ]
            rows.append([_noise(here[0]), gains, _helping(here, share=True)])
    return _table(["seed", "gains", "kept blocks that help"], rows)


def winner(name: str) -> str:
    """How far estimates of the winner's gain are off, over the searches that kept something."""
    found = _result(name)
    cells: dict[tuple[str, str], dict[str, Result]] = {}
    for line in found["searches"]:
        cells.setdefault((_noise(line), line["true_gains"]), {})[line["judge"]] = line
    judges = list(dict.fromkeys(line["judge"] for line in found["searches"]))
    head = ["seed", "true gains"]
    head += [f"`{judge}`: {what}" for judge in judges for what in ("kept in", "mean", "estimate", "covered")]
    rows = [
        [
            *key,
            *(
                text
                for line in (row[judge] for judge in judges)
                for text in (
                    f"{100 * line['kept_anything']:.0f} %",
                    *(f"{line[bias] / line['kept_anything']:+.2f}" for bias in ("plain_bias", "bias")),
                    f"{100 * line['covered']:.0f} %",
                )
            ),
        ]
        for key, row in cells.items()
    ]
    return f"{_table(head, rows, words=2)}\n\n{found['runs']:,} searches a line."


def found_gains() -> str:
    """What both judges find where something helps."""
    found = _result("power")
    cells: dict[tuple[str, str], dict[str, Result]] = {}
    for line in found["searches"]:
        cells.setdefault((_noise(line), line["true_gains"]), {})[line["judge"]] = line
    head = ["seed", "true gains"]
    head += [f"`{judge}`: {what}" for judge in ("proven", "likely") for what in ("found", "claimed", "trainings")]
    rows = [
        [
            *key,
            *(
                text
                for judge in ("proven", "likely")
                for text in (
                    f"{row[judge]['kept_true']:.2f}",
                    f"{row[judge]['claimed']:.2f}",
                    f"{row[judge]['trainings']:.1f}",
                )
            ),
        ]
        for key, row in cells.items()
    ]
    return f"{_table(head, rows, words=2)}\n\n{found['runs']:,} searches a line."


def real() -> str:
    """Real searches in which nothing helps, and searches drawn from their trainings."""
    searches = summary(read_lines(ROOT / "runs" / "aa" / "searches.jsonl"))
    drawn = _result("aa_drawn")
    head = ["judge", "false keeps in searches", "in drawn searches", "trainings a search"]
    rows = [
        [f"`{judge}`", _share(row["searches"]), _share(drawn["judges"][judge]), f"{row['trainings']:.1f}"]
        for judge, row in searches["judges"].items()
    ]
    gain, error = searches["first_gain"]
    note = (
        f"{searches['searches']:,} searches; {drawn['drawn']:,} drawn from the trainings of {drawn['seeds']} seeds. In "
        f"brackets: 95 % intervals. Gain of the first candidate over its first 3 seeds: {gain:+.2f} points (standard "
        f"error {error:.2f})."
    )
    return f"{_table(head, rows)}\n\n{note}"


def layouts_of(folder: str) -> str:
    """What each layout of a base scored."""
    head = ["layout", "parameters", "MACs", "seeds", "accuracy, %", "deviation", "gain over the base", "95 % interval"]
    rows = []
    for row in _json(ROOT / "runs" / folder / "layouts.json")["layouts"]:
        deviation = "" if row["deviation"] is None else f"{row['deviation']:.2f}"
        gain = [f"{row['gain']:+.2f}", "{:+.2f} to {:+.2f}".format(*row["interval"])] if "gain" in row else ["", ""]
        layout = "`{}`".format(row["layout"].replace("|", "\\|"))
        cost = [f"{row['params']:,}", f"{row['macs'] / 1e6:.1f}M"]
        rows.append([layout, *cost, f"{row['seeds']}", f"{row['mean']:.2f}", deviation, *gain])
    return _table(head, rows)


def transferred() -> str:
    """What searches on pretrained weights found."""
    written = []
    for _, way, layout, *numbers in rows(read_lines(ROOT / "runs" / "transfer.jsonl")):
        shown = "`{}`".format(layout.replace("|", "\\|"))
        written.append([way, shown, *numbers])
    return _table(TITLES[1:], written, words=2)


def orders() -> str:
    """What new blocks lose after fine-tuning, place by place, and what would have told the order."""
    found = order.summary(read_lines(ROOT / "runs" / "order.jsonl"))
    written = []
    for name, layout, *numbers in order.rows(found):
        shown = "`{}`".format(layout.replace("|", "\\|")) if "C" in layout else layout
        written.append([name, shown, *numbers])
    notes = [
        f"- {order.SAID[sign]}: tau {one['tau']:+.2f} (95 % interval {one['low']:+.2f} to {one['high']:+.2f}, "
        f"{one['count']} gains)"
        for sign, one in found["orders"].items()
    ]
    return f"{_table(order.TITLES, written, words=2)}\n\n" + "\n".join(notes)


def kept_knowledge(name: str) -> str:
    """What a trained network knows after a block was replaced."""
    base, *lines = read_lines(ROOT / "runs" / f"{name}.jsonl")
    head = ["kind", "stage", "at random, %", "after imitation, %", "of the base", "error", "share of a training"]
    rows = []
    for line in lines:
        share = [
            f"{100 * line['kept']:.0f} %",
            "" if line["error"] is None else f"{line['error']:.2f}",
            f"{100 * line['share_of_a_training']:.0f} %",
        ]
        stage = f"{int(line['place'].split('.')[1]) + 1}"
        rows.append([line["kind"], stage, f"{line['at_random']:.1f}", f"{line['accuracy']:.1f}", *share])
    return f"{_table(head, rows)}\n\nThe base has {base['accuracy']:.1f} %."


def when_it_pays() -> str:
    """What attention gains in each combination of the factors, and the effect of each factor."""
    runs = ROOT / "runs"
    found = factors.summary(read_lines(runs / "factors.jsonl"), read_lines(runs / "warm.jsonl"))["places"]
    bases: dict[str, list[Any]] = {}
    for place, values in found.items():
        for one in values["gains"]:
            bases.setdefault(one["group"], [one, {}])[1][place] = one["gain"]
    head = [
        "width",
        "length",
        "images",
        "augmentation",
        "seed",
        "without attention, %",
        *(f"{place}" for place in found),
    ]
    rows = [
        [
            *("high" if one["cell"][name] else "low" for name in factors.FACTORS),
            *(f"{one['seed']}", f"{one['base']:.2f}"),
            *(f"{gains[place]:+.2f}" if place in gains else "" for place in found),
        ]
        for one, gains in sorted(bases.values(), key=lambda each: [*each[0]["cell"].values(), each[0]["seed"]])
    ]
    return _table(head, rows, words=4)


def warm_starts() -> str:
    """The gains of both places from scratch, and from the weights of the network without attention."""
    runs = ROOT / "runs"
    found = factors.summary(read_lines(runs / "factors.jsonl"), read_lines(runs / "warm.jsonl"))
    groups: dict[str, dict[str, Any]] = {}
    for place, values in found["places"].items():
        for one in values["gains"]:
            if one["warm"] is not None:
                groups.setdefault(one["group"], {})[place] = one
    head = [*factors.FACTORS, "seed", *(name for place in found["places"] for name in (place, "its warm start"))]
    rows = []
    for places in sorted(groups.values(), key=lambda each: [*next(iter(each.values()))["cell"].values()]):
        first = next(iter(places.values()))
        known = [places.get(place, {}) for place in found["places"]]
        gains = [f"{one[key]:+.2f}" if one else "" for one in known for key in ("gain", "warm")]
        rows.append([*("high" if high else "low" for high in first["cell"].values()), f"{first['seed']}", *gains])
    warm = found["warm"]
    return (
        f"{_table(head, rows, words=4)}\n\n{warm['same_sign']} of {warm['gains']} gains have the same sign. "
        f"Kendall's tau within combinations is {warm['tau']:+.2f} "
        f"(95 % interval {warm['low']:+.2f} to {warm['high']:+.2f})."
    )


def effects() -> str:
    """The effect of each factor on the gain of each place."""
    found = factors.summary(read_lines(ROOT / "runs" / "factors.jsonl"))["places"]
    names = {"mean": "mean gain", **{name: f"{name}: {' → '.join(levels)}" for name, levels in factors.FACTORS.items()}}
    known = {place: {one["name"]: one for one in values["effects"]} for place, values in found.items()}
    rows = [
        [said, *(_with_interval(known[place][name]) if name in known[place] else "" for place in found)]
        for name, said in names.items()
    ]
    return _table(["", *(f"end of the {place}" for place in found)], rows)


def _with_interval(one: Result) -> str:
    effect, half = one["effect"], one["half"]
    return f"{effect:+.2f} ({effect - half:+.2f} to {effect + half:+.2f})"


def leads() -> str:
    """How far attention at the end of the last stage is ahead, quarter by quarter, in longer trainings."""
    found = factors.summary(read_lines(ROOT / "runs" / "factors.jsonl"))["places"]["last stage"]["gains"]
    head = ["width", "images", "augmentation", "seed", *(f"{name} quarter" for name in ("1st", "2nd", "3rd", "4th"))]
    rows = [
        [
            *("high" if one["cell"][name] else "low" for name in ("width", "images", "augmentation")),
            f"{one['seed']}",
            *(f"{lead:+.2f}" for lead in one["leads"]),
            f"{one['gain']:+.2f}",
        ]
        for one in found
        if one["cell"]["length"]
    ]
    return _table([*head, "at the end"], rows, words=3)


TABLES: Mapping[str, Callable[[], str]] = {
    "null": lambda: null("null"),
    "null-2-seeds": lambda: null("null_2_seeds"),
    "null-likely": lambda: null("null_likely"),
    "kept": lambda: kept("kept"),
    "kept-2-seeds": lambda: kept("kept_2_seeds"),
    "worst": worst,
    "winner": lambda: winner("winner"),
    "winner-long": lambda: winner("winner_long"),
    "found": found_gains,
    "real": real,
    "cifar100-24-layouts": lambda: layouts_of("cifar100_24"),
    "cifar100-layouts": lambda: layouts_of("cifar100"),
    "transfer": transferred,
    "order": orders,
    "kept-knowledge": lambda: kept_knowledge("kept"),
    "kept-knowledge-convnext": lambda: kept_knowledge("kept_convnext"),
    "when-it-pays": when_it_pays,
    "warm-starts": warm_starts,
    "effects": effects,
    "leads": leads,
}


def _result(name: str) -> Result:
    return _json(ROOT / "runs" / "judges" / f"{name}.json")


def _json(path: Path) -> Result:
    if not path.exists():
        raise BuildupError(f"{path}: no such result. bench/README.md says which command makes it.")
    values: Result = json.loads(path.read_text())
    return values


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """A Markdown table with so many columns of words before those of numbers."""
    rule = ["---"] * words + ["---:"] * (len(head) - words)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def _helping(lines: Iterable[Result], share: bool = False) -> str:
    counts = [(line["kept"], round(line["kept"] * line["kept_helping"])) for line in lines]
    total, helping = (sum(each) for each in zip(*counts, strict=True))
    return f"{helping:,} of {total:,}" + (f" ({100 * helping / total:.1f} %)" if share and total else "")


def _share(found: Result) -> str:
    low, high = found["interval"]
    count = f"{found['kept']:,} of {found['of']:,}"
    return f"{count}: {100 * found['kept'] / found['of']:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def _noise(line: Result) -> str:
    """The seed deviation in words, with what is unusual beside it."""
    parts = [f"{line['seed_deviation']:g}"]
    parts += [f"{100 * line['disagreement']:g} % disagree"] * (line["disagreement"] != 0.17)
    parts += ["own images"] * bool(line["own_images"]) + ["one split"] * line["one_split"]
    parts += ["heavy tails"] * line["heavy_tails"] + ["unequal"] * (line["unequal"] != 1)
    return ", ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
