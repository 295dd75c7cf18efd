import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from buildup.diagnostics.analysis import QUICK, Measurement, Sizes, Subject, labelled_batches, unit_rows
from buildup.diagnostics.figures import Row, Rows, Table, draw_figure
from buildup.diagnostics.hooks import weights_digest
from buildup.diagnostics.measurements import MEASUREMENTS, find_measurements
from buildup.diagnostics.units import find_units
from buildup.engine.analysis.analyze import _finding, run_measurement
from buildup.training.data import load_data
from buildup.training.dataset import Dataset

TINY = Sizes(images=16, hessian_batches=2, landscape_side=3, landscape_images=8, batch_size=8)


@pytest.fixture(scope="module")
def subject(make: Callable[..., nn.Module]) -> Subject:
    model = make("pit_ti_224", img_size=16, in_chans=1).eval()
    digits = load_data("digits")
    some = Dataset(
        name="digits",
        images=digits.images[:16],
        labels=digits.labels[:16],
        class_names=digits.class_names,
        mean=digits.mean,
        std=digits.std,
    )
    batches = tuple((images, nn.functional.one_hot(labels, 10).float()) for images, labels in labelled_batches(some, 8))
    return Subject(
        label="tiny",
        model=model,
        units=find_units(model, torch.zeros(1, 1, 16, 16)),
        images=some,
        train_batches=batches,
        weight_decay=0.05,
        sizes=TINY,
    )


def measure(what: str, subject: Subject) -> list[list[Row]]:
    return go_on(what, subject, [])


def go_on(what: str, subject: Subject, done: Rows) -> list[list[Row]]:
    return [list(part) for part in find(what).measure(subject, done)]


def find(what: str) -> Measurement:
    return find_measurements([what])[0]


@pytest.mark.parametrize("what", MEASUREMENTS)
def test_each_measurement_has_the_parts_it_says_and_a_figure(what: str, subject: Subject) -> None:
    measurement, before = find(what), weights_digest(subject.model)
    found = measure(what, subject)
    assert len(found) == measurement.work(subject)[0]
    rows = [row for part in found for row in part]
    assert len({tuple(row) for row in rows}) == 1, "all rows have the same columns"
    assert all(isinstance(value, str | int | float) for value in measurement.summary(rows).values())
    table = Table(label=subject.label, units=unit_rows(subject.units), rows=rows)
    picture = io.BytesIO()
    draw_figure(measurement.figure, [table, table]).savefig(picture, format="svg")
    assert picture.getvalue().startswith(b"<?xml")
    assert weights_digest(subject.model) == before


@pytest.mark.parametrize("what", ["hessian", "landscape", "lesion", "noise"])
def test_what_takes_long_goes_on_where_it_was_left(what: str, subject: Subject) -> None:
    whole = measure(what, subject)
    assert go_on(what, subject, whole[0]) == whole[1:]


def test_an_interrupted_average_goes_on_with_the_same_draws(subject: Subject) -> None:
    dropped = replace(subject, model=nn.Sequential(subject.model, nn.Dropout(0.3)), mc_dropout=3)
    whole = measure("ensemble", dropped)
    assert [row["passes"] for part in whole for row in part] == [0, 1, 2, 3]
    assert find("ensemble").work(dropped)[0] == 4
    done = [row for part in whole[:2] for row in part]
    assert go_on("ensemble", dropped, done) == whole[2:]
    found = find("ensemble").summary([row for part in whole for row in part])
    assert found["nll, averaged"] == whole[3][0]["nll"]
    assert found["nll"] == measure("calibration", dropped)[0][0]["nll"]


def test_bands_that_small_images_lack_are_left_out(subject: Subject) -> None:
    assert [part[0]["low"] for part in measure("noise", subject)] == [0.05, 0.25, 0.35, 0.45, 0.55, 0.75, 0.85]


@pytest.mark.parametrize("what", ["noise", "corruption", "hessian"])
def test_more_models_than_colours_are_all_drawn(what: str, subject: Subject) -> None:
    rows = [row for part in measure(what, subject) for row in part]
    tables = [Table(label=f"model {number}", units=unit_rows(subject.units), rows=rows) for number in range(8)]
    legends = [axes.get_legend() for axes in draw_figure(find(what).figure, tables).axes]
    assert max(len(legend.get_texts()) for legend in legends if legend) == 8


def test_changes_are_differences_of_accuracies(subject: Subject) -> None:
    removals = [part[0] for part in measure("lesion", subject)]
    assert all(row["change"] == row["accuracy"] - row["intact"] for row in removals)
    bands = [part[0] for part in measure("noise", subject)]
    assert {row["accuracy"] + row["drop"] for row in bands} == {removals[0]["intact"]}


def test_errors_on_corrupted_images_are_shares_and_name_their_source(subject: Subject) -> None:
    rows = [part[0] for part in measure("corruption", subject)]
    clean = measure("calibration", subject)[0][0]["points"]
    assert rows[0]["kind"] == "clean"
    assert rows[0]["error"] == pytest.approx(1 - clean / 100)
    assert {row["source"] for row in rows} == {"generated"}


def test_quick_is_smaller_in_everything() -> None:
    usual = Sizes()
    assert QUICK.images < usual.images
    assert QUICK.hessian_batches < usual.hessian_batches
    assert QUICK.landscape_side < usual.landscape_side
    assert QUICK.landscape_images < usual.landscape_images


def test_steps_are_counted_inside_stages() -> None:
    rows = [
        {"unit": 0, "kind": "stem", "stage": 0, "variance": 5.0},
        {"unit": 1, "kind": "conv", "stage": 1, "variance": 1.0},
        {"unit": 2, "kind": "msa", "stage": 1, "variance": 0.5},
        {"unit": 3, "kind": "conv", "stage": 2, "variance": 9.0},
        {"unit": 4, "kind": "msa", "stage": 2, "variance": 8.0},
    ]
    assert find("variance").summary(rows) == {"mean_step_msa": -0.75}


def test_a_metric_that_one_model_lacks_has_an_empty_cell(subject: Subject, tmp_path: Path) -> None:
    class Uneven(Measurement):
        name, title, caption = "uneven", "Uneven", ""

        def measure(self, subject: Subject, done: Rows) -> Iterator[Rows]:
            yield [{"score": 1.0, **({"confident": 2.0} if subject.label == "second" else {})}]

        def figure(self, tables: Sequence[Table]) -> Figure:
            return Figure()

    subjects = [replace(subject, label=label) for label in ("first", "second")]
    run_measurement(Uneven(), subjects, tmp_path, {})
    assert (tmp_path / "uneven.csv").read_text().split() == ["model,score,confident", "first,1.0,", "second,1.0,2.0"]


def test_models_on_different_images_are_not_said_to_lack_attention(subject: Subject) -> None:
    few = replace(subject.images, images=subject.images.images[:8], labels=subject.images.labels[:8])
    said = _finding(find("hessian"), [subject, replace(subject, label="other", images=few)], {})
    assert said.startswith("No two models have the same images and epoch")
