"""Blocks at their places: what is lost without them, and what they do to variance and frequencies."""

from math import log

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from buildup.diagnostics.analysis import labelled_batches
from buildup.diagnostics.hooks import weights_digest
from buildup.diagnostics.lesion import measure_blocks
from buildup.diagnostics.predictions import evaluate
from buildup.graph.kinds import LocalAttention
from buildup.graph.network import apply, replacement
from buildup.models.build import build
from buildup.models.read import read_network
from buildup.models.trace import hook_blocks
from buildup.training.data import load_data


def batches(count: int = 60) -> list[tuple[Tensor, Tensor]]:
    data = load_data("digits")
    return [(images, labels) for images, labels in labelled_batches(data, 30)][: count // 30]


class Chain(nn.Module):
    """Blocks one after the other, then the mean of each quarter of the map as logits."""

    def __init__(self, **blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict(blocks)
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        for block in self.blocks.values():
            images = block(images)
        return torch.cat([F.adaptive_avg_pool2d(images, 2).flatten(1)] * 3, dim=1)[:, :10]


class Blur(nn.Module):
    """The mean of two neighbours along the diagonal, around the border."""

    def forward(self, maps: Tensor) -> Tensor:
        return (maps + maps.roll((1, 1), (2, 3))) / 2


class Scale(nn.Module):
    """Three times as strong, by overwriting what it takes."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.mul_(3)


def test_a_block_that_only_scales_multiplies_the_variance_and_keeps_frequencies() -> None:
    found = measure_blocks(Chain(a=nn.Identity(), b=Scale()), ["blocks.b"], batches)
    assert found.variance == pytest.approx(9.0, rel=1e-6)
    assert found.frequency == pytest.approx(0.0, abs=1e-4)
    assert found.lesion == 0.0


def test_a_blur_lowers_the_highest_frequency_by_its_closed_form_whatever_is_around_it() -> None:
    # Along the diagonal the mean of two neighbours passes |cos w| at frequency w = 7 / 8 pi, the highest of 16 px.
    alone = measure_blocks(Chain(a=Blur()), ["blocks.a"], batches)
    among = measure_blocks(Chain(z=nn.Identity(), a=Blur(), b=Scale()), ["blocks.a"], batches)
    expected = log(abs(torch.tensor(7 * torch.pi / 8).cos().item()))
    assert alone.frequency == pytest.approx(expected, abs=2e-3)
    assert among.frequency == pytest.approx(alone.frequency)
    assert among.variance == pytest.approx(alone.variance)
    assert alone.variance is not None
    assert alone.variance < 1


def test_several_places_are_left_out_at_once_and_their_effects_averaged() -> None:
    chain = Chain(a=Scale(), b=nn.Identity(), c=Scale(), d=Blur())
    both = measure_blocks(chain, ["blocks.a", "blocks.b"], batches)
    assert both.variance == pytest.approx(3.0, rel=1e-6)  # the geometric mean of 9 and 1
    assert both.frequency == pytest.approx(0.0, abs=1e-4)


def test_what_is_lost_is_what_a_model_without_the_blocks_loses() -> None:
    network = read_network("resnet18", input_shape=(1, 16, 16), num_classes=10, base_args={"channels": [8, 8, 16, 16]})
    network = apply(network, replacement(network, "layer3.1", LocalAttention(heads=2, window=4)))
    model, place = build(network, seed=1), batches(120)
    before = weights_digest(model)
    found = measure_blocks(model, ["layer3.1", "layer4.1"], lambda: place)
    assert weights_digest(model) == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    intact = evaluate(model, place).accuracy
    for path in ("layer3.1", "layer4.1"):
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, nn.Identity())
    assert found.lesion == pytest.approx(intact - evaluate(model, place).accuracy)
    assert found.frequency is None  # layer4 has maps of 2 x 2
    assert found.variance is not None


def test_maps_with_channels_last_are_seen_as_the_same_maps() -> None:
    class Turned(nn.Module):
        def __init__(self, block: nn.Module) -> None:
            super().__init__()
            self.block = block

        def forward(self, maps: Tensor) -> Tensor:
            turned: Tensor = self.block(maps.permute(0, 2, 3, 1))
            return turned.permute(0, 3, 1, 2)

    class BlurLast(nn.Module):
        def forward(self, maps: Tensor) -> Tensor:
            return (maps + maps.roll((1, 1), (1, 2))) / 2

    first = measure_blocks(Chain(a=Blur()), ["blocks.a"], batches)
    last = measure_blocks(Chain(a=Turned(BlurLast())), ["blocks.a.block"], batches, channels_last=True)
    assert last.variance == pytest.approx(first.variance)
    assert last.frequency == pytest.approx(first.frequency)


def test_no_hook_is_left_where_a_model_fails() -> None:
    model = Chain(a=nn.Conv2d(5, 5, 1))
    with pytest.raises(RuntimeError), hook_blocks(model, ["blocks.a"], lambda path, inputs_of, outputs_of: None):
        evaluate(model, batches())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
