"""What makes the scores of two trainings of one network more alike: averaged weights, averaged views, or the losses.

Trains pairs: one network twice, on the same images and validated on the same images, with different seeds. Each
training is scored in all the ways at once, so that the ways are compared on the same trainings. The trainings are kept
in a file of JSON lines; a further call trains those that it lacks.
"""

import argparse
import base64
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from answer import answer, append_line, read_lines
from buildup.engine.problems import Problems
from buildup.report.text_table import aligned
from score_ways import BASE, PLAIN, TASKS, train

DRAWS = 4000
"""Of the bootstrap over pairs."""

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """One training, scored in one way."""

    accuracy: float
    nll: float
    correct: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """One training, scored in all ways."""

    scores: Mapping[str, Scored]
    losses: Values
    """Of the images, by the plain score."""


Pair = tuple[Trained, Trained]


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the flags, train what is missing, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="where the trainings are kept, as JSON lines")
    parser.add_argument("--pairs", metavar="N", help="of each kind; 0 to train no more (default: 20)")
    parser.add_argument("--data-dir", metavar="DIR", help="the folder of the datasets")
    return answer(parser, score_noise, arguments)


def score_noise(flags: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Train the missing trainings of the pairs, and compare the ways to score them, as text and as values."""
    problems = Problems()
    pairs = problems.whole("--pairs", flags["pairs"], 20, least=0, most=1000)
    problems.raise_any()
    path: Path = flags["file"]
    lines = read_lines(path)
    done = {(line["task"], line["seed"]) for line in lines}
    torch.set_num_threads(1)
    # All kinds in turn, so that an interrupted study has as many pairs of each.
    for seed in range(2 * pairs):
        for task in TASKS:
            if (task.name, seed) not in done:
                lines.append(train(task, seed, flags["data_dir"]))
                append_line(path, lines[-1])
    found = {task.name: paired for task in TASKS if len(paired := read_pairs(lines, task.name)) > 2}
    rows = [row for name, paired in found.items() for row in compare(name, paired)]
    controls = [control(name, paired) for name, paired in found.items()]
    return _text(rows, controls), {"base": BASE, "ways": rows, "control_variate": controls}


def read_pairs(lines: Sequence[Mapping[str, Any]], task: str) -> list[Pair]:
    """The complete pairs of a kind: trainings with seeds 2n and 2n + 1."""
    trained = {line["seed"]: _trained(line) for line in lines if line["task"] == task}
    return [(trained[seed], trained[seed + 1]) for seed in sorted(trained) if seed % 2 == 0 and seed + 1 in trained]


def _trained(line: Mapping[str, Any]) -> Trained:
    def bits(text: str) -> npt.NDArray[np.bool_]:
        packed = np.frombuffer(base64.b64decode(text), np.uint8)
        return np.unpackbits(packed, count=line["images"]).astype(bool)

    return Trained(
        scores={
            name: Scored(accuracy=one["accuracy"], nll=one["nll"], correct=bits(one["correct"]))
            for name, one in line["scores"].items()
        },
        losses=np.frombuffer(base64.b64decode(line["losses"]), "<f2").astype(np.float64),
    )


def compare(task: str, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Each way to score the pairs of a kind, beside the plain one. Intervals are of 95 %, from resampled pairs."""
    ways, slope = list(pairs[0][0].scores), loss_slope(pairs)
    accuracy = {way: np.array([np.mean([one.scores[way].accuracy for one in pair]) for pair in pairs]) for way in ways}
    loss = {way: np.array([np.mean([100 * one.scores[way].nll for one in pair]) for pair in pairs]) for way in ways}
    # A way is also a treatment with a true effect, which a control by the loss should leave as it is.
    gains = {way: np.array([accuracy[way] - accuracy[PLAIN], loss[way] - loss[PLAIN]]) for way in ways}
    disagreement = {way: np.array([100 * disagreeing(pair, way).mean() for pair in pairs]) for way in ways}
    squares = {way: np.square([gain(pair, way) for pair in pairs]) for way in ways}
    chosen = np.random.default_rng(0).integers(len(pairs), size=(DRAWS, len(pairs)))
    return [
        {
            "task": task,
            "pairs": len(pairs),
            "way": way,
            "accuracy": float(accuracy[way].mean()),
            "accuracy_gain": _interval(gains[way][0][chosen].mean(1)),
            "loss": float(loss[way].mean()),
            "controlled_gain": _interval((gains[way][0] - slope * gains[way][1])[chosen].mean(1)),
            "disagreement": float(disagreement[way].mean()),
            "disagreement_ratio": _ratio(disagreement[way], disagreement[PLAIN], chosen),
            # The mean difference of two trainings of one network is zero, so none is estimated.
            "deviation": float(np.sqrt(squares[way].mean())),
            "variance_ratio": _ratio(squares[way], squares[PLAIN], chosen),
        }
        for way in ways
    ]


def disagreeing(pair: Pair, way: str) -> npt.NDArray[np.bool_]:
    """The images that exactly one of the trainings has right."""
    return np.not_equal(*(trained.scores[way].correct for trained in pair))


def gain(pair: Pair, way: str) -> float:
    """The accuracy of the first training over that of the second, in points."""
    return pair[0].scores[way].accuracy - pair[1].scores[way].accuracy


def control(task: str, pairs: Sequence[Pair]) -> dict[str, Any]:
    """What is left of the variance of a difference in accuracy beside that in loss, by a slope from the other pairs."""
    accuracies, losses = _differences(pairs)
    chosen = np.random.default_rng(0).integers(len(pairs), size=(DRAWS, len(pairs)))
    hits = [
        _centred(one.scores[PLAIN].correct - other.scores[PLAIN].correct.astype(np.float64)) for one, other in pairs
    ]
    nats = [_centred(one.losses - other.losses) for one, other in pairs]
    products = np.array([[hit @ nat, nat @ nat] for hit, nat in zip(hits, nats, strict=True)])
    slopes = [np.divide(*(products.sum(0) - own)) for own in products]
    left = np.array([np.var(hit - slope * nat) for hit, nat, slope in zip(hits, nats, slopes, strict=True)])
    return {
        "task": task,
        "pairs": len(pairs),
        "points_per_centinat": loss_slope(pairs),
        "trainings_ratio": _ratio(residuals(accuracies, losses) ** 2, accuracies**2, chosen),
        "images_ratio": _ratio(left, np.array([np.var(hit) for hit in hits]), chosen),
    }


def loss_slope(pairs: Sequence[Pair]) -> float:
    """Points of accuracy for a centinat of loss, between trainings of one network."""
    accuracies, losses = _differences(pairs)
    return float(accuracies @ losses / (losses @ losses))


def _differences(pairs: Sequence[Pair]) -> tuple[Values, Values]:
    """In accuracy, in points, and in loss, in centinats, by the plain score."""
    losses = [100 * (one.scores[PLAIN].nll - other.scores[PLAIN].nll) for one, other in pairs]
    return np.array([gain(pair, PLAIN) for pair in pairs]), np.array(losses)


def residuals(outcomes: Values, controls: Values) -> Values:
    """Outcomes less what their controls predict, by a slope without intercept from all other pairs."""
    products, squares = outcomes * controls, controls**2
    slopes = (products.sum() - products) / (squares.sum() - squares)
    left: Values = outcomes - slopes * controls
    return left


def _centred(values: Values) -> Values:
    centred: Values = values - values.mean()
    return centred


def _ratio(ours: Values, plain: Values, chosen: npt.NDArray[np.int64]) -> tuple[float, float, float]:
    """A ratio of means with its interval."""
    above, below = ours[chosen].mean(1), plain[chosen].mean(1)
    drawn = above[below > 0] / below[below > 0]  # a draw of equal pairs alone has no ratio
    return (float(ours.mean() / plain.mean()), *_interval(drawn))


def _interval(drawn: Values) -> tuple[float, float]:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def _text(rows: Sequence[Mapping[str, Any]], controls: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "Fewer than three pairs of each kind: nothing to compare."
    return "\n".join([*_ways(rows), "", *_controls(controls)])


def _ways(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    head = ["task", "pairs", "way", "accuracy", "over plain", "less loss"]
    head += ["disagree", "ratio", "", "deviation", "variance", ""]
    table = [
        [
            row["task"],
            f"{row['pairs']}",
            row["way"],
            f"{row['accuracy']:.2f}",
            *("{:+.2f} to {:+.2f}".format(*row[name]) for name in ("accuracy_gain", "controlled_gain")),
            f"{row['disagreement']:.2f}",
            *_shown(row["disagreement_ratio"]),
            f"{row['deviation']:.2f}",
            *_shown(row["variance_ratio"]),
        ]
        for row in rows
    ]
    yield from aligned([head, *table])


def _controls(controls: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "What is left of the variance of a difference in accuracy beside the difference in loss:"
    head = ["task", "pairs", "points a centinat", "of trainings", "", "of images", ""]
    table = [
        [
            row["task"],
            f"{row['pairs']}",
            f"{row['points_per_centinat']:.3f}",
            *_shown(row["trainings_ratio"]),
            *_shown(row["images_ratio"]),
        ]
        for row in controls
    ]
    yield from aligned([head, *table])


def _shown(ratio: tuple[float, float, float]) -> tuple[str, str]:
    return f"{ratio[0]:.2f}", f"{ratio[1]:.2f} to {ratio[2]:.2f}"


if __name__ == "__main__":
    sys.exit(main())
