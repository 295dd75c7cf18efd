"""What layouts of a base score on real data, and what the rule and its controls find among them.

`--take RUN` copies the trainings of a run into a folder of small files that can be kept: `search.json` has what all of
them share, and `trainings.jsonl` a line a training with its curve and which images it got right. Rule, judges and
controls are then replayed on these trainings: the loop is that of `buildup search`, and nothing is trained. Each replay
uses the seeds in an order of its own. A replay that needs a training which the folder lacks has no answer.

The gain of a replay is that of its winner over all seeds in the folder. The winner was chosen by some of them, so it is
too large by a little, for all strategies alike.
"""

import argparse
import json
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from answer import answer, append_line, read_lines
from buildup.engine.graph_cache import costs_of
from buildup.engine.load_state import state_of
from buildup.engine.loop import run_loop
from buildup.engine.problems import Problems
from buildup.engine.replay import Replay, make_replay
from buildup.errors import BuildupError, RequestError
from buildup.execution.simulated import InMemoryWriter
from buildup.graph.network import Network
from buildup.graph.serialize import network_from_values, network_to_values
from buildup.report.text_table import aligned
from buildup.space.load import load
from buildup.statistics.mixed_model import unshrunken
from buildup.statistics.paired_difference import Pair, compare
from buildup.store.run_record import open_record
from buildup.strategies.registered import STRATEGIES
from buildup.training.recipe import effective_values
from buildup.trials.history import History
from buildup.trials.objective import ACCURACY
from buildup.trials.outcome import Epoch, Record, Score, record_from_values, record_to_values
from buildup.trials.training import Training, candidate_id, seed_of
from one_by_one import OneByOne

REPLAYS = 200
LEVEL = 0.95
SHARED = ("base", "dataset", "image_size", "fraction", "epochs", "space", "execution")
"""Settings of a run that its trainings have in common with those of other runs in a folder."""
CURVES = ("accuracy", "nll", "seconds")
"""The metrics of epochs that are kept."""
JUDGES_AND_SEEDS = (("likely", 3), ("point", 3), ("point", 1))


class MissingError(BuildupError):
    """A replay needs a training that the folder lacks."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """Trainings of a base by layout and seed."""

    network: Network
    about: Mapping[str, Any]
    records: Mapping[tuple[str, int], Record]
    costs: Mapping[str, tuple[int, int]]
    """Parameters and MACs by layout."""

    def scores(self, layout: str) -> dict[int, Score]:
        """Those of a layout by their seeds."""
        found = {seed: record.outcome for (one, seed), record in self.records.items() if one == layout}
        return {seed: outcome for seed, outcome in sorted(found.items()) if isinstance(outcome, Score)}

    @property
    def layouts(self) -> list[str]:
        """All layouts, the base first, then by the number of their blocks that are replaced."""
        found = dict.fromkeys(layout for layout, _ in self.records)
        return sorted(found, key=lambda layout: (sum(letter not in "C|" for letter in layout), layout))


@dataclass(kw_only=True)
class KnownEvaluator(OneByOne):
    """Answers from known trainings. The seeds of the search stand for known ones in a drawn order."""

    known: Known
    order: Sequence[int]
    first_seed: int
    asked: set[str] = field(default_factory=set)

    def end(self, training: Training) -> Record:
        """The known record of a training; raises if there is none."""
        place, layout = training.seed - self.first_seed, training.candidate.layout
        found = self.known.records.get((layout, self.order[place])) if place < len(self.order) else None
        if found is None:
            raise MissingError(f"{layout} has no training with this seed")
        self.asked.add(training.id)
        return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the flags, take, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", help="where the trainings are, or go")
    parser.add_argument("--take", metavar="RUN", action="append", default=[], help="copy those of a run; once for each")
    parser.add_argument("--replays", metavar="N", help=f"of each strategy and judge (default: {REPLAYS}; 0 for none)")
    return answer(parser, layouts, arguments)


def layouts(flags: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The tables as text and as values."""
    problems = Problems()
    replays = problems.whole("--replays", flags["replays"], REPLAYS, least=0)
    problems.raise_any()
    folder = Path(flags["folder"])
    for run in flags["take"]:
        take(run, folder)
    known = read_known(folder)
    values = {"layouts": table(known), "replays": list(replayed(known, replays)) if replays else []}
    return f"{_layouts_text(known, values['layouts'])}\n\n{_replays_text(values['replays'])}".rstrip(), values


