"""Does attention in a trained network help on other images, and what do new blocks know before they are trained?

    python bench/transfer.py FOLDER --data-dir DIR

trains each base on one half of the classes of CIFAR-100, and searches with these weights on a part of the other half:
with new blocks that first imitate those that they replace (recipe `finetune`), and with new blocks that start at random
(`transplant=0`). A final follows where a block was kept. Each search appends a line to `transfer.jsonl` in the folder,
and what was stopped goes on with the same call. Without `--data-dir` it prints what is known.
"""

import json
import re
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from answer import append_line, read_lines
from buildup.engine.run import open_run
from buildup.report.text_table import aligned
from buildup.trials.outcome import START, Score
from buildup.trials.training import candidate_id

BASES = (
    "resnetv2_18(stem_chs=16,channels=[16,32,64],layers=[2,2,2])",
    "resnetv2_18(stem_chs=16,channels=[16,32,64],layers=[1,1,1])",
    "resnet18(channels=[16,32,64,128])",
)
WAYS = {"imitates": [], "at random": ["--set", "transplant=0"]}
"""How new blocks start, and the flags for it."""
PART, EPOCHS, SEEDS = "1/4", 24, 3
WEIGHTS = "attempt-*/weights.safetensors"
"""Where `buildup train` leaves them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the flags, train and search what is missing, print the table."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the results are, or go")
    parser.add_argument("--data-dir", type=Path, help="where cifar100 is")
    parser.add_argument("--bases", nargs="*", default=BASES, metavar="BASE", help="networks of timm (default: three)")
    given = parser.parse_args(arguments)
    file = given.folder / "transfer.jsonl"
    if given.data_dir:
        halves(given.data_dir, given.folder)
        for base in given.bases:
            for way, flags in WAYS.items():
                if (base, way) not in {(line["base"], line["way"]) for line in read_lines(file)}:
                    append_line(file, {"base": base, "way": way, **searched(given.folder, base, way, flags)})
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
        run("search", "--base", base, *data, *weights, "--seeds", f"{SEEDS}", "--no-base-checks", "--run", f"{target}")
    elif open_run(target).status != "finished":
        run("resume", f"{target}")
    decisions = [json.loads(line) for line in (target / "decisions.jsonl").read_text(encoding="utf-8").splitlines()]
    final = None
    if any(one["verdict"] == "keep" for one in decisions):
        final = run("final", f"{target}", "--seeds", f"{SEEDS}", "--json")["claims"][0]
    return {
        **known(target),
        "decisions": [
            {key: one[key] for key in ("edit", "verdict", "gain", "ci", "seeds", "layout")} for one in decisions
        ],
        "final": final and {key: final[key] for key in ("gain", "ci", "claimed")},
    }


def known(folder: Path) -> dict[str, Any]:
    """Scores and accuracies before training by layout, and the seconds of all trainings."""
    found = open_run(folder)
    layouts = {one.id: one.layout for one in found.candidates}
    scores: dict[str, list[float]] = {}
    starts: dict[str, list[float]] = {}
    for training, outcome in found.history.outcomes.items():
        if isinstance(outcome, Score) and (layout := layouts.get(candidate_id(training))):
            scores.setdefault(layout, []).append(round(outcome.accuracy, 2))
            if START in outcome.metrics:
                starts.setdefault(layout, []).append(round(outcome.metrics[START], 2))
    seconds = sum(outcome.seconds for outcome in found.history.outcomes.values())
    return {"layout": found.winner.layout, "scores": scores, "starts": starts, "seconds": round(seconds)}


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """A row for each verdict."""
    rows = []
    for line in lines:
        for one in line["decisions"]:
            start = fmean(line["starts"].get(one["layout"]) or [0.0])
            ci = " to ".join(f"{end:+.2f}" for end in one["ci"]) if one["ci"] else ""
            mean = f"{fmean(line['scores'][one['layout']]):.2f}" if one["layout"] in line["scores"] else ""
            rows.append(
                (
                    line["base"],
                    line["way"],
                    one["layout"],
                    f"{start:.1f}",
                    mean,
                    f"{one['gain']:+.2f}",
                    ci,
                    one["verdict"],
                )
            )
    titles = ("base", "new blocks", "layout", "before training, %", "accuracy, %", "gain", "90 % CI", "verdict")
    return "\n".join(aligned([titles, *rows], right=range(3, 7)))


def run(*arguments: str) -> dict[str, Any]:
    """Run a command of buildup; what it prints as JSON."""
    command = [sys.executable, "-m", "buildup", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}")
    return dict(json.loads(done.stdout)) if "--json" in arguments else {}


if __name__ == "__main__":
    sys.exit(main())
