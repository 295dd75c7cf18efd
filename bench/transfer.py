"""Does attention in a trained network help on other images, and what do new blocks know before they are trained?

    python bench/transfer.py FOLDER --data-dir DIR

trains each base on one half of the classes of CIFAR-100, and searches with these weights on a part of the other half:
with new blocks that first imitate those that they replace (recipe `finetune`), and with new blocks that start at random
(`transplant=0`), each at the rate of the recipe and at ten times that. A final follows where a block was kept. Each
search appends a line to `transfer.jsonl` in the folder, and what was stopped goes on with the same call. Without
`--data-dir` it prints what is known; `--take WAY=RUN` adds a run that was made by hand.
"""

import re
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from answer import append_line, read_lines
from buildup.engine.run import Run, open_run
from buildup.errors import counted
from buildup.report.text_table import aligned
from buildup.trials.outcome import IMITATION, Score
from buildup.trials.training import CHECKS, candidate_id, check_id

BASES = (
    "resnetv2_18(stem_chs=16,channels=[16,32,64],layers=[2,2,2])",
    "resnetv2_18(stem_chs=16,channels=[16,32,64],layers=[1,1,1])",
    "resnet18(channels=[16,32,64,128])",
)
AT_RANDOM, FAST = ["--set", "transplant=0"], ["--set", "lr=3.0e-3"]
WAYS = {
    "imitate": [],
    "at random": AT_RANDOM,
    "imitate, rate 0.003": FAST,
    "at random, rate 0.003": [*AT_RANDOM, *FAST],
}
"""How new blocks start, and the flags for it."""
PART, EPOCHS, SEEDS, FINAL_SEEDS = "1/4", 24, 3, 8
WEIGHTS = "attempt-*/weights.safetensors"
"""Where `buildup train` leaves them."""
TITLES = ["base", "new blocks", "layout", "error", "accuracy, %", "gain", "interval", "verdict"]
"""`error` is how far the features are from the base's when new blocks have imitated, as `transplant` gives it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the flags, train and search what is missing, print the table."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the results are, or go")
    parser.add_argument("--data-dir", type=Path, help="where cifar100 is")
    parser.add_argument("--bases", nargs="*", default=BASES, metavar="BASE", help="networks of timm (default: three)")
    parser.add_argument("--take", metavar="WAY=RUN", action="append", default=[], help="add a run; once for each")
    given = parser.parse_args(arguments)
    file = given.folder / "transfer.jsonl"
    if given.data_dir:
        halves(given.data_dir, given.folder)
        for base in given.bases:
            for way, flags in WAYS.items():
                if (base, way) not in {(line["base"], line["way"]) for line in read_lines(file)}:
                    append_line(file, {"base": base, "way": way, **searched(given.folder, base, way, flags)})
    for way, _, name in (one.rpartition("=") for one in given.take):
        found = open_run(name)
        append_line(file, {"base": found.settings.base, "way": way, **answer_of(found)})
    print(table(read_lines(file)))
    return 0


def halves(data_dir: Path, folder: Path) -> None:
    """Write CIFAR-100 as two folders of images, of the classes with even and with odd numbers."""
    from torchvision.datasets import CIFAR100

    if (folder / "images").exists():
        return
    made = folder / "images-unfinished"
    for part, train in (("train", True), ("test", False)):
        images = CIFAR100(str(data_dir), train=train)
        for number, (image, label) in enumerate(images):
            place = made / ("even", "odd")[label % 2] / part / images.classes[label]
            place.mkdir(parents=True, exist_ok=True)
            image.save(place / f"{number:05}.png")
    made.rename(folder / "images")


def searched(folder: Path, base: str, way: str, flags: Sequence[str]) -> dict[str, Any]:
    """Train the base on the first half, search on the second, and prove what was kept."""
    name = re.sub(r"\W+", "-", base).strip("-")
    trained = folder / f"base-{name}"
    if not list(trained.glob(WEIGHTS)):
        images = f"folder:{folder / 'images/even'}"
        run("train", base, "--dataset", images, "--epochs", f"{EPOCHS}", "--threads", "1", "--to", f"{trained}")
    target = folder / f"{way.replace(' ', '-')}-{name}"
    if not target.exists():
        (file,) = trained.glob(WEIGHTS)
        weights = ["--pretrained", f"{file}", "--recipe", "finetune", *flags]
        data = ["--dataset", f"folder:{folder / 'images/odd'}", "--fraction", PART]
        run("search", "--base", base, *data, *weights, "--seeds", f"{SEEDS}", "--run", f"{target}")
    elif open_run(target).status != "finished":
        run("resume", f"{target}")
    found = open_run(target)
    if any(decision.kept for decision in found.decisions) and found.claim is None:
        run("final", f"{target}", "--seeds", f"{FINAL_SEEDS}")
    return answer_of(open_run(target))


def answer_of(found: Run) -> dict[str, Any]:
    """Verdicts with scores and the errors of imitation by layout, the claim, and the seconds of all trainings."""
    layouts = {one.id: one.layout for one in found.candidates}
    scores: dict[str, list[float]] = {}
    errors: dict[str, list[float]] = {}
    checks = {check_id(found.base.id, check): words for check, words in CHECKS.items()}
    checked: dict[str, float] = {}
    outcomes = found.history.outcomes
    for training, outcome in outcomes.items():
        if isinstance(outcome, Score) and (check := checks.get(candidate_id(training))):
            checked[check] = round(outcome.accuracy, 2)
        elif isinstance(outcome, Score) and (layout := layouts.get(candidate_id(training))):
            scores.setdefault(layout, []).append(round(outcome.accuracy, 2))
            if IMITATION in outcome.metrics:
                errors.setdefault(layout, []).append(round(outcome.metrics[IMITATION], 3))
    claim = found.claim and found.claim.claims[0]
    return {
        "layout": found.winner.layout,
        "scores": scores,
        "errors": errors,
        "checks": checked,
        "decisions": [
            {"layout": one.layout, "kept": one.kept, "gain": one.gain, "ci": one.ci, "seeds": one.seeds}
            for one in found.decisions
        ],
        "final": claim and {"gain": claim.gain, "ci": claim.ci, "proven": claim.claimed},
        "seconds": round(sum(outcome.seconds for outcome in outcomes.values())),
    }


def rows(lines: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    """A row for each base, for each verdict, and for each final."""
    found = []
    for line in lines:
        base = next(iter(line["scores"]))
        seeds = f"{counted(len(line['scores'][base]), 'seed')} of the base"
        found.append([line["base"], line["way"], base, "", f"{fmean(line['scores'][base]):.2f}", "", "", seeds])
        for one in line["decisions"]:
            error = line["errors"].get(one["layout"])
            scores = line["scores"].get(one["layout"])
            cells = [f"{fmean(error):.2f}" if error else "", f"{fmean(scores):.2f}" if scores else ""]
            verdict = "kept" if one["kept"] else "dropped"
            found.append(["", "", one["layout"], *cells, f"{one['gain']:+.2f}", _interval(one["ci"]), verdict])
        if final := line["final"]:
            verdict = "final, proven" if final["proven"] else "final, not proven"
            found.append(["", "", line["layout"], "", "", f"{final['gain']:+.2f}", _interval(final["ci"]), verdict])
    return found


def table(lines: Iterable[Mapping[str, Any]]) -> str:
    """The rows as text."""
    return "\n".join(aligned([TITLES, *rows(lines)], right=range(3, 7)))


def _interval(ends: Sequence[float]) -> str:
    return " to ".join(f"{end:+.2f}" for end in ends)


def run(*arguments: str) -> None:
    """Run a command of buildup."""
    command = [sys.executable, "-m", "buildup", *arguments]
    if code := subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
        raise SystemExit(f"{' '.join(command)} ended with {code}")


if __name__ == "__main__":
    sys.exit(main())
