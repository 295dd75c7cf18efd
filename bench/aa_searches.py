"""How often the judges keep a block in real searches in which nothing can help.

Parent and candidate are the same network (`twin.py`), trained for some seconds on a part of the digits. Rule, judges,
replay and loop are those of `buildup search`; the trainings run in this process, one after the other. Every search has
seeds of its own, and all judges decide on the same trainings. Each search appends a line to `searches.jsonl` in the
folder, so the same call continues where it was stopped. `trainings-N.jsonl` holds the trainings of search N with what
they got right (10 kB), so that `--again` can make the verdicts anew by other judges.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from scipy.stats import binomtest

from answer import answer, append_line, read_lines
from buildup.engine.loop import raise_if_infrastructure, run_loop
from buildup.engine.problems import Problems
from buildup.engine.replay import make_replay
from buildup.execution.attempt import run_attempt
from buildup.execution.simulated import InMemoryWriter
from buildup.graph.network import Network
from buildup.models.read import read_network
from buildup.report.text_table import aligned
from buildup.space.schema import SearchSpace
from buildup.statistics.judges import MOST_TIMES
from buildup.training.fit import Job, fit
from buildup.training.recipe import Recipe, load_recipe
from buildup.trials.decision import Decision, decision_to_values
from buildup.trials.event import Event
from buildup.trials.history import History
from buildup.trials.outcome import Record, Score, record_from_values, record_to_values
from buildup.trials.training import Candidate, Training, seed_of
from chance import search as simulated_search
from one_by_one import OneByOne
from twin import register_twin

SIZE = 8
CLASSES = 10
FRACTION = 1 / 4
"""Of the training images. The others are validated on: 1,152 images a seed."""
NET = {"layers": [2, 2, 1, 1], "channels": [16, 24, 24, 32], "stem_width": 8}
"""Blocks are replaced where they keep the shape of their maps. Here, that is the second block of two stages."""
EPOCHS = 6
SEEDS = 3
NETWORKS = 3
"""That a search trains: the base, the first candidate, and one other with or without it."""
SEEDS_APART = 100
"""Between the first seeds of two searches, more than a search can use."""
JUDGES_COMPARED = ("likely", "proven")
LEVEL = 0.95


@dataclass(kw_only=True)
class InProcessEvaluator(OneByOne):
    """Trains in this process what a verdict needs, and remembers it in a file."""

    file: Path
    recipe: Recipe
    known: dict[str, Record] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.known = {line["training"]: record_from_values(line) for line in read_lines(self.file)}

    def end(self, training: Training) -> Record:
        """The record of a training, which is trained if it was not before."""
        if training.id not in self.known:
            record = _train(training, self.recipe)
            raise_if_infrastructure(Event(training=training, update=record))
            self.known[training.id] = record
            append_line(self.file, {"training": training.id, **record_to_values(record)})
        return self.known[training.id]


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the flags, search, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", metavar="FOLDER", help="where the results are, or go")
    parser.add_argument("--searches", metavar="N", help="stop after so many, earlier ones included (default: 200)")
    parser.add_argument("--epochs", metavar="N", help=f"of each training (default: {EPOCHS})")
    parser.add_argument("--again", action="store_true", help="make all verdicts anew from the trainings in the folder")
    parser.add_argument("--table", action="store_true", help="only print the table of the searches so far")
    parser.add_argument("--drawn", metavar="N", help="draw so many searches from the trainings in the folder")
    parser.add_argument("--seed", metavar="N", help="of what is drawn (default: 0)")
    return answer(parser, aa_searches, arguments)


def aa_searches(flags: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Search until there are as many results as asked for; the table of all as text and as values."""
    problems = Problems()
    searches = problems.whole("--searches", flags["searches"], 200)
    epochs = problems.whole("--epochs", flags["epochs"], EPOCHS)
    drawn = problems.whole("--drawn", flags["drawn"], 0)
    seed = problems.whole("--seed", flags["seed"], 0, least=0)
    folder = Path(flags["folder"])
    groups = trained_groups(folder) if drawn else []
    if drawn and len(groups) < SEEDS * MOST_TIMES:
        problems.found.append(
            f"--drawn: a search draws from {SEEDS * MOST_TIMES} seeds. {folder} has {len(groups)} with "
            f"{NETWORKS} trainings. Make more searches first."
        )
    problems.raise_any()
    if drawn:
        values = drawn_searches(groups, drawn, seed)
        return drawn_table(values), values
    lines = read_lines(folder / "searches.jsonl")
    if flags["again"]:
        (folder / "searches.jsonl").unlink(missing_ok=True)
        lines = []
    if not flags["table"]:
        folder.mkdir(parents=True, exist_ok=True)
        network, space, recipe = null_search(epochs)
        for number in range(len(lines), searches):
            lines.append(search(number, network, space, recipe, folder / f"trainings-{number}.jsonl"))
            append_line(folder / "searches.jsonl", lines[-1])
            print(_progress(lines[-1]), file=sys.stderr, flush=True)
    values = summary(lines)
    return table(values), values


