"""One point a model: accuracy against robustness, and error against the loss on training images."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from buildup.diagnostics.analysis import Sizes, Subject
from buildup.diagnostics.corruption import CorruptionErrors
from buildup.diagnostics.figures import LOOKS, Rows, Table, draw_figure, looks_of
from buildup.diagnostics.noise import NoiseBands
from buildup.diagnostics.predictions import evaluate, mean_loss
from buildup.diagnostics.robustness import Robustness, TrainingLoss
from buildup.diagnostics.units import find_units
from buildup.training.data import load_data

SIZES = Sizes(images=24, corrupted_images=2, batch_size=12)


@pytest.fixture(scope="module")
def subject(make_alternet: Callable[[str], nn.Module]) -> Subject:
    model, digits = make_alternet("CC|CC|CC|CM"), load_data("digits")
    shown = digits.part(torch.arange(24))
    targets = torch.softmax(torch.randn(32, 10, generator=torch.Generator().manual_seed(0)), 1)
    images = torch.randn(32, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    return Subject(
        label="net",
        model=model,
        units=find_units(model, images[:1]),
        images=shown,
        train_batches=((images[:16], targets[:16]), (images[16:], targets[16:])),
        weight_decay=0.0,
        sizes=SIZES,
    )


def test_a_point_is_the_mean_of_the_two_measurements_and_goes_on_after_a_stop(subject: Subject) -> None:
    robustness = Robustness()
    parts = [list(part) for part in robustness.measure(subject, [])]
    rows = [row for part in parts for row in part]
    assert len(parts) == robustness.work(subject)[0]
    found = robustness.summary(rows)
    last: Rows = [{}] * 72  # the first ones take seconds
    corrupted = [row for part in CorruptionErrors().measure(subject, last) for row in part]
    noisy = [row for part in NoiseBands().measure(subject, []) for row in part]
    assert found["accuracy_clean"] == evaluate(subject.model, subject.labelled_batches()).accuracy
    ours = [row["accuracy"] for row in rows if row["corrupted_by"] == "corruption"]
    accuracies = [row["accuracy"] for row in noisy]
    assert ours[72:] == pytest.approx([100 - 100 * row["error"] for row in corrupted])
    assert found["accuracy_corruption"] == pytest.approx(sum(ours[1:]) / 75)  # the first is clean
    assert found["accuracy_noise"] == pytest.approx(sum(accuracies) / len(accuracies))
    # The corruptions are of 2 images here, so they are compared with the accuracy on those.
    untouched = next(row["accuracy"] for row in rows if row["how"] == "clean 0")
    figure = robustness.figure([Table(label="net", units=[], rows=rows)])
    across = [np.asarray(line.get_xdata())[0] for axes in figure.axes for line in axes.lines]
    assert across == [untouched, found["accuracy_clean"]]
    published = [row for row in rows if row["how"] != "clean 0"]  # their files have corrupted images only
    robustness.figure([Table(label="net", units=[], rows=published)])
    left = [row for part in robustness.measure(subject, rows[:-2]) for row in part]
    assert left == rows[-2:]


class Constant(nn.Module):
    """The same logits for every image."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits.expand(len(images), -1)


def test_the_loss_of_constant_logits_is_the_cross_entropy_of_the_mean_target(subject: Subject) -> None:
    logits = torch.randn(10, generator=torch.Generator().manual_seed(2))
    targets = torch.cat([targets for _, targets in subject.train_batches])
    expected = -(targets.double().mean(0) * logits.double().log_softmax(0)).sum()
    assert mean_loss(Constant(logits), subject.train_batches) == pytest.approx(expected.item(), rel=1e-6)
    # Batches of unequal sizes count by their images.
    uneven = [(images[:3], some[:3]) for images, some in subject.train_batches[:1]] + [subject.train_batches[1]]
    weighted = torch.cat([some for _, some in uneven]).double().mean(0)
    assert mean_loss(Constant(logits), uneven) == pytest.approx(
        -(weighted * logits.double().log_softmax(0)).sum().item(), rel=1e-6
    )


def test_error_and_loss_stand_side_by_side(subject: Subject) -> None:
    (part,) = TrainingLoss().measure(subject, [])
    row = part[0]
    assert row["error"] == 100 - evaluate(subject.model, subject.labelled_batches()).accuracy
    assert row["training_nll"] == mean_loss(subject.model, subject.train_batches[:1])  # 24 images hold one batch of 16
    assert row["training_images"] == 16
    assert TrainingLoss().summary(part) == row


def test_any_number_of_models_is_drawn_and_36_look_different() -> None:
    tables = [
        Table(label=f"net {number}", units=(), rows=[{"training_nll": 1.0 + number, "error": 20.0 + number}])
        for number in range(40)
    ]
    figure = draw_figure(TrainingLoss().figure, tables)
    assert len(figure.axes[0].lines) == 40
    assert len({(colour, marker) for _, colour, marker in looks_of(tables)}) == len(set(LOOKS)) == 36
