"""When does attention pay: with width, long training, many images or strong augmentation?

    python bench/factors.py FOLDER --data-dir DIR

trains a small ResNet on CIFAR-100 without attention, with it at the end of the last stage, and with it at the end of
the stage before. Each of four factors has a low and a high level. Half of their 16 combinations are trained, chosen so
that the effect of a factor is mixed neither with that of another nor with that of two together. All trainings of a
combination and seed share images, order and draws. Each training appends a line to `factors.jsonl` in the folder, so
the same call continues; started twice, it uses two cores. Without `--data-dir` it prints what is known.

The gains of a place over all combinations are a sum of their mean, of one effect a factor, and of noise. An effect is
the gain at the high level minus that at the low one.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from answer import answer, append_line, read_lines
from buildup.engine.problems import Problems
from buildup.engine.train import train_once
from buildup.report.text_table import aligned
from buildup.settings import TrainSettings
from buildup.statistics.distributions import t_quantile

LAYOUTS = {"none": "CC|CC", "last stage": "CC|CM", "stage before": "CM|CC"}
FACTORS: Mapping[str, tuple[str, str]] = {
    "width": ("16 to 64 channels", "32 to 128 channels"),
    "length": ("6 epochs of all images", "24 epochs of all images"),
    "images": ("9,000 images", "36,000 images"),
    "augmentation": ("crop and flip", "also RandAugment, mixup, cutmix"),
}
"""The levels of each factor, as a reader is told of them."""
BASES = (
    "resnetv2_18(stem_chs=16,channels=[16,32,64],layers=[0,2,2])",
    "resnetv2_18(stem_chs=32,channels=[32,64,128],layers=[0,2,2])",
)
SHARES, EPOCHS = ("1/5", "4/5"), (6, 24)
STRONG = ("randaugment={magnitude: 9, layers: 2, std: 1.0}", "mixup=1.0", "cutmix=0.8")
"""As in the recipe `paper`."""
EXECUTION = "bf16,channels-last,eager"
LEVEL = 0.95
Cell = Mapping[str, bool]
"""Whether each factor is at its high level."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the flags, train what is missing, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", help="where the results are, or go")
    parser.add_argument("--data-dir", metavar="DIR", help="where cifar100 is")
    parser.add_argument("--seeds", metavar="N", help="of each combination (default: 1)")
    return answer(parser, factors, arguments)