def take(run: str, folder: Path) -> None:
    """Copy the trainings of a run that the folder lacks."""
    record = open_record(run)
    view, history = state_of(record)
    settings = {name: value for name, value in asdict(record.settings).items() if name in SHARED}
    about = {
        **settings,
        "recipe": record.recipe.name,
        "data": record.data.hash,
        "val_images": record.data.val_images,
        # Which weights are kept changes no training.
        "values": {name: value for name, value in effective_values(record.recipe).items() if name != "snapshots"},
    }
    about |= {"train_images": record.data.train_images, "network": network_to_values(record.network)}
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "search.json"
    if file.exists() and (before := json.loads(file.read_text())) != about:
        differing = ", ".join(name for name in about if about[name] != before.get(name))
        raise RequestError(f"{run}: its trainings can't be compared with those of {folder}: {differing} differ.")
    file.write_text(json.dumps(about, indent=1) + "\n")
    there = {(line["layout"], line["seed"]) for line in read_lines(folder / "trainings.jsonl")}
    split = {seed for _, seed in there}
    candidates = {one.id: one for one in view.candidates}
    for key, outcome in history.outcomes.items():
        candidate = candidates.get(candidate_id(key))
        if candidate is None or not isinstance(outcome, Score) or (candidate.layout, seed_of(key)) in there:
            continue
        params, macs = costs_of(candidate)
        curve = (
            Epoch(number=one.number, metrics={name: one.metrics[name] for name in CURVES if name in one.metrics})
            for one in history.curves.get(key, ())
        )
        values = record_to_values(Record(outcome=outcome, curve=tuple(curve)))
        del values["score"]["losses"]  # twenty times as large as all else
        if seed_of(key) in split:
            del values["score"]["validated"]  # all trainings with this seed have the same
        split.add(seed_of(key))
        line = {"layout": candidate.layout, "seed": seed_of(key), "params": params, "macs": macs, **values}
        append_line(folder / "trainings.jsonl", line)


def read_known(folder: Path) -> Known:
    """The trainings of a folder."""
    lines = read_lines(folder / "trainings.jsonl")
    if not lines:
        raise RequestError(f"{folder}: there are no trainings. Copy those of a run: --take RUN.")
    about = json.loads((folder / "search.json").read_text())
    splits = {line["seed"]: line["score"]["validated"] for line in lines if "validated" in line["score"]}
    for line in lines:
        line["score"]["validated"] = splits[line["seed"]]
    return Known(
        network=network_from_values(about["network"]),
        about=about,
        records={(line["layout"], line["seed"]): record_from_values(line) for line in lines},
        costs={line["layout"]: (line["params"], line["macs"]) for line in lines},
    )


def table(known: Known) -> list[dict[str, Any]]:
    """A row a layout: its scores, and its gain over the base on the seeds that both have."""
    base, *others = known.layouts
    reference = known.scores(base)
    pairs = {
        layout: [
            Pair(candidate=score, parent=reference[seed])
            for seed, score in known.scores(layout).items()
            if seed in reference
        ]
        for layout in others
    }
    comparisons = {layout: compare(found, candidate=layout, parent=base) for layout, found in pairs.items() if found}
    rows = []
    for layout in (base, *others):
        scores = [score.accuracy for score in known.scores(layout).values()]
        params, macs = known.costs[layout]
        row: dict[str, Any] = {"layout": layout, "params": params, "macs": macs, "seeds": len(scores)}
        row |= {"mean": fmean(scores), "deviation": stdev(scores) if len(scores) > 1 else None}
        if comparison := comparisons.get(layout):
            rest = tuple(one for one in comparisons.values() if one is not comparison)
            low, high = unshrunken(comparison, rest, ACCURACY.seed_deviation).interval(LEVEL)
            row |= {"gain": comparison.gain, "interval": (low, high), "compared": comparison.seeds}
        rows.append(row)
    return rows


