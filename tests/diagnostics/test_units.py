from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from buildup.diagnostics.hooks import intercept, weights_digest
from buildup.diagnostics.units import Unit, find_units, unit_outputs
from buildup.errors import BaseError
from buildup.models.trace import evaluation_mode

Make = Callable[[str], nn.Module]


def images(model: nn.Module, count: int, seed: int = 0, sides: tuple[int, int] | None = None) -> Tensor:
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    size = sides or ((16, 16) if first.in_channels == 1 else (32, 32))
    return torch.randn(count, first.in_channels, *size, generator=torch.Generator().manual_seed(seed))


def letters(units: tuple[Unit, ...]) -> str:
    names = {
        "stem": "E",
        "conv": "C",
        "msa": "M",
        "mlp": "F",
        "subsampling": "P",
        "head": "H",
        "smoothing": "S",
        "other": "O",
    }
    return "".join(names[unit.kind] for unit in units)


def test_what_follows_a_unit_depends_on_the_image_by_its_output_alone(any_model: nn.Module) -> None:
    check_composition(any_model, images(any_model, 2, seed=1), images(any_model, 2, seed=2))


FAMILIES = (
    "coatnet_pico_rw_224",
    "convmixer_768_32",
    "densenet121",
    "eva02_tiny_patch14_224",
    "fastvit_t8",
    "levit_128s",
    "maxvit_pico_rw_256",
    "mobilevit_xxs",
    "pvt_v2_b0",
    "repvgg_a0",
    "resnest14d",
    "volo_d1_224",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_units_compose_in_many_families_at_their_own_size(name: str) -> None:
    model: Any = timm.create_model(name)
    check_composition(model, *torch.randn(2, 1, *model.pretrained_cfg["input_size"]))


def check_composition(model: nn.Module, one: Tensor, other: Tensor) -> None:
    """With a unit's output for one image in its place, the logits for another are those for the first."""
    units = find_units(model, one[:1])
    assert len(units) > 3
    wanted = unit_outputs(model, units, one)
    for unit, state in zip(units, wanted, strict=True):
        with torch.no_grad(), evaluation_mode(model), intercept(model, {unit.site: lambda *_, s=state: s.clone()}):
            assert torch.equal(model(other), wanted[-1]), unit.name


def test_looking_changes_neither_weights_nor_modes_nor_hooks(any_model: nn.Module) -> None:
    any_model.train()
    next(module for module in any_model.modules() if not list(module.children())).eval()
    before = weights_digest(any_model)
    hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in any_model.modules())
    units = find_units(any_model, images(any_model, 1))
    unit_outputs(any_model, units, images(any_model, 2))
    assert weights_digest(any_model) == before
    assert hooks == sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in any_model.modules())


def test_the_last_unit_gives_the_logits(any_model: nn.Module) -> None:
    pictures = images(any_model, 3)
    units = find_units(any_model, pictures[:1])
    with torch.no_grad():
        logits = any_model.eval()(pictures)
    assert torch.equal(unit_outputs(any_model, units, pictures)[-1], logits)


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("test_resnet", "ECCCCH"),
        ("swin_tiny_patch4_window7_224", "EMFMFPMFMFH"),
        ("swinv2_cr_tiny_224", "EMFMFPMFMFH"),
        ("pit_ti_224", "EMFPMFMFH"),
        ("deit_tiny_distilled_patch16_224", "EMFMFH"),
    ],
)
def test_kinds_are_those_of_the_paper(make: Make, name: str, kinds: str) -> None:
    model = make(name)
    assert letters(find_units(model, images(model, 1))) == kinds


@pytest.mark.parametrize(("layout", "kinds"), [("CC|CM|CG|CK", "ECCCMCMCMH"), ("CC|CM|CS|CM", "ECCCMCSCMH")])
def test_an_alternet_has_one_unit_a_block(make_alternet: Make, layout: str, kinds: str) -> None:
    model = make_alternet(layout)
    units = find_units(model, images(model, 1))
    assert letters(units) == kinds
    assert [unit.index for unit in units if unit.subsamples] == [3, 5, 7]
    assert [unit.stage for unit in units] == [0, 1, 1, 2, 2, 3, 3, 4, 4, 4]


