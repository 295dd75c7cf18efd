"""Every measurement on a CUDA device, a fake one: no tensors of two devices meet, and the numbers are the CPU's."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import cache, partial
from itertools import islice
from typing import Any

import pytest
import torch
from torch import nn

from buildup.diagnostics import hessian
from buildup.diagnostics.analysis import QUICK, labelled_batches
from buildup.diagnostics.figures import Rows
from buildup.diagnostics.hessian import augmented_batches, batch_eigenvalues
from buildup.diagnostics.hooks import weights_digest
from buildup.diagnostics.landscape import directions, landscape, runs_in_parallel
from buildup.diagnostics.lesion import measure_blocks
from buildup.diagnostics.measurements import MEASUREMENTS
from buildup.diagnostics.predictions import evaluate
from buildup.engine.analysis.subjects import AnalyzedModel, make_subject
from buildup.graph.network import Network
from buildup.models.build import build
from buildup.models.dropout import add_dropout
from buildup.models.read import read_network
from buildup.space.load import load
from buildup.strategies.moves import from_layout
from buildup.training.data import load_data
from buildup.training.dataset import split
from buildup.training.feed import on_device
from buildup.training.recipe import load_recipe
from fake_cuda import fake_cuda

SIZES = replace(
    QUICK, images=12, hessian_batches=1, landscape_side=2, landscape_images=16, corrupted_images=4, batch_size=8
)
PARTS = 3
"""The most parts of a measurement that are compared."""
RANDOM = {"ensemble"}
"""Those that draw on the device, whose numbers are its own."""


@pytest.fixture(autouse=True)
def few_products(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(hessian, "batch_eigenvalues", partial(batch_eigenvalues, most_products=6))
    on_device.cache_clear()
    yield
    on_device.cache_clear()


@cache
def alternet(layout: str = "C|CM|CG") -> Network:
    narrow = {"channels": [8, 8, 8], "stem_chs": 8, "layers": [1, 2, 2]}
    start = read_network("resnetv2_18", input_shape=(1, 16, 16), num_classes=10, base_args=narrow)
    return from_layout(layout, start, load("alternet"))


def shaken(network: Network) -> nn.Module:
    model = build(network, seed=0)
    add_dropout(model, network, 0.3)
    generator = torch.default_generator.__class__().manual_seed(0)
    for weight in model.parameters():
        weight.data += 0.05 * torch.randn(weight.shape, generator=generator)
    return model


def measured(name: str, device: str, network: Network) -> Rows:
    """The rows of the first parts of a measurement."""
    measurement = MEASUREMENTS[name]
    found = AnalyzedModel(
        label="it", model=shaken(network), recipe=load_recipe("paper"), dataset="digits", data_dir=None, image_size=16
    )
    subject = replace(make_subject(found, SIZES, [measurement], 0, torch.device(device)), mc_dropout=2)
    assert {images.device.type for images in subject.batches()} == {device.partition(":")[0]}
    before = weights_digest(subject.model)
    rows = [row for part in islice(measurement.measure(subject, []), PARTS) for row in part]
    assert weights_digest(subject.model) == before
    return rows


def compared(name: str, network: Network) -> None:
    plain = measured(name, "cpu", network)
    with fake_cuda(2):
        on_cuda = measured(name, "cuda:1", network)
    assert [list(row) for row in on_cuda] == [list(row) for row in plain]
    for ours, theirs in zip(on_cuda, plain, strict=True):
        for column, value in theirs.items():
            if isinstance(value, float) and name not in RANDOM:
                assert ours[column] == pytest.approx(value, rel=1e-3, abs=1e-3), (column, ours)


@pytest.mark.parametrize("name", list(MEASUREMENTS))
def test_each_measurement_runs_on_the_device_with_the_numbers_of_the_cpu(name: str) -> None:
    compared(name, alternet())


def test_points_of_a_landscape_are_measured_together_where_vmap_can() -> None:
    image = torch.zeros(1, 1, 16, 16)
    assert runs_in_parallel(shaken(alternet("C|CC|CC")), image)
    assert not runs_in_parallel(shaken(alternet("C|CM|CG")), image)
    compared("landscape", alternet("C|CC|CC"))


def test_the_measures_of_a_verdict_run_on_the_device() -> None:
    network, data = alternet(), load_data("digits", None, 16)
    train, val = split(data, 0)
    found = []
    for device in ("cpu", "cuda"):
        with ExitStack() as stack:
            if device == "cuda":
                stack.enter_context(fake_cuda())
            place = torch.device(device)
            model = shaken(network).to(place)
            batches = partial(labelled_batches, data.part(val[:12]), 8)
            effect = measure_blocks(model, [next(iter(network.blocks)).path], batches)
            drawn = augmented_batches(data, load_recipe("paper"), train, seed=0, device=place, count=1)
            (top,) = batch_eigenvalues(model, drawn, most_products=3)
            found.append([effect.lesion, effect.variance, effect.frequency, *top.values])
    assert found[1] == pytest.approx(found[0], rel=1e-3)


def precisions() -> list[str]:
    backends: Any = torch.backends
    return [place.fp32_precision for place in (backends.cudnn.conv, backends.cuda.matmul)]


class Watching(nn.Module):
    """Notes the precision of float32 at each pass, and in what type a product is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 10, 16)
        self.seen: list[Any] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layer(x).flatten(1)
        self.seen.append([*precisions(), logits.dtype])
        return logits


def test_curvature_landscape_and_scores_are_computed_in_ieee_float32() -> None:
    data = load_data("digits", None, 16)
    before = precisions()
    assert before[0] == "tf32"  # as torch sets it for cuDNN
    model = Watching()
    batches = augmented_batches(
        data, load_recipe("paper"), torch.arange(64), seed=0, device=torch.device("cpu"), count=1
    )

    with torch.autocast("cpu", torch.bfloat16):
        list(batch_eigenvalues(model, batches, most_products=3))
        list(landscape(model, batches, [(0.0, 0.0)], directions(model)))
        evaluate(model, labelled_batches(data.part(torch.arange(4)), 4))
    assert model.seen == [["ieee", "ieee", torch.float32]] * 3
    assert precisions() == before
