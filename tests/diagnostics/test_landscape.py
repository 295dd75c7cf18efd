from collections.abc import Callable
from math import isfinite
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from buildup.diagnostics.figures import Row, Table, draw_figure
from buildup.diagnostics.hooks import weights_digest
from buildup.diagnostics.landscape import (
    MAX_PARALLEL,
    Direction,
    LossLandscape,
    directions,
    grid,
    landscape,
    max_parallel_points,
)

Make = Callable[[str], nn.Module]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def soft(count: int, classes: int = 10) -> Tensor:
    return noise(count, classes, seed=5).softmax(1)


def filters(weights: Direction, name: str) -> Tensor:
    lengths: Tensor = weights[name].flatten(1).norm(dim=1)
    return lengths


def test_each_filter_of_both_directions_is_as_long_as_that_of_the_weights(make: Make) -> None:
    model = make("test_resnet")
    weights = dict(model.named_parameters())
    for direction in directions(model):
        for name in direction:
            assert torch.allclose(filters(direction, name), filters(weights, name), rtol=1e-4), name


def test_columns_are_scaled_as_in_the_reference_code(make: Make) -> None:
    model = make("test_resnet")
    weights, generator = dict(model.named_parameters()), torch.Generator().manual_seed(0)
    one, other = directions(model, scaling="column")
    for name in one:
        weight = weights[name].detach().double()
        drawn = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        # Its norms are over the first axis alone.
        expected = drawn / drawn.norm(dim=0, keepdim=True) * weight.norm(dim=0, keepdim=True)
        assert torch.allclose(one[name].double(), expected, rtol=1e-4, atol=1e-7), name
        if len(weight) > 1:
            products = (one[name].double() * other[name]).sum(0)
            assert (products.abs() <= 1e-4 * weight.square().sum(0) + 1e-9).all(), name


def test_gains_with_axes_of_one_and_biases_of_attention_stay() -> None:
    kept = {
        "levit_128s": "attention_biases",
        "resmlp_12_224": "norm1.alpha",
        "nf_resnet26": ".gain",
        "swinv2_tiny_window8_256": "logit_scale",
    }
    for name, part in kept.items():
        model = timm.create_model(name)
        assert any(part in weight for weight, _ in model.named_parameters()), name
        assert not any(part in weight for weight in directions(model)[0]), name


def test_biases_norms_and_tables_of_positions_stay(make: Make, make_alternet: Make) -> None:
    for model in (make("swin_tiny_patch4_window7_224"), make("test_vit"), make_alternet("CC|CC|CM|CM")):
        one, _ = directions(model)
        left = {name for name, _ in model.named_parameters()} - set(one)
        weights = dict(model.named_parameters())
        assert all(sum(side > 1 for side in weights[name].shape) < 2 or "pos" in name for name in left)
        assert any("pos" in name for name in left)
        assert not any("pos" in name for name in one)


def test_directions_are_orthogonal_and_come_from_their_seed(make: Make) -> None:
    model = make("test_vit")
    one, other = directions(model, seed=3)
    again, _ = directions(model, seed=3)
    different, _ = directions(model, seed=4)
    for name in one:
        assert (one[name] * other[name]).sum().abs() <= 1e-4 * one[name].norm() ** 2, name
        assert torch.equal(one[name], again[name])
    assert any(not torch.equal(one[name], different[name]) for name in one)


def test_the_centre_is_a_plain_evaluation(make: Make) -> None:
    model = make("test_vit").eval()
    batches = [(noise(4, 3, 32, 32), soft(4)), (noise(3, 3, 32, 32, seed=1), soft(3))]
    (point,) = landscape(model, batches, [(0.0, 0.0)], directions(model))
    with torch.no_grad():
        losses = [F.cross_entropy(model(images), targets, reduction="sum") for images, targets in batches]
    assert point.nll == pytest.approx(sum(loss.item() for loss in losses) / 7, rel=1e-5)
    assert point.decay == pytest.approx(sum(w.detach().square().sum().item() for w in model.parameters()) / 2, rel=1e-5)
    assert point.loss(0.05) == pytest.approx(point.nll + 0.05 * point.decay)


def test_places_differ_by_their_weights_alone(make: Make) -> None:
    model = make("test_vit")
    batches, towards = [(noise(3, 3, 32, 32), soft(3))], directions(model)
    places = [(x / 2, y / 2) for x, y in grid(3)]
    whole = {(point.x, point.y): point for point in landscape(model, batches, places, towards)}
    assert list(landscape(model, batches, [(0.5, -0.5), (0.0, 0.5)], towards)) == [whole[0.5, -0.5], whole[0.0, 0.5]]
    assert len({point.nll for point in whole.values()}) == 9


def test_the_strict_decay_is_half_the_square_of_all_weights(make: Make) -> None:
    model = make("test_vit")
    one, other = directions(model)
    moved = sum(w.detach().square().sum().item() for name, w in model.named_parameters() if name in one) / 2
    stayed = sum(w.detach().square().sum().item() for name, w in model.named_parameters() if name not in one) / 2
    for point in landscape(model, [(noise(1, 3, 32, 32), soft(1))], grid(3), (one, other)):
        assert point.decay == pytest.approx(stayed + moved * (1 + point.x**2 + point.y**2), rel=0.05)


