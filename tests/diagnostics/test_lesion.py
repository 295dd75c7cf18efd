import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from buildup.diagnostics.analysis import labelled_batches
from buildup.diagnostics.hooks import weights_digest
from buildup.diagnostics.lesion import find_removals, without_units
from buildup.diagnostics.predictions import evaluate
from buildup.diagnostics.units import find_units
from held_out import load_test

Make = Callable[[str], nn.Module]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def logits(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.eval()(images)
    return found


@pytest.mark.parametrize("name", ["test_vit", "swin_tiny_patch4_window7_224", "pit_ti_224"])
def test_each_branch_of_a_transformer_can_be_removed(make: Make, name: str) -> None:
    model, images = make(name), noise(2, 3, 32, 32)
    units = find_units(model, images[:1])
    found = find_removals(model, units)
    assert [removal.unit for removal in found] == [unit for unit in units if unit.kind in ("msa", "mlp")]
    whole = logits(model, images)
    for removal in found:
        with without_units(model, removal):
            assert not torch.allclose(logits(model, images), whole), removal.unit.name


def test_a_branch_that_gives_zeros_can_be_removed_without_a_trace(make: Make) -> None:
    model, images = make("test_vit"), noise(2, 3, 32, 32)
    block: Any = model.get_submodule("blocks.1")
    with torch.no_grad():
        block.attn.proj.weight.zero_()
        block.attn.proj.bias.zero_()
    removal = next(
        removal
        for removal in find_removals(model, find_units(model, images[:1]))
        if removal.unit.name == "blocks.1.attn"
    )
    whole = logits(model, images)
    with without_units(model, removal):
        assert torch.equal(logits(model, images), whole)


def test_two_removals_commute(any_model: nn.Module) -> None:
    sample = (
        noise(2, 1, 16, 16) if any_model.get_submodule("").__class__.__name__ == "ResNetV2" else noise(2, 3, 32, 32)
    )
    found = find_removals(any_model, find_units(any_model, sample[:1]))
    one, other = found[0], found[-1]
    with without_units(any_model, one, other):
        first = logits(any_model, sample)
    with without_units(any_model, other), without_units(any_model, one):
        second = logits(any_model, sample)
    assert torch.equal(first, second)


def test_removing_an_attention_branch_is_setting_its_output_to_zero(make: Make) -> None:
    model, images = make("swin_tiny_patch4_window7_224"), noise(2, 3, 32, 32)
    name = "layers.0.blocks.1.attn"
    removal = next(
        removal for removal in find_removals(model, find_units(model, images[:1])) if removal.unit.name == name
    )
    with without_units(model, removal):
        found = logits(model, images)
    handle = model.get_submodule(name).register_forward_hook(lambda module, args, result: torch.zeros_like(result))
    expected = logits(model, images)
    handle.remove()
    assert torch.equal(found, expected)


def test_removing_a_convolution_is_putting_an_identity_in_its_place(make_alternet: Make) -> None:
    model, images = make_alternet("CC|CC|CM|CM"), noise(2, 1, 16, 16)
    found = {removal.unit.name: removal for removal in find_removals(model, find_units(model, images[:1]))}
    removal = found["stages.1.blocks.1"]
    assert removal.treatment == "convolution"
    with without_units(model, removal):
        lesioned = logits(model, images)
    parent: Any = model.get_submodule("stages.1.blocks.1")
    last = removal.site.path.rpartition(".")[2]
    kept = getattr(parent, last)
    setattr(parent, last, nn.Identity())
    expected = logits(model, images)
    setattr(parent, last, kept)
    assert torch.equal(lesioned, expected)


def test_blocks_with_a_stride_are_treated_in_both_ways(make: Make) -> None:
    model = make("test_resnet")
    found = [
        (removal.unit.name, removal.treatment)
        for removal in find_removals(model, find_units(model, noise(1, 3, 32, 32)))
    ]
    assert found == [
        ("layer1.0", "convolution"),
        ("layer2.0", "convolution"),  # its stride is in its first convolution
        ("layer2.0", "branch"),
        ("layer3.0", "convolution, sampled"),
        ("layer3.0", "branch"),
        ("layer4.0", "convolution"),
        ("layer4.0", "branch"),
    ]


def test_nothing_is_left_behind(make_alternet: Make) -> None:
    model, images = make_alternet("CC|CM|CG|CK"), noise(2, 1, 16, 16)
    model.train()
    before = weights_digest(model)
    batches = [next(labelled_batches(load_test("digits"), 32))]
    removals, lesioned = find_removals(model, find_units(model, images[:1])), set()
    for removal in removals:
        with without_units(model, removal):
            lesioned.add(evaluate(model, batches).nll)
    assert weights_digest(model) == before
    assert len({*lesioned, evaluate(model, batches).nll}) == 1 + len(removals)


class Scripted(nn.Module):
    """A compiled function, which modes do not see."""

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = DOUBLED(images)
        return found


def _doubled(images: Tensor) -> Tensor:
    return 2 * images


with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    DOUBLED = torch.jit.script(_doubled)


class Adding(nn.Module):
    """A residual sum after a function that is not seen, in the same module."""

    def __init__(self) -> None:
        super().__init__()
        self.weigh, self.twice = nn.Conv2d(4, 4, 1), Scripted()

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = images + self.twice(self.weigh(images))
        return found


def test_a_branch_with_a_function_that_is_not_seen_can_be_removed() -> None:
    model = nn.Sequential(Adding(), nn.Flatten(), nn.Linear(4 * 8 * 8, 2))
    images = noise(2, 4, 8, 8)
    (removal,) = find_removals(model, find_units(model, images[:1]))
    with without_units(model, removal):
        assert torch.equal(logits(model, images), logits(model[1:], images))
