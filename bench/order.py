"""Must new blocks in a trained network imitate first, and does their error tell where attention loses least?

    python bench/order.py FOLDER --data-dir DIR

trains three networks on one half of the classes of CIFAR-100, and fine-tunes each of them on a part of the other half:
as it is, and with one block replaced, at every place that allows it, by attention over windows (M) and over the whole
map (G). The new block first imitates, as recipe `finetune` has it; M also starts at random, which tells what imitation
is worth. Each base takes the best of three learning rates for itself. Each training appends a line to `order.jsonl` in
the folder, so the same call continues; started twice, it uses two cores. Without `--data-dir` it prints what is known.

A training knows the error of imitation before its first epoch. How errors order the gains over the base is told by
Kendall's tau among the places of one base and kind, beside that of the rule (later places first), that of the accuracy
after three of ten epochs, and that of the gains of other seeds.
"""

import argparse
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from filelock import FileLock, Timeout

from answer import answer, append_line, read_lines
from buildup.engine.problems import Problems
from buildup.engine.train import train_once
from buildup.graph.layout import layout
from buildup.graph.network import Network
from buildup.models.read import read_network
from buildup.report.text_table import aligned
from buildup.settings import TrainSettings
from buildup.statistics.kendall import kendall
from buildup.store.run_dir import final_record, trained_weights
from buildup.trials.outcome import IMITATION
from transfer import PART, halves