def null_search(epochs: int) -> tuple[Network, SearchSpace, Recipe]:
    """The base, the space in which nothing helps, and the recipe of all searches."""
    register_twin()
    network = read_network("test_resnet", input_shape=(1, SIZE, SIZE), num_classes=CLASSES, base_args=NET)
    # So few steps learn little with the rate and the augmentation of `quick`.
    recipe = replace(
        load_recipe("quick"),
        epochs=epochs,
        warmup_epochs=min(1, epochs - 1),
        batch_size=32,
        min_steps=1,
        lr=0.1,
        crop_padding=0,
        label_smoothing=0.0,
    )
    return network, SearchSpace(name="twin", description="", kind="Q"), recipe


def search(number: int, network: Network, space: SearchSpace, recipe: Recipe, file: Path) -> dict[str, Any]:
    """Search with each judge on the same trainings: the line of this search."""
    evaluator = InProcessEvaluator(file=file, recipe=recipe)
    judged = {}
    started = time.perf_counter()
    for judge in JUDGES_COMPARED:
        replay = make_replay(network, space, judge=judge, seeds=SEEDS, first_seed=number * SEEDS_APART)
        view, history = run_loop(replay, evaluator, InMemoryWriter(), History())
        decisions = [_line(decision) for decision in view.decisions]
        judged[judge] = {"trainings": len(history.outcomes), "decisions": decisions}
    scores = [record.outcome for record in evaluator.known.values() if isinstance(record.outcome, Score)]
    return {
        "search": number,
        "trainings": len(evaluator.known),
        "seconds": round(time.perf_counter() - started, 2),
        "training_seconds": round(fmean(score.seconds for score in scores), 2),
        "accuracy": round(fmean(score.accuracy for score in scores), 2),
        "least_accuracy": round(min(score.accuracy for score in scores), 2),
        "judges": judged,
    }


def trained_groups(folder: Path) -> list[list[Score]]:
    """The trainings of each seed in the folder that has as many as a search can need."""
    groups = dict[int, list[Score]]()
    for file in sorted(folder.glob("trainings-*.jsonl")):
        for line in read_lines(file):
            outcome = record_from_values(line).outcome
            if isinstance(outcome, Score):
                groups.setdefault(seed_of(line["training"]), []).append(outcome)
    return [group for group in groups.values() if len(group) >= NETWORKS]


def drawn_searches(groups: Sequence[Sequence[Score]], searches: int, seed: int) -> dict[str, Any]:
    """How many of these searches keep something false, by each judge on the same draws."""
    network, space, _ = null_search(EPOCHS)
    judges = {}
    for judge in JUDGES_COMPARED:
        replay = make_replay(network, space, judge=judge, seeds=SEEDS)
        random = np.random.default_rng(seed)
        views = [simulated_search(replay, Roles(groups, random).score)[0] for _ in range(searches)]
        judges[judge] = share(any(made.kept for made in view.decisions) for view in views)
    return {"drawn": searches, "seeds": len(groups), "judges": judges}


class Roles:
    """Which training of which group is that of which network, in one drawn search."""

    def __init__(self, groups: Sequence[Sequence[Score]], random: np.random.Generator) -> None:
        chosen = random.choice(len(groups), SEEDS * MOST_TIMES, replace=False)
        self.left = [list(random.permutation(np.array(groups[group], dtype=object))) for group in chosen]
        self.taken: dict[tuple[str, int], Score] = {}

    def score(self, candidate: Candidate, seed: int) -> Score:
        """That of the next training of the seed's group, and the same when asked again."""
        key = candidate.id, seed
        if key not in self.taken:
            self.taken[key] = self.left[seed].pop()
        return self.taken[key]


def drawn_table(values: Mapping[str, Any]) -> str:
    """The drawn searches as text."""
    rows = [["judge", "false keeps in drawn searches"]]
    rows += [[judge, _said(found)] for judge, found in values["judges"].items()]
    note = (
        f"{values['drawn']:,} searches, drawn from {values['seeds']} seeds with {NETWORKS} equal networks or more. "
        f"In brackets: {100 * LEVEL:g} % Clopper-Pearson intervals, which take the draws as independent."
    )
    return "\n".join([*aligned(rows), "", note])


def _line(made: Decision) -> dict[str, Any]:
    """What a line keeps of a verdict."""
    values = decision_to_values(made)
    numbers = {name: [round(one, 3) for one in values[name]] for name in ("ci", "scores", "parent_scores")}
    return {**{name: values[name] for name in ("edit", "verdict", "seeds")}, "gain": round(made.gain, 3), **numbers}


