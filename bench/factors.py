"""When does attention pay: with width, long training, many images or strong augmentation? And would less have told?

    python bench/factors.py FOLDER --data-dir DIR

trains a small ResNet on CIFAR-100 without attention, with it at the end of the last stage, and with it at the end of
the stage before. Each of four factors has a low and a high level. Half of their 16 combinations are trained, chosen so
that the effect of a factor is mixed neither with that of another nor with that of two together. All trainings of a
combination and seed share images, order and draws. Each training appends a line to `factors.jsonl` in the folder, so
the same call continues; started twice, it uses two cores. Without `--data-dir` it prints what is known.

The gains of a place over all combinations are a sum of their mean, of one effect a factor, and of noise. An effect is
the gain at the high level minus that at the low one.

`--warm` then trains each network once more for a third of the epochs, from the trained weights of its combination
without attention. A new block first imitates the block that it replaces. If these gains order the places as those from
scratch do, a search could be three times as cheap. Their lines go to `warm.jsonl`.

`--why` trains the long combinations otherwise, to see what decides there: with a third more heads, so that attention
has as many parameters as the block that it replaces (`larger.jsonl`), and with AdamW in place of SGD (`adamw.jsonl`).
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise, product
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from answer import answer, append_line, read_lines
from buildup.engine.problems import Problems
from buildup.engine.train import train_once
from buildup.report.text_table import aligned
from buildup.settings import TrainSettings
from buildup.statistics.distributions import t_quantile
from buildup.statistics.kendall import kendall
from buildup.store.run_dir import trained_weights

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
WARM, IMITATION = 3, "transplant=0.1"
"""A warm start trains for so small a part of the epochs, of which new blocks imitate for a tenth."""
LARGER_HEADS = (4, 8)
"""In narrow and wide bases, where the rule gives 3 and 6."""
EXECUTION = "bf16,channels-last,eager"
LEVEL = 0.95
Cell = Mapping[str, bool]
"""Whether each factor is at its high level."""
Line = Mapping[str, Any]
"""What a result file tells of one training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to make the trainings of the combinations."""

    name: str
    """Of its result file."""
    places: tuple[str, ...] = tuple(LAYOUTS)
    long_only: bool = False
    warm: bool = False
    larger: bool = False
    recipe: str = "quick"


SCRATCH = Variant(name="factors")
WARM_START = Variant(name="warm", warm=True)
LARGER = Variant(name="larger", places=("last stage",), long_only=True, larger=True)
ADAMW = Variant(name="adamw", places=("none", "last stage"), long_only=True, recipe="quick-adamw")


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the flags, train what is missing, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", help="where the results are, or go")
    parser.add_argument("--data-dir", metavar="DIR", help="where cifar100 is")
    parser.add_argument("--seeds", metavar="N", help="of each combination (default: 1)")
    parser.add_argument("--warm", action="store_true", help="train on from the weights without attention, too")
    parser.add_argument("--why", action="store_true", help="train larger attention, and by AdamW, too")
    return answer(parser, factors, arguments)


def factors(flags: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Train what is missing; the tables of all as text and as values."""
    problems = Problems()
    seeds = problems.whole("--seeds", flags["seeds"], 1)
    problems.raise_any()
    folder = Path(flags["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    if flags["data_dir"]:
        for variants in ([SCRATCH], [WARM_START] * flags["warm"], [LARGER, ADAMW] * flags["why"]):
            for seed, cell in product(range(seeds), cells()):
                for variant, place in wanted(cell, variants):
                    train(folder, flags["data_dir"], cell, place, seed, variant)
    values = summary(*(read_lines(folder / f"{one.name}.jsonl") for one in (SCRATCH, WARM_START, LARGER, ADAMW)))
    return table(values), values


def cells() -> list[Cell]:
    """Half of all combinations: those with an even number of low levels, cheap trainings first."""
    found = [dict(zip(FACTORS, levels, strict=True)) for levels in product((False, True), repeat=len(FACTORS))]
    half = [cell for cell in found if sum(cell.values()) % 2 == 0]
    return sorted(half, key=lambda cell: (cell["length"], cell["width"]))


def wanted(cell: Cell, variants: Sequence[Variant]) -> Iterator[tuple[Variant, str]]:
    """The trainings of a combination."""
    for variant in variants:
        if cell["length"] or not variant.long_only:
            for place in variant.places:
                yield variant, place


def train(folder: Path, data_dir: str, cell: Cell, place: str, seed: int, variant: Variant) -> None:
    """Train once and write it down, unless that is done or another process is at it."""
    name = _name(cell, place, seed) if variant is SCRATCH else f"{variant.name}-{_name(cell, place, seed)}"
    file = folder / f"{variant.name}.jsonl"
    key = {"cell": dict(cell), "place": place, "seed": seed}
    weights = trained_weights(folder / _name(cell, "none", seed)) if variant.warm else None
    if variant.warm and weights is None:
        return
    try:
        with FileLock(folder / f"{name}.lock", timeout=0):
            if any({part: line[part] for part in key} == key for line in read_lines(file)):
                return
            settings = settings_of(cell, place, seed, variant, folder, weights)
            values = trained(BASES[cell["width"]], replace(settings, data_dir=data_dir, to=str(folder / name)))
            with FileLock(folder / "factors.lock"):
                append_line(file, key | values)
            print(f"{name}: {values['accuracy']:.2f} %", file=sys.stderr, flush=True)
    except Timeout:
        return


def settings_of(
    cell: Cell, place: str, seed: int, variant: Variant, folder: Path, weights: Path | None = None
) -> TrainSettings:
    """What one training is asked for: from scratch, or from weights of the network without attention."""
    passes = EPOCHS[cell["length"]] * (1 if cell["images"] else 4)
    space = "alternet"
    if variant.larger:
        heads = LARGER_HEADS[cell["width"]]
        file = folder / f"heads-{heads}.yaml"
        file.write_text(f"description: attention of {heads} heads\nstages: [{{}}, {{heads: {heads}}}]\n")
        space = str(file)
    return TrainSettings(
        dataset="cifar100",
        fraction=SHARES[cell["images"]],
        layout=LAYOUTS[place],
        space=space,
        recipe=variant.recipe,
        set=(STRONG if cell["augmentation"] else ()) + ((IMITATION,) if weights else ()),
        epochs=passes // WARM if weights else passes,
        pretrained=str(weights.absolute()) if weights else None,
        seed=seed,
        threads=1,
        execution=EXECUTION,
    )


def trained(base: str, settings: TrainSettings) -> dict[str, Any]:
    """What one training came to."""
    done = train_once(base, settings)
    last = done.record.curve[-1].metrics
    return {
        "accuracy": round(done.score.accuracy, 2),
        "curve": [round(epoch.metrics["accuracy"], 2) for epoch in done.record.curve],
        "nll": round(last["nll"], 4),
        "train_loss": round(last["train_loss"], 4),
        "images_per_second": round(last["throughput"]),
        "seconds": round(done.score.seconds),
    }


def summary(
    lines: Sequence[Line], warm: Sequence[Line] = (), larger: Sequence[Line] = (), adamw: Sequence[Line] = ()
) -> dict[str, Any]:
    """The gain of each place in each combination, the effects of the factors on it, and what the variants tell."""
    started = {(one["group"], one["place"]): one["gain"] for one in gains(warm)}
    rows = [one | {"warm": started.get((one["group"], one["place"]))} for one in gains(lines)]
    found: dict[str, Any] = {"trainings": len(lines), "places": {}, "warm": {}, "why": why(lines, larger, adamw)}
    for place in list(LAYOUTS)[1:]:
        here = [one for one in rows if one["place"] == place]
        found["places"][place] = {"gains": here, "effects": effects([(one["cell"], one["gain"]) for one in here])}
    both = [one for one in rows if one["warm"] is not None]
    groups = [one["group"] for one in both]
    if len(set(groups)) < len(groups):  # some combination has both places
        agreement = kendall([one["gain"] for one in both], [one["warm"] for one in both], LEVEL, groups=groups)
        signs = sum((one["gain"] > 0) == (one["warm"] > 0) for one in both)
        found["warm"] = {"gains": len(both), "same_sign": signs, **asdict(agreement)}
    return found


def why(lines: Sequence[Line], larger: Sequence[Line], adamw: Sequence[Line]) -> list[dict[str, Any]]:
    """The gain at the end of the last stage as it is, with more heads, and with AdamW, in each long combination."""
    bases = [line for line in lines if line["place"] == "none"]
    more = {one["group"]: one for one in gains([*bases, *larger])}
    other = {one["group"]: one for one in gains(adamw)}
    return [
        {"cell": one["cell"], "seed": one["seed"], "base": one["base"], "gain": one["gain"]}
        | {"larger": more[group]["gain"] if group in more else None}
        | {f"adamw_{key}": other[group][key] if group in other else None for key in ("base", "gain")}
        for one in gains(lines)
        if one["place"] == "last stage" and ((group := one["group"]) in more or group in other)
    ]


def gains(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Each place's accuracy above that without attention, of the same combination and seed."""
    bases = {_group(line): line for line in lines if line["place"] == "none"}
    return [
        {"group": _group(line), "cell": line["cell"], "seed": line["seed"], "place": line["place"]}
        | {"base": base["accuracy"], "gain": line["accuracy"] - base["accuracy"], "leads": leads(line, base)}
        for line in lines
        if line["place"] != "none" and (base := bases.get(_group(line)))
    ]


def leads(line: Line, base: Line) -> list[float]:
    """The mean lead over the base in each quarter of the training.

    >>> leads({"curve": [10, 20, 30, 40]}, {"curve": [8, 19, 30, 41]})
    [2.0, 1.0, 0.0, -1.0]
    """
    gaps = [ours - theirs for ours, theirs in zip(line["curve"], base["curve"], strict=True)]
    ends = [part * len(gaps) // 4 for part in range(5)]
    return [fmean(gaps[start:end]) for start, end in pairwise(ends) if end > start]


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
    warm = values["warm"]
    for place, found in values["places"].items():
        rows = [["attention in the", *FACTORS, "seed", "without, %", "gain", "gain, warm start"]]
        for one in found["gains"]:
            levels = ["high" if one["cell"][name] else "low" for name in FACTORS]
            numbers = [f"{one['seed']}", f"{one['base']:.2f}", f"{one['gain']:+.2f}"]
            rows.append([place, *levels, *numbers, "" if one["warm"] is None else f"{one['warm']:+.2f}"])
        parts.append("\n".join(aligned(rows, right=range(5, 9))))
        rows = [["effect on it", "points", "95 % interval"]]
        for one in found["effects"]:
            low, high = one["effect"] - one["half"], one["effect"] + one["half"]
            rows.append([one["name"], f"{one['effect']:+.2f}", f"{low:+.2f} to {high:+.2f}"])
        parts.append("\n".join(aligned(rows, right={1})))
    if values["why"]:
        rows = [[*FACTORS, "seed", "without, %", "gain", "gain, larger", "AdamW: without, %", "gain"]]
        for one in values["why"]:
            levels = ["high" if one["cell"][name] else "low" for name in FACTORS]
            rest = [("+.2f", "gain"), ("+.2f", "larger"), (".2f", "adamw_base"), ("+.2f", "adamw_gain")]
            numbers = ["" if one[key] is None else format(one[key], form) for form, key in rest]
            rows.append([*levels, f"{one['seed']}", f"{one['base']:.2f}", *numbers])
        parts.append("\n".join(aligned(rows, right=range(4, 10))))
    if warm:
        parts.append(
            f"Warm starts: {warm['same_sign']} of {warm['gains']} gains have the same sign; Kendall's tau within "
            f"combinations {warm['tau']:+.2f}, 95 % interval {warm['low']:+.2f} to {warm['high']:+.2f}."
        )
    return "\n\n".join(parts)


def _name(cell: Cell, place: str, seed: int) -> str:
    return "-".join([_levels(cell), place.replace(" ", "-"), str(seed)])


def _group(line: Line) -> str:
    """Of the trainings that share images, order and draws."""
    return f"{_levels(line['cell'])}-{line['seed']}"


def _levels(cell: Cell) -> str:
    return "".join("lh"[cell[name]] for name in FACTORS)


if __name__ == "__main__":
    sys.exit(main())