def test_the_decay_of_the_reference_code_is_the_sum_of_the_norms_of_all_tensors(make: Make) -> None:
    model = make("test_vit")
    one, other = directions(model)
    batches, places = [(noise(1, 3, 32, 32), soft(1))], [(0.0, 0.0), (0.4, -0.7)]
    plain, moved = landscape(model, batches, places, (one, other), decay="norms")
    assert plain.decay == pytest.approx(sum(w.detach().norm().item() for w in model.parameters()), rel=1e-5)
    at = [w + (0.4 * one[name] - 0.7 * other[name] if name in one else 0) for name, w in model.named_parameters()]
    assert moved.decay == pytest.approx(sum(w.detach().norm().item() for w in at), rel=1e-4)
    (none,) = landscape(model, batches, places[:1], (one, other), decay="none")
    assert none.loss(0.05) == none.nll == plain.nll


def surface_rows(steepness: float, decay_kind: str = "squares") -> list[Row]:
    """The loss of a bowl, in which the model breaks down in one corner."""
    made = {"accuracy": 50.0, "weight_decay": 0.05, "decay_kind": decay_kind, "scaling": "filter"}
    rows = [{"x": x, "y": y, "loss": 2 + steepness * (x * x + y * y), "nll": 9.0, **made} for x, y in grid(5)]
    rows[0]["loss"] = None
    return rows


def test_all_models_share_the_axis_and_the_levels_and_the_figure_says_what_is_drawn() -> None:
    tables = [Table(label=str(steep), units=[], rows=surface_rows(steep)) for steep in (1.0, 30.0)]
    figure = draw_figure(LossLandscape().figure, tables)
    axes: Any = figure.axes
    limits = {surface.get_zlim() for surface in axes[0::2]}
    levels = {tuple(contour.collections[0].levels) for contour in axes[1::2]}
    # The median at the border of the flat one is 1.25, and twice that is drawn of both.
    assert limits == {(0.0, 2.5)}
    assert len(levels) == 1
    title = figure.get_suptitle()
    for said in ("cross-entropy + 0.05 · ½‖w‖²", "like the weights, filter by filter", "more than 2.5 above"):
        assert said in title
    assert LossLandscape().summary(tables[0].rows)["border_rise"] == 1.25


def test_the_limit_of_the_paper_is_that_of_its_own_loss() -> None:
    steep = [Table(label="a", units=[], rows=surface_rows(1000.0, kind)) for kind in ("norms", "squares")]
    said = [draw_figure(LossLandscape().figure, [table]).get_suptitle() for table in steep]
    assert "more than 42 above" in said[0]
    assert "more than 2e+03 above" in said[1]


def test_a_linear_model_of_one_image_and_equal_classes_has_its_known_surface() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False)).double()
    images = noise(6, 1, 2, 2).double()
    labels = F.one_hot(torch.arange(6) % 2, 2).double()
    one, other = directions(model)
    weight = next(model.parameters()).detach()
    for point in landscape(model, [(images, labels)], grid(3), (one, other)):
        moved = weight + point.x * one["1.weight"] + point.y * other["1.weight"]
        logits = images.flatten(1) @ moved.T
        expected = (logits.logsumexp(1) - (logits * labels).sum(1)).mean().item()
        assert point.nll == pytest.approx(expected, rel=1e-12)


def test_the_model_is_left_as_it_was_and_broken_places_are_told(make: Make) -> None:
    model = make("test_resnet").train()
    before = weights_digest(model)
    towards = directions(model)
    near, far = landscape(model, [(noise(2, 3, 32, 32), soft(2))], [(0.1, 0.0), (1e20, 0.0)], towards)
    assert isfinite(near.nll)
    assert not isfinite(far.nll)
    assert weights_digest(model) == before


def test_whoever_takes_the_points_does_not_compute_as_the_landscape_does(make: Make) -> None:
    model = make("test_resnet").train()
    before = torch.backends.cudnn.allow_tf32
    points = landscape(model, [(noise(2, 3, 32, 32), soft(2))], [(0.1, 0.0), (0.2, 0.0)], directions(model))
    next(points)  # and is stopped here
    assert torch.is_grad_enabled()
    assert torch.backends.cudnn.allow_tf32 == before
    assert model.training


def test_the_grid_of_the_paper_has_its_points() -> None:
    points = grid(21)
    assert len(points) == 441
    assert points[0] == (-1.0, -1.0)
    assert points[1] == (-0.9, -1.0)
    assert points[220] == (0.0, 0.0)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_places_side_by_side_have_the_values_of_each_alone(make: Make, name: str) -> None:
    model = make(name)
    batches, towards = [(noise(2, 3, 32, 32), soft(2))], directions(model)
    places = [(0.3 * x, 0.3 * y) for x, y in grid(2)]
    alone = list(landscape(model, batches, places, towards))
    together = list(landscape(model, batches, places, towards, parallel=3))
    assert [(point.x, point.y) for point in together] == [(point.x, point.y) for point in alone]
    assert [point.nll for point in together] == pytest.approx([point.nll for point in alone], rel=1e-4)
    assert [point.decay for point in together] == [point.decay for point in alone]


def test_as_many_places_run_side_by_side_as_memory_has_room_for(make: Make) -> None:
    model = make("test_vit")
    towards = directions(model)
    moved = sum(weight.numel() * weight.element_size() for weight in towards[0].values())
    assert max_parallel_points(towards, 12 * moved) == 3
    assert max_parallel_points(towards, 0) == 1
    assert max_parallel_points(towards, float("inf")) == MAX_PARALLEL
