"""Whether predictions are as often right as they say (paper.md 8.8)."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from buildup.diagnostics.analysis import Measurement, Subject
from buildup.diagnostics.figures import BLUE, SKY, Figure, Row, Rows, Table, panels_of
from buildup.diagnostics.predictions import measured


class Calibration(Measurement):
    """The accuracy at each confidence, with the scores over all images."""

    name = "calibration"
    title = "Calibration"
    words = "Whether predictions are as often right as they say. ecse below zero: more often."

    def measure(self, subject: Subject, done: Rows) -> Iterator[Rows]:
        """One row a bin of confidence."""
        found = measured(subject.model, subject.labelled())
        yield [
            {**asdict(bin_), **found.values, "accuracy": bin_.accuracy, "points": found.accuracy} for bin_ in found.bins
        ]

    def summary(self, rows: Rows) -> Row:
        """The values over all bins."""
        return {name: rows[0][name] for name in ("points", "nll", "ece", "ecse", "brier")}

    def figure(self, tables: Sequence[Table]) -> Figure:
        figure, panels = panels_of(tables, 3.4, 2.2, rows=2)
        for number, table in enumerate(tables):
            above, below = panels[0][number], panels[1][number]
            held = [row for row in table.rows if row["images"]]
            ece = table.rows[0]["ece"]
            above.plot([0, 1], [0, 1], color="#777777", lw=1, ls="--", label="perfect")
            confidences, accuracies = ([row[name] for row in held] for name in ("confidence", "accuracy"))
            above.plot(confidences, accuracies, "o-", color=BLUE, ms=4, label=f"ECE {ece:.3f}")
            above.set(ylabel="accuracy", title=table.label, xlim=(0, 1), ylim=(0, 1.04))
            above.legend(fontsize=7)
            images = sum(row["images"] for row in table.rows)
            middles = [(row["low"] + row["high"]) / 2 for row in table.rows]
            below.bar(middles, [row["images"] / images for row in table.rows], width=0.09, color=SKY, edgecolor=BLUE)
            below.set(xlabel="confidence", ylabel="share of images", xlim=(0, 1))
        return figure


CALIBRATION = Calibration()