def factors(flags: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Train what is missing; the tables of all as text and as values."""
    problems = Problems()
    seeds = problems.whole("--seeds", flags["seeds"], 1)
    problems.raise_any()
    folder = Path(flags["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    if flags["data_dir"]:
        for seed, place, cell in wanted(seeds):
            train(folder, flags["data_dir"], cell, place, seed)
    values = summary(read_lines(folder / "factors.jsonl"))
    return table(values), values


def cells() -> list[Cell]:
    """Half of all combinations: those with an even number of low levels, cheap trainings first."""
    found = [dict(zip(FACTORS, levels, strict=True)) for levels in product((False, True), repeat=len(FACTORS))]
    half = [cell for cell in found if sum(cell.values()) % 2 == 0]
    return sorted(half, key=lambda cell: (cell["length"], cell["width"]))


def wanted(seeds: int) -> Iterator[tuple[int, str, Cell]]:
    """All trainings: each seed and place of each combination."""
    for seed in range(seeds):
        for cell in cells():
            for place in LAYOUTS:
                yield seed, place, cell


def train(folder: Path, data_dir: str, cell: Cell, place: str, seed: int) -> None:
    """Train once and write it down, unless that is done or another process is at it."""
    name = "-".join(["".join("lh"[high] for high in cell.values()), place.replace(" ", "-"), str(seed)])
    file = folder / "factors.jsonl"
    key = {"cell": dict(cell), "place": place, "seed": seed}
    try:
        with FileLock(folder / f"{name}.lock", timeout=0):
            if any({part: line[part] for part in key} == key for line in read_lines(file)):
                return
            values = trained(cell, LAYOUTS[place], seed, data_dir, folder / name)
            with FileLock(folder / "factors.lock"):
                append_line(file, key | values)
            print(f"{name}: {values['accuracy']:.2f} %", file=sys.stderr, flush=True)
    except Timeout:
        return


def trained(cell: Cell, layout: str, seed: int, data_dir: str, to: Path) -> dict[str, Any]:
    """What one training came to."""
    share = SHARES[cell["images"]]
    passes = EPOCHS[cell["length"]] * (1 if cell["images"] else 4)
    settings = TrainSettings(
        dataset="cifar100",
        data_dir=data_dir,
        fraction=share,
        layout=layout,
        recipe="quick",
        set=STRONG if cell["augmentation"] else (),
        epochs=passes,
        seed=seed,
        threads=1,
        execution=EXECUTION,
        to=str(to),
    )
    done = train_once(BASES[cell["width"]], settings)
    last = done.record.curve[-1].metrics
    return {
        "accuracy": round(done.score.accuracy, 2),
        "nll": round(last["nll"], 4),
        "train_loss": round(last["train_loss"], 4),
        "images_per_second": round(last["throughput"]),
        "seconds": round(done.score.seconds),
    }


def summary(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The gain of each place in each combination, and the effects of the factors on it."""
    scores = {(_levels(line["cell"]), line["place"], line["seed"]): line for line in lines}
    found = {}
    for place in list(LAYOUTS)[1:]:
        gains = [
            {"cell": line["cell"], "seed": seed, "base": base["accuracy"], "gain": line["accuracy"] - base["accuracy"]}
            for (levels, one, seed), line in scores.items()
            if one == place and (base := scores.get((levels, "none", seed)))
        ]
        found[place] = {"gains": gains, "effects": effects([(one["cell"], one["gain"]) for one in gains])}
    return {"trainings": len(lines), "places": found}


def effects(gains: Sequence[tuple[Cell, float]]) -> list[dict[str, Any]]:
    """The mean gain and the effect of each factor, each with the half of its interval, by least squares.

    >>> gains = [(cell, 2.0 + 3.0 * cell["width"]) for cell in cells()]
    >>> [(row["name"], round(row["effect"], 6)) for row in effects(gains)][:3]
    [('mean', 3.5), ('width', 3.0), ('length', 0.0)]
    """
    if len(gains) <= len(FACTORS) + 1:
        return []
    design = np.array([[1.0, *(0.5 if cell[name] else -0.5 for name in FACTORS)] for cell, _ in gains])
    values = np.array([gain for _, gain in gains])
    if np.linalg.matrix_rank(design) < design.shape[1]:
        return []
    solved = np.linalg.lstsq(design, values)[0]
    freedom = len(gains) - design.shape[1]
    noise = float(np.sum((values - design @ solved) ** 2)) / freedom
    errors = np.sqrt(noise * np.diag(np.linalg.inv(design.T @ design)))
    half = t_quantile(freedom, (1 + LEVEL) / 2) * errors
    names = ["mean", *FACTORS]
    return [{"name": name, "effect": float(solved[i]), "half": float(half[i])} for i, name in enumerate(names)]


def table(values: Mapping[str, Any]) -> str:
    """The summary for a terminal."""
    parts = [f"{values['trainings']} trainings."]
    for place, found in values["places"].items():
        rows = [["attention in the", *FACTORS, "seed", "without, %", "gain"]]
        for one in found["gains"]:
            levels = ["high" if one["cell"][name] else "low" for name in FACTORS]
            rows.append([place, *levels, f"{one['seed']}", f"{one['base']:.2f}", f"{one['gain']:+.2f}"])
        parts.append("\n".join(aligned(rows, right=range(5, 8))))
        rows = [["effect on it", "points", "95 % interval"]]
        for one in found["effects"]:
            low, high = one["effect"] - one["half"], one["effect"] + one["half"]
            rows.append([one["name"], f"{one['effect']:+.2f}", f"{low:+.2f} to {high:+.2f}"])
        parts.append("\n".join(aligned(rows, right={1})))
    return "\n\n".join(parts)


def _levels(cell: Cell) -> tuple[bool, ...]:
    return tuple(cell[name] for name in FACTORS)


if __name__ == "__main__":
    sys.exit(main())
