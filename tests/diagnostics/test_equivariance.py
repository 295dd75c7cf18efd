"""Translation equivariance: closed forms of convolution and attention, and the same numbers computed by hand."""

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from buildup.diagnostics.equivariance import Equivariance, equivariance_error, measure_equivariance, shiftable
from buildup.diagnostics.figures import Row, Table, draw_figure
from buildup.diagnostics.hooks import weights_digest
from buildup.diagnostics.units import Unit, find_units

MakeAlterNet = Callable[[str], nn.Module]
ROUNDING = 1e-4


def images(channels: int, size: int) -> Tensor:
    return torch.randn(3, channels, size, size, generator=torch.Generator().manual_seed(1))


def errors(model: nn.Module, shown: Tensor) -> dict[str, tuple[Unit, dict[int, float]]]:
    units = find_units(model, shown)
    return {unit.name: (unit, measure_equivariance(model, before, unit, shown)) for before, unit in shiftable(units)}


def test_only_windows_break_equivariance_and_not_for_shifts_by_whole_windows(make_alternet: MakeAlterNet) -> None:
    found = errors(make_alternet("CC|CM|CG|CC"), images(1, 16))
    _, conv = found["stages.0.blocks.0"]
    _, windows = found["stages.1.blocks.1"]
    _, everywhere = found["stages.2.blocks.1"]
    assert conv == dict.fromkeys(range(1, 9), pytest.approx(0, abs=ROUNDING))
    assert set(windows) == set(range(1, 8))
    assert windows[4] == pytest.approx(0, abs=ROUNDING)  # its windows have sides of 4
    assert min(windows[shift] for shift in (1, 2, 3, 5, 6, 7)) > 0.1
    assert everywhere == dict.fromkeys((1, 2, 3), pytest.approx(0, abs=ROUNDING))


@pytest.mark.parametrize("letter", ["K", "S"])
def test_neighbourhoods_have_no_error_away_from_borders(make_alternet: MakeAlterNet, letter: str) -> None:
    _, found = errors(make_alternet(f"C{letter}|CC|CC|CC"), images(1, 16))["stages.0.blocks.1"]
    assert found == dict.fromkeys(range(1, 9), pytest.approx(0, abs=ROUNDING))


def test_the_padding_of_a_convolution_does_break_it_at_borders() -> None:
    maps, kernel = images(2, 12), torch.randn(2, 2, 3, 3, generator=torch.Generator().manual_seed(2))
    before, after = (F.conv2d(one, kernel, padding=1) for one in (maps, maps.roll((3, 3), (2, 3))))
    assert equivariance_error(before, after, 3, 1) == pytest.approx(0, abs=1e-6)
    assert (equivariance_error(before, after, 3, 0) or 0) > 0.1
    assert equivariance_error(before, after, 3, 5) is None
    assert equivariance_error(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 4, 4), 1, 0) is None


def test_an_unshifted_output_has_the_error_of_two_independent_maps() -> None:
    noise = torch.randn(8, 8, 32, 32, generator=torch.Generator().manual_seed(3))
    assert equivariance_error(noise, noise, 5, 0) == pytest.approx(2**0.5, rel=0.02)


def test_it_is_the_error_of_the_branch_computed_by_hand(make_alternet: MakeAlterNet) -> None:
    """The block by itself: what it adds to a map, with and without a shift of the map."""
    model, shown = make_alternet("CC|CM|CC|CC").eval(), images(1, 16)
    unit, found = errors(model, shown)["stages.1.blocks.1"]
    block, inputs = model.get_submodule("stages.1.blocks.1"), list[Tensor]()
    handle = block.register_forward_pre_hook(lambda _, args: inputs.append(args[0].clone()))
    with torch.no_grad():
        model(shown)
        handle.remove()
        maps = inputs[0].double()
        block.double()

        def branch(x: Tensor) -> Tensor:
            y: Tensor = block(x.clone())
            return y - x

        still = branch(maps)
        for shift in (1, 2, 3):
            moved, expected = branch(maps.roll((shift, shift), (2, 3))), still.roll((shift, shift), (2, 3))
            varying = expected - expected.mean((2, 3), keepdim=True)
            error = float((moved - expected).norm() / varying.norm())
            assert found[shift] == pytest.approx(error, rel=1e-4)
    assert unit.kind == "msa"


def test_transformers_have_errors_at_windows_alone(make: Callable[..., nn.Module]) -> None:
    for name, unit, windowed in (
        ("test_vit", "blocks.0.attn", False),
        ("swin_tiny_patch4_window7_224", "layers.0.blocks.0.attn", True),
        ("deit_tiny_distilled_patch16_224", "blocks.1.attn", False),
    ):
        found = errors(make(name), images(3, 32))
        _, of_unit = found[unit]
        assert (of_unit[1] > 0.1) == windowed
        assert all(error < ROUNDING for one, own in found.values() if one.kind == "mlp" for error in own.values())
        assert not windowed or of_unit[4] < ROUNDING


def test_tokens_that_attend_to_their_neighbours_have_no_error_away_from_borders() -> None:
    smaller: dict[str, Any] = {"embed_dim": 24, "depth": 1, "num_heads": 2}
    unit, found = errors(timm.create_model("convit_tiny_k3_cifar", **smaller), images(3, 32))["blocks.0.attn"]
    assert unit.size == (8, 8)
    assert found == dict.fromkeys(range(1, 5), pytest.approx(0, abs=ROUNDING))


def test_padded_pooling_has_no_error_away_from_borders() -> None:
    found = errors(timm.create_model("poolformer_s12"), images(3, 128))
    pooled = {name: seen for name, (unit, seen) in found.items() if unit.kind == "smoothing"}
    assert pooled
    assert max(error for seen in pooled.values() for error in seen.values()) < ROUNDING


def test_a_model_is_whole_again_after_its_passes_were_cut_short(make_alternet: MakeAlterNet) -> None:
    model, shown = make_alternet("CC|CM|CC|CC"), images(1, 16)
    digest, before = weights_digest(model.eval()), model(shown)
    errors(model, shown)
    assert weights_digest(model) == digest
    assert torch.equal(model(shown), before)


def test_its_figure_and_summary_are_those_of_its_kinds() -> None:
    units: list[Row] = [
        {"unit": number, "name": kind, "kind": kind, "stage": 1, "subsamples": False, "height": 8, "width": 8}
        for number, kind in enumerate(("conv", "msa"))
    ]
    rows = [{**unit, "shift": shift, "error": float(unit["unit"] * shift)} for unit in units for shift in (1, 2)]
    assert Equivariance().summary(rows) == {"error_conv": 0.0, "error_msa": 1.5}
    figure = draw_figure(Equivariance().figure, [Table(label="net", units=units, rows=rows)])
    assert len(figure.axes) == 2