def test_resnet50_is_marked_where_the_paper_marks_it() -> None:
    with torch.device("meta"):
        model = timm.create_model("resnet50")
    model = model.to_empty(device="cpu")
    units = find_units(model, torch.zeros(1, 3, 64, 64))
    assert [unit.index for unit in units if unit.subsamples] == [4, 8, 14]
    assert units[16].name == "layer4.2"


@pytest.mark.parametrize(
    ("name", "prefix"), [("test_vit", 1), ("deit_tiny_distilled_patch16_224", 2), ("pit_ti_224", 1), ("test_resnet", 0)]
)
def test_class_tokens_are_told_from_those_of_the_map(make: Make, name: str, prefix: int) -> None:
    model = make(name)
    unit = find_units(model, images(model, 1))[1]
    assert unit.layout.prefix == prefix
    assert unit.size is not None
    assert unit.size[0] == unit.size[1]


def test_maps_keep_their_places_in_each_order_of_axes(make: Make) -> None:
    for name in ("swin_tiny_patch4_window7_224", "test_vit", "test_resnet"):
        model = make(name)
        pictures = torch.zeros(2, 3, 32, 32)
        pictures[1, :, 8:16, 24:32] = 3.0
        unit = find_units(model, pictures[:1])[0]
        maps = unit.as_map(*unit_outputs(model, [unit], pictures))
        assert maps is not None
        assert maps.shape[1:] == (unit.channels, *(unit.size or ()))
        changed = (maps[1] - maps[0]).abs().sum(0)
        row, column = divmod(int(changed.argmax()), changed.shape[1])
        share = 32 // changed.shape[0]
        assert 8 <= row * share + share // 2 < 16, name
        assert 24 <= column * share + share // 2 < 32, name


@pytest.mark.parametrize("size", [64, 224])
@pytest.mark.parametrize("name", ["nest_tiny", "hiera_tiny_224"])
def test_windows_and_tokens_in_another_order_than_the_pixels_are_no_maps(name: str, size: int) -> None:
    units = find_units(timm.create_model(name, img_size=size), torch.zeros(1, 3, size, size))
    assert len(units) > 20
    assert {unit.layout.order for unit in units if unit.kind in ("stem", "msa", "mlp")} == {"none"}


def test_calls_of_one_module_in_several_places_are_told_apart() -> None:
    model = timm.create_model("visformer_tiny", img_size=64)  # one dropout after each of its three position tables
    units = find_units(model, torch.zeros(1, 3, 64, 64))
    assert len({unit.site for unit in units}) == len(units)
    outputs = unit_outputs(model, units, torch.randn(2, 3, 64, 64))
    assert [output.shape[1] for output in outputs] == [unit.channels for unit in units]


def test_norms_alone_are_no_mlp() -> None:
    units = find_units(timm.create_model("densenet121"), torch.zeros(1, 3, 64, 64))
    assert {unit.name for unit in units if unit.kind == "other"} == {"features.norm0", "features.norm5"}
    assert not any(unit.kind == "mlp" for unit in units)


def test_a_pooling_that_enlarges_small_maps_is_of_the_head() -> None:
    units = find_units(timm.create_model("vgg11"), torch.zeros(1, 3, 64, 64))
    sizes = [unit.size[0] for unit in units if unit.size]
    assert sizes == sorted(sizes, reverse=True)


def test_non_square_images_have_non_square_maps() -> None:
    model = timm.create_model("test_vit", img_size=(32, 64), patch_size=8)
    assert find_units(model, torch.zeros(1, 3, 32, 64))[1].size == (4, 8)
    assert find_units(timm.create_model("test_resnet"), torch.zeros(1, 3, 64, 96))[2].size == (8, 12)


class Pair(nn.Module):
    """A model that gives out two things."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return images, images


def test_a_model_without_one_tensor_of_logits_is_refused() -> None:
    with pytest.raises(BaseError, match="gives out tuple"):
        find_units(Pair(), torch.zeros(1, 3, 2, 2))


def test_what_has_nothing_to_observe_says_so() -> None:
    with pytest.raises(BaseError, match="no convolution"):
        find_units(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.zeros(1, 3, 2, 2))