def replayed(known: Known, replays: int) -> Iterator[dict[str, Any]]:
    """What each strategy ends in, with each judge, over replays with seeds in drawn orders."""
    truth = {row["layout"]: row["mean"] for row in table(known)}
    base, best = known.layouts[0], max(truth, key=lambda layout: truth[layout])
    for strategy in ("alternet", "random", "tpe", "exhaustive"):
        for judge, seeds in JUDGES_AND_SEEDS:
            ends = [found for number in range(replays) if (found := _search(known, strategy, judge, seeds, number))]
            row: dict[str, Any] = {"strategy": strategy, "judge": judge, "seeds": seeds, "replays": replays}
            row["answered"] = len(ends)
            if ends:
                winners = [winner for winner, _ in ends]
                row["trainings"] = fmean(trained for _, trained in ends)
                row["gain"] = fmean(truth[winner] - truth[base] for winner in winners)
                row["best"] = winners.count(best)
                row["ends"] = {layout: winners.count(layout) for layout in sorted(set(winners), key=winners.index)}
            yield row


def _search(known: Known, strategy: str, judge: str, seeds: int, number: int) -> tuple[str, int] | None:
    """The layout that a search ends in, and how many trainings it asked for; None if it asked for an unknown one."""
    order = sorted(known.scores(known.layouts[0]))
    random.Random(number).shuffle(order)
    replay: Replay = make_replay(
        known.network,
        load(known.about["space"]),
        strategy=STRATEGIES[strategy],
        judge=judge,
        seeds=seeds,
        first_seed=number,  # a control draws by it
        costs=costs_of,
    )
    evaluator = KnownEvaluator(known=known, order=order, first_seed=number)
    try:
        view, _ = run_loop(replay, evaluator, InMemoryWriter(), History())
    except MissingError:
        return None
    return view.best.layout, len(evaluator.asked)


def _layouts_text(known: Known, rows: Sequence[Mapping[str, Any]]) -> str:
    about = known.about
    head = (
        f"{about['base']} on {about['dataset']}, {about['recipe']}, {about['epochs']} epochs, "
        f"{about['train_images']:,} images; validated on {about['val_images']:,}"
    )
    cells = [["layout", "params", "MACs", "seeds", "mean", "deviation", "gain over the base", f"{LEVEL:.0%} interval"]]
    for row in rows:
        deviation = "" if row["deviation"] is None else f"{row['deviation']:.2f}"
        gain, interval = "", ""
        if "gain" in row:
            gain, interval = f"{row['gain']:+.2f}", "{:+.2f} to {:+.2f}".format(*row["interval"])
        cost = [f"{row['params']:,}", f"{row['macs'] / 1e6:.1f}M"]
        cells.append([row["layout"], *cost, str(row["seeds"]), f"{row['mean']:.2f}", deviation, gain, interval])
    return "\n".join([head, *aligned(cells)])


def _replays_text(rows: Sequence[Mapping[str, Any]]) -> str:
    cells = [["strategy", "judge", "seeds", "answered", "trainings", "gain", "best found", "ends in"]]
    for row in rows:
        told = ["", "", "", ""]
        if row["answered"]:
            ends = sorted(row["ends"].items(), key=lambda end: -end[1])
            named = ", ".join(f"{layout} {count}" for layout, count in ends[:3])
            told = [f"{row['trainings']:.1f}", f"{row['gain']:+.2f}", str(row["best"]), named]
        cells.append(
            [row["strategy"], row["judge"], str(row["seeds"]), f"{row['answered']} of {row['replays']}", *told]
        )
    return "\n".join(aligned(cells)) if rows else ""


if __name__ == "__main__":
    sys.exit(main())
