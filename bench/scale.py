"""Does attention over the whole map gain on local attention with the size of the network?

    python bench/scale.py FOLDER --dataset cifar100 --recipe quick --seeds 3 --bases \\
      'resnetv2_18(stem_chs=16, channels=[16, 32, 64], layers=[2, 2, 2])' \\
      'resnetv2_18(stem_chs=32, channels=[32, 64, 128], layers=[2, 2, 2])'

trains each base twice for each seed: with local attention (M) and with global attention (G) as the last block of every
stage but the first. Pairs share images, order and draws. Each training appends a line to `scale.jsonl` in the folder,
so the same call continues. The table has the gain of G over M for each base (95 % interval over seeds), and the rank
correlation of the gains with the numbers of parameters, within seeds.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from answer import answer, append_line, read_lines
from buildup.engine.problems import Problems
from buildup.engine.train import find_network, train_once
from buildup.errors import RequestError
from buildup.graph.layout import layout
from buildup.models.cost import cost
from buildup.report.text_table import aligned
from buildup.settings import TrainSettings
from buildup.statistics.distributions import t_quantile
from buildup.statistics.kendall import kendall
from buildup.training.data import describe_data

LOCAL, GLOBAL = "M", "G"
SEEDS = 3
LEVEL = 0.95


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the flags, train, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", help="where the results are, or go")
    parser.add_argument("--bases", metavar="BASE", nargs="*", default=[], help="none: only print the table so far")
    parser.add_argument("--dataset", metavar="NAME", default="cifar100", help="(default: cifar100)")
    parser.add_argument("--data-dir", metavar="DIR", help="where cifar10 and cifar100 are")
    parser.add_argument("--fraction", metavar="F", default="1", help="of the training images (default: all)")
    parser.add_argument("--recipe", metavar="NAME", default="quick", help="(default: quick)")
    parser.add_argument("--epochs", metavar="N", help="of each training (default: the recipe's)")
    parser.add_argument("--seeds", metavar="N", help=f"(default: {SEEDS})")
    parser.add_argument("--threads", metavar="N", help="CPU threads (default: all cores)")
    return answer(parser, scale, arguments)


def scale(flags: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Train what is missing; the table of all as text and as values."""
    problems = Problems()
    seeds = problems.whole("--seeds", flags["seeds"], SEEDS)
    epochs = problems.whole("--epochs", flags["epochs"], 0)
    threads = problems.whole("--threads", flags["threads"], 0)
    bases = {base: problems.checked(({}, 0), _pair, base, flags) for base in flags["bases"]}
    problems.raise_any()
    folder = Path(flags["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    lines = read_lines(folder / "scale.jsonl")
    asked = {name: flags[name] for name in ("dataset", "data_dir", "fraction", "recipe")}
    settings = TrainSettings(**asked, epochs=epochs or None, threads=threads or None)
    done = {(line["base"], line["kind"], line["seed"]) for line in lines}
    for seed in range(seeds):
        for base, (layouts, parameters) in bases.items():
            for kind, text in layouts.items():
                if (base, kind, seed) not in done:
                    line = {"base": base, "kind": kind, "seed": seed, "layout": text, "parameters": parameters}
                    place = folder / f"{len(lines)}"
                    trained = train_once(base, replace(settings, layout=text, seed=seed, to=str(place)))
                    line["accuracy"] = trained.score.metrics["accuracy"]
                    append_line(folder / "scale.jsonl", line)
                    lines.append(line)
                    print(f"{base} {text}, seed {seed}: {line['accuracy']:.2f} %", file=sys.stderr, flush=True)
    values = summary(lines)
    return table(values), values


def _pair(base: str, flags: Mapping[str, Any]) -> tuple[dict[str, str], int]:
    """The layouts of a base by their kind of attention, and its number of parameters."""
    network = find_network(base, None, describe_data(flags["dataset"], flags["data_dir"]))
    first, *others = layout(network).split("|")
    if not others:
        raise RequestError(f"{base}: has one stage; attention goes to the end of the stages after the first.")
    layouts = {kind: "|".join((first, *(stage[:-1] + kind for stage in others))) for kind in (LOCAL, GLOBAL)}
    return layouts, cost(network).params


def summary(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The gain of each base, and their correlation with its size."""
    scores = {(line["base"], line["seed"], line["kind"]): line["accuracy"] for line in lines}
    sizes = {line["base"]: line["parameters"] for line in lines}
    gains = {
        (base, seed): scores[base, seed, GLOBAL] - score
        for (base, seed, kind), score in scores.items()
        if kind == LOCAL and (base, seed, GLOBAL) in scores
    }
    rows = []
    for base in sorted(sizes, key=sizes.__getitem__):
        own = [gain for (name, _), gain in gains.items() if name == base]
        if own:
            half = t_quantile(len(own) - 1, (1 + LEVEL) / 2) * stdev(own) / sqrt(len(own)) if len(own) > 1 else None
            rows.append({"base": base, "parameters": sizes[base], "seeds": len(own), "gain": fmean(own), "half": half})
    trend = None
    if len(rows) > 1:
        seeds = [seed for _, seed in gains]
        trend = asdict(kendall([sizes[base] for base, _ in gains], [*gains.values()], LEVEL, groups=seeds))
    return {"rows": rows, "trend": trend}


def table(values: Mapping[str, Any]) -> str:
    """The summary for a terminal.

    >>> row = {"base": "small", "parameters": 1000, "seeds": 2, "gain": 0.5, "half": 1.25}
    >>> print(table({"rows": [row], "trend": None}))
    base   parameters  seeds  gain of global attention
    small       1,000      2  +0.50 (-0.75 to +1.75)
    """
    lines = [["base", "parameters", "seeds", "gain of global attention"]]
    for row in values["rows"]:
        gain, half = row["gain"], row["half"]
        interval = f" ({gain - half:+.2f} to {gain + half:+.2f})" if half is not None else ""
        lines.append([row["base"], f"{row['parameters']:,}", str(row["seeds"]), f"{gain:+.2f}{interval}"])
    said = aligned(lines, right={1, 2}) if values["rows"] else ["No pair of trainings is there yet."]
    if trend := values["trend"]:
        shown = "grows" if trend["low"] > 0 else "falls" if trend["high"] < 0 else "is not shown to change"
        said.append(
            f"The gain {shown} with the size: tau {trend['tau']:+.2f} (95 % interval {trend['low']:+.2f} to "
            f"{trend['high']:+.2f}, {trend['count']} pairs)."
        )
    return "\n".join(said)


if __name__ == "__main__":
    sys.exit(main())