def _train(training: Training, recipe: Recipe) -> Record:
    with tempfile.TemporaryDirectory() as folder:
        job = Job(
            network=training.candidate.network,
            seed=training.seed,
            dataset="digits",
            image_size=SIZE,
            fraction=FRACTION,
            recipe=recipe,
            folder=folder,
        )
        *_, record = run_attempt(fit, job, Path(folder))
    assert isinstance(record, Record)
    outcome = record.outcome
    # The accuracy is judged, so neither losses nor epochs are looked at.
    return Record(outcome=replace(outcome, losses=None) if isinstance(outcome, Score) else outcome, curve=())


def summary(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the lines come to. Every keep is false, as nothing helps."""
    judges = {}
    for judge in JUDGES_COMPARED if lines else ():
        rows = [line["judges"][judge] for line in lines]
        kept = [[decision["verdict"] == "keep" for decision in row["decisions"]] for row in rows]
        seeds = [decision["seeds"] for row in rows for decision in row["decisions"]]
        judges[judge] = {
            "searches": share(any(verdicts) for verdicts in kept),
            "verdicts": share(verdict for verdicts in kept for verdict in verdicts),
            "trainings": fmean(row["trainings"] for row in rows),
            "seeds": fmean(seeds),
        }
    mean = {
        name: fmean(line[name] for line in lines) if lines else 0.0
        for name in ("accuracy", "trainings", "training_seconds", "seconds")
    }
    least = min((line["least_accuracy"] for line in lines), default=0.0)
    return {
        "searches": len(lines),
        "mean": mean,
        "least_accuracy": least,
        "first_gain": first_gain(lines),
        "judges": judges,
    }


def first_gain(lines: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """The mean gain of the first candidates over the seeds of the first look, in points, and its standard error.

    No verdict chose these seeds or their parent, so the mean of many searches is 0 if the two networks are equal.
    """
    firsts = [line["judges"][JUDGES_COMPARED[0]]["decisions"][0] for line in lines]
    scored = [one for one in firsts if len(one["scores"]) >= SEEDS]
    gains = [fmean(one["scores"][:SEEDS]) - fmean(one["parent_scores"][:SEEDS]) for one in scored]
    error = stdev(gains) / sqrt(len(gains)) if len(gains) > 1 else 0.0
    return (fmean(gains) if gains else 0.0), error


def share(kept: Iterable[bool]) -> dict[str, Any]:
    """How many of these were kept, with the exact (Clopper-Pearson) interval of the share.

    >>> share([False] * 59 + [True])["interval"]
    [0.0004, 0.0894]
    """
    found = list(kept)
    interval = binomtest(sum(found), len(found)).proportion_ci(LEVEL, "exact")
    return {"of": len(found), "kept": sum(found), "interval": [round(float(end), 4) for end in interval]}


def table(values: Mapping[str, Any]) -> str:
    """The summary as text."""
    rows = [["judge", "false keeps in searches", "among verdicts", "seeds a verdict", "trainings a search"]]
    for judge, found in values["judges"].items():
        shares = [_said(found["searches"]), _said(found["verdicts"])]
        rows.append([judge, *shares, f"{found['seeds']:.1f}", f"{found['trainings']:.1f}"])
    mean, (gain, error) = values["mean"], values["first_gain"]
    note = (
        f"{values['searches']:,} searches in which nothing helps. Both judges together took "
        f"{mean['trainings']:.1f} trainings and {mean['seconds']:.0f} s a search, {mean['training_seconds']:.1f} s a "
        f"training. Accuracy: {mean['accuracy']:.1f} % on average, {values['least_accuracy']:.1f} % at least. Gain of "
        f"the first candidate over its first {SEEDS} seeds: {gain:+.2f} points (standard error {error:.2f}). In "
        f"brackets: {100 * LEVEL:g} % Clopper-Pearson intervals. That of verdicts takes them as independent."
    )
    return "\n".join([*aligned(rows), "", note])


def _said(found: Mapping[str, Any]) -> str:
    low, high = (100 * end for end in found["interval"])
    return f"{found['kept']} of {found['of']}: {100 * found['kept'] / found['of']:.1f} % ({low:.1f} to {high:.1f})"


def _progress(line: Mapping[str, Any]) -> str:
    verdicts = {judge: [one["verdict"] for one in row["decisions"]] for judge, row in line["judges"].items()}
    said = "; ".join(f"{judge}: {', '.join(found)}" for judge, found in verdicts.items())
    return f"search {line['search']}: {line['trainings']} trainings, {line['seconds']:.0f} s; {said}"


if __name__ == "__main__":
    sys.exit(main())