BASES: Mapping[str, tuple[str, str]] = {
    "pre-activation ResNet": ("resnetv2_18(stem_chs=16,channels=[16,32,64],layers=[2,2,2])", "quick"),
    "ResNet": ("resnet18(channels=[16,32,64,128])", "quick"),
    "ConvNeXt": ("convnext_atto(depths=[2,2,2,2],dims=[16,32,64,128])", "quick-adamw"),
}
"""The networks, and the recipe for their first training."""
EPOCHS = 24
STARTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "imitates": ("MG", ()),
    "at random": ("M", ("transplant=0",)),
}
"""How new blocks start: the kinds, and the changes of the recipe."""
RATES = ("3.0e-4", "1.0e-3", "3.0e-3")
EARLY = 3
"""Epochs of ten, after which a training is asked how it will end."""
LEVEL = 0.95
TITLES = ["base", "layout", "error", f"gain after {EARLY} epochs", "gain", "gain, at random", "seeds"]
SAID = {
    "error": "the error of imitation",
    "rule": "the rule, later places first",
    "early": f"the gain after {EARLY} of 10 epochs",
    "seeds": "the gain with another seed",
}
"""What may order the places, in words. The last one tells how well any sign could."""
Line = Mapping[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the flags, train what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", help="where the results are, or go")
    parser.add_argument("--data-dir", metavar="DIR", help="where cifar100 is")
    parser.add_argument("--seeds", metavar="N", help="of each network (default: 2)")
    return answer(parser, order, arguments)


def order(flags: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Train what is missing; what all trainings tell as text and as values."""
    problems = Problems()
    seeds = problems.whole("--seeds", flags["seeds"], 2)
    problems.raise_any()
    folder = Path(flags["folder"])
    file = folder / "order.jsonl"
    if flags["data_dir"]:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "images.lock"):
            halves(Path(flags["data_dir"]), folder)
        for seed, (name, (base, recipe)) in product(range(seeds), BASES.items()):
            if (weights := trained_base(folder, name, base, recipe)) is None:
                continue
            network = read_network(base, input_shape=(3, 32, 32), num_classes=50)
            for rate in RATES:
                train(folder, name, base, layout(network), rate, 0, weights, "")
            if best := best_rate(read_lines(file), name):
                for tried, start in wanted(network):
                    train(folder, name, base, tried, best, seed, weights, start)
    values = summary(read_lines(file))
    return table(values), values


def trained_base(folder: Path, name: str, base: str, recipe: str) -> Path | None:
    """The weights of a base, trained on the first half of the classes; None while another process trains it."""
    place = folder / f"base-{name}"
    if weights := trained_weights(place):
        return weights
    try:
        with FileLock(folder / f"base-{name}.lock", timeout=0):
            images = f"folder:{folder / 'images/even'}"
            asked = TrainSettings(dataset=images, recipe=recipe, epochs=EPOCHS, threads=1, to=str(place))
            return train_once(base, asked).weights
    except Timeout:
        return None


def wanted(network: Network) -> Iterator[tuple[str, str]]:
    """The base and the layouts with one new block, the last places first, and how each starts."""
    yield layout(network), ""
    for start, (kinds, _) in STARTS.items():
        for kind, stage in product(kinds, reversed(network.stages)):
            for index in stage.replaceable:
                yield layout(network.replace(stage.blocks[index].path, kind)), start


def best_rate(lines: Sequence[Line], name: str) -> str | None:
    """The rate at which a base ends highest; None as long as another process trains for it."""
    scores = {line["rate"]: line["accuracy"] for line in lines if _is_first(line, name)}
    return max(RATES, key=scores.__getitem__) if scores.keys() == set(RATES) else None


def _is_first(line: Line, name: str) -> bool:
    """Whether a training was one of those that chose the rate of a base."""
    return bool(line["name"] == name and not line["start"] and not line["seed"])


def train(folder: Path, name: str, base: str, tried: str, rate: str, seed: int, weights: Path, start: str) -> None:
    """Fine-tune once and write it down, unless that is done or another process is at it."""
    file, key = folder / "order.jsonl", {"name": name, "layout": tried, "start": start, "rate": rate, "seed": seed}
    place = folder / "-".join([name, tried.replace("|", ""), start, rate, f"{seed}"])
    try:
        with FileLock(f"{place}.lock", timeout=0):
            if any({part: line[part] for part in key} == key for line in read_lines(file)):
                return
            if final_record(place):  # it ended, and this process before it was written down
                shutil.rmtree(place)
            settings = TrainSettings(
                dataset=f"folder:{folder / 'images/odd'}",
                fraction=PART,
                recipe="finetune",
                set=(f"lr={rate}", *STARTS.get(start, ("", ()))[1]),
                layout=tried,
                pretrained=str(weights.absolute()),
                seed=seed,
                threads=1,
                to=str(place),
            )
            done = train_once(base, settings)
            values: dict[str, Any] = {
                "accuracy": round(done.score.accuracy, 2),
                "curve": [round(epoch.metrics["accuracy"], 2) for epoch in done.record.curve],
                "seconds": round(done.score.seconds),
            }
            if IMITATION in done.score.metrics:
                values["error"] = round(done.score.metrics[IMITATION], 4)
            with FileLock(folder / "order.lock"):
                append_line(file, key | values)
            print(f"{place.name}: {values['accuracy']:.2f} %", file=sys.stderr, flush=True)
    except Timeout:
        return


def summary(lines: Sequence[Line]) -> dict[str, Any]:
    """The base and the gain of each place, and how well each sign orders the places."""
    bases: list[dict[str, Any]] = []
    places: list[dict[str, Any]] = []
    for name in BASES:
        if (rate := best_rate(lines, name)) is None:
            continue
        here = [line for line in lines if line["name"] == name and line["rate"] == rate]
        own = {line["seed"]: line for line in here if not line["start"]}
        bases.append({"name": name, "rate": rate, "accuracy": fmean(line["accuracy"] for line in own.values())})
        for tried in dict.fromkeys(line["layout"] for line in here if line["start"]):
            pairs: dict[str, list[tuple[Line, Line]]] = {start: [] for start in STARTS}
            for line in here:
                if line["layout"] == tried and line["seed"] in own:
                    pairs[line["start"]].append((line, own[line["seed"]]))
            if pairs["imitates"]:
                places.append({"name": name, **place_of(tried), **gain_of(*pairs.values())})
    return {"bases": bases, "places": places, "orders": orders(places)}


def orders(places: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How well each sign orders the gains, and half of the seeds the gains of the others."""
    found = {sign: (places, "gain", sign) for sign in ("error", "rule", "early")}
    found["seeds"] = ([one for one in places if one["halves"]], "even", "odd")
    told = {}
    for sign, (those, *keys) in found.items():
        groups = [(one["name"], one["kind"]) for one in those]
        if len(set(groups)) < len(groups):  # some base has two places for a kind
            one, other = ([place[key] if key in place else place["halves"][key] for place in those] for key in keys)
            told[sign] = asdict(kendall(one, other, LEVEL, groups=groups))
    return told


def place_of(tried: str) -> dict[str, Any]:
    """Where a layout has its new block: the rule prefers later places.

    >>> place_of("CC|MC")
    {'layout': 'CC|MC', 'kind': 'M', 'rule': 2}
    """
    letters = tried.replace("|", "")
    return {"layout": tried, "kind": letters.strip("C"), "rule": len(letters) - len(letters.lstrip("C"))}


def gain_of(pairs: Sequence[tuple[Line, Line]], at_random: Sequence[tuple[Line, Line]]) -> dict[str, Any]:
    """The gain over the base with the same seeds, without imitation, too, and the signs of it.

    A smaller error promises more.
    """
    gains = {line["seed"]: line["accuracy"] - base["accuracy"] for line, base in pairs}
    even, odd = ([gain for seed, gain in gains.items() if seed % 2 == rest] for rest in (0, 1))
    return {
        "seeds": len(gains),
        "gain": fmean(gains.values()),
        "halves": {"even": fmean(even), "odd": fmean(odd)} if even and odd else None,
        "at_random": fmean(line["accuracy"] - base["accuracy"] for line, base in at_random) if at_random else None,
        "early": fmean(line["curve"][EARLY - 1] - base["curve"][EARLY - 1] for line, base in pairs),
        "error": -fmean(line["error"] for line, _ in pairs),
    }


def table(values: Mapping[str, Any]) -> str:
    """The summary for a terminal."""
    parts = ["\n".join(aligned([TITLES, *rows(values)], right=range(2, 7)))]
    for sign, found in values["orders"].items():
        numbers = f"{found['tau']:+.2f} (95 % interval {found['low']:+.2f} to {found['high']:+.2f})"
        parts.append(f"{SAID[sign]}: Kendall's tau {numbers}, {found['count']} gains.")
    return "\n".join(parts)


def rows(values: Mapping[str, Any]) -> list[list[str]]:
    """A row for each base and for each place."""
    found = []
    for base in values["bases"]:
        found.append([base["name"], f"rate {float(base['rate']):g}", "", "", f"{base['accuracy']:.2f} %", "", ""])
        for one in values["places"]:
            if one["name"] == base["name"]:
                numbers = [f"{-one['error']:.2f}", f"{one['early']:+.2f}", f"{one['gain']:+.2f}"]
                start = "" if one["at_random"] is None else f"{one['at_random']:+.2f}"
                found.append(["", one["layout"], *numbers, start, f"{one['seeds']}"])
    return found


if __name__ == "__main__":
    sys.exit(main())
