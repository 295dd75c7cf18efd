from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from buildup.diagnostics.units import find_units
from buildup.engine.train import find_network
from buildup.errors import BaseError
from buildup.graph.layout import layout
from buildup.models.build import build
from buildup.models.layers import ConvAttention2d
from buildup.models.read import read_network
from buildup.models.zoo import RESNETS, TRANSFORMERS, NearAttention, NearAttention5
from buildup.training.dataset import DataInfo

PUBLISHED = {
    "vit_tiny_cifar": (5.403, 1.669),
    "vit_tiny_patch4_cifar": (5.373, 0.365),
    "convit_tiny_k5_cifar": (5.373, 0.348),
    "vit_small_cifar": (21.423, 6.067),
    "pit_tiny_cifar": (4.58, 0.950),
    "swin_tiny_cifar": (27.56, 1.431),
    "mixer_tiny_cifar": (4.770, 1.209),
    "resnext50_cifar": (23.177, 1.344),
}
"""Millions of parameters and GMACs with 100 classes."""
EXACT = {
    "vit_tiny_cifar": 5_403_172,
    "pit_tiny_cifar": 4_576_676,
    "swin_tiny_cifar": 27_562_126,
    "mixer_tiny_cifar": 4_769_636,
    "resnet50_cifar": 23_705_252,
    "resnet18_mlp_cifar": 15_414_948,
}
CIFAR100 = DataInfo(image_size=32, channels=3, num_classes=100, train_images=45_000, val_images=5_000)


QUICK = ("vit_tiny_patch4_cifar", "convit_tiny_k5_cifar", "pit_tiny_cifar", "mixer_tiny_cifar")


def slow(name: str) -> Any:
    return name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)


def made(name: str, **overrides: Any) -> nn.Module:
    with torch.device("meta"):
        model: nn.Module = timm.create_model(name, **overrides)
    return model


def size(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize("name", [slow(name) for name in PUBLISHED])
def test_parameters_and_products_are_the_papers(name: str) -> None:
    model = made(name).eval()
    parameters, gmacs = PUBLISHED[name]
    digits = 2 if name in ("pit_tiny_cifar", "swin_tiny_cifar") else 3
    assert round(size(model) / 1e6, digits) == parameters
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, 32, 32, device="meta"))
    # Masked keys are computed here, and not in the reference code: 64 of them for 25, in 12 layers.
    masked = 12 * 2 * 64 * (64 - 25) * 192 if name == "convit_tiny_k5_cifar" else 0
    assert (counter.get_total_flops() / 2 - masked) / 1e9 == pytest.approx(gmacs, rel=0.01 if masked else 0.03)


def test_parameters_are_counted_to_the_last() -> None:
    assert {name: size(made(name)) for name in EXACT} == EXACT


@pytest.mark.parametrize("name", [slow(name) for name in (*TRANSFORMERS, *RESNETS)])
def test_timm_knows_them_and_gives_them_other_classes(name: str) -> None:
    told: Any = timm.get_pretrained_cfg(name)
    model: Any = made(name, num_classes=7)
    assert told.input_size == (3, 32, 32)
    assert model.get_submodule(told.classifier).out_features == 7
    assert isinstance(model.get_submodule(told.first_conv), nn.Conv2d)
    assert model(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, 7)


@pytest.mark.parametrize("name", ["vit_tiny_cifar", "pit_tiny_cifar", "swin_tiny_cifar"])
def test_queries_have_no_bias(name: str) -> None:
    names = [name for name, _ in made(name).named_parameters()]
    assert any(name.endswith("qkv.weight") for name in names)
    assert not any(name.endswith("qkv.bias") for name in names)


@pytest.mark.parametrize("name", [slow(name) for name in ("vit_tiny_cifar", "mixer_tiny_cifar", *RESNETS)])
def test_a_training_makes_the_same_network(name: str) -> None:
    network = find_network(name, None, CIFAR100)
    assert size(build(network, device="meta")) == size(made(name))
    layouts = {"resnet18_mlp_cifar": "CC|CC|CC|CC", **dict.fromkeys(TRANSFORMERS, "")}
    assert layout(network) == layouts.get(name, "CCC|CCCC|CCCCCC|CCC")


@pytest.mark.parametrize(
    ("name", "msa", "subsampling"),
    [
        ("vit_tiny_patch4_cifar", 12, 0),
        ("pit_tiny_cifar", 12, 2),
        ("swin_tiny_cifar", 12, 3),
        ("mixer_tiny_cifar", 0, 0),
        ("resnet50_cifar", 0, 3),
    ],
)
@pytest.mark.slow
def test_their_units_are_the_papers(name: str, msa: int, subsampling: int) -> None:
    units = find_units(timm.create_model(name), torch.zeros(1, 3, 32, 32))
    assert sum(unit.kind == "msa" for unit in units) == msa
    assert sum(unit.subsamples for unit in units) == subsampling
    assert units[-1].channels == 100


@pytest.mark.parametrize("name", ["resnet50_cifar", "resnet18_mlp_cifar"])
def test_a_base_for_small_images_gets_no_second_small_stem(name: str) -> None:
    network = find_network(name, None, CIFAR100)
    assert (network.stem, network.shrunk) == ("base", ())
    assert [stage.size for stage in network.stages] == [(32, 32), (16, 16), (8, 8), (4, 4)]
    with pytest.raises(BaseError, match="has a stem for them"):
        read_network(name, input_shape=(3, 32, 32), num_classes=10, stem="small")


def test_an_alternet_of_the_paper_can_be_trained_by_its_name() -> None:
    model = build(find_network("alter_resnet18", None, CIFAR100), device="meta")
    assert size(model) == size(made("alter_resnet18", num_classes=100))


def test_an_mlp_head_reads_every_place_of_the_last_map() -> None:
    model: Any = timm.create_model("resnet18_mlp_cifar", num_classes=7).eval()
    maps = torch.randn(2, 512, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first, _, last = model.fc
        expected = last(first(maps.flatten(1)).relu())
        assert torch.allclose(model.forward_head(maps), expected, atol=1e-6)
        # A mean over the map would not see the order of its places.
        assert not torch.allclose(model.forward_head(maps.flip(3)), expected, atol=1e-3)


@pytest.mark.slow
def test_an_mlp_head_and_smoothing_are_trained_together() -> None:
    network = find_network("resnet18_mlp_cifar", "CCS|CCS|CCS|CCS", CIFAR100, "smoothing")
    models: list[Any] = [build(network, seed=0) for _ in range(2)]
    assert all(
        torch.equal(one, two)
        for one, two in zip(models[0].state_dict().values(), models[1].state_dict().values(), strict=True)
    )
    assert models[0].fc[2].out_features == 100


def test_a_vit_without_a_class_token_has_the_same_units() -> None:
    smaller: dict[str, Any] = {"embed_dim": 24, "depth": 2, "num_heads": 2}
    image = torch.zeros(1, 3, 32, 32)
    with_token = find_units(timm.create_model("vit_tiny_patch4_cifar", **smaller), image)
    without = find_units(
        timm.create_model("vit_tiny_patch4_cifar", class_token=False, global_pool="avg", **smaller), image
    )
    assert [(unit.kind, unit.size) for unit in without] == [(unit.kind, unit.size) for unit in with_token]
    assert {unit.layout.prefix for unit in without if unit.size} == {0}
    assert {unit.layout.prefix for unit in with_token if unit.size and unit.kind != "stem"} == {1}


@pytest.mark.parametrize(("attention", "kernel"), [(NearAttention, 3), (NearAttention5, 5)])
def test_tokens_attend_as_the_places_of_a_map_do(attention: type[NearAttention], kernel: int) -> None:
    tokens = torch.randn(2, 64, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    near = attention(24, num_heads=3).double()
    on_maps = ConvAttention2d(24, 24, heads=3, head_size=8, kernel=kernel).double()
    with torch.no_grad():
        on_maps.qkv.weight.copy_(near.qkv.weight[:, :, None, None])
        on_maps.out.weight.copy_(near.proj.weight[:, :, None, None])
        assert on_maps.out.bias is not None
        on_maps.out.bias.copy_(near.proj.bias)
        expected = on_maps(tokens.transpose(1, 2).reshape(2, 24, 8, 8)).flatten(2).transpose(1, 2)
        assert torch.allclose(near(tokens), expected, atol=1e-12)


def test_a_kernel_that_covers_the_map_is_global_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """The 8 x 8 of the paper on 8 x 8 patches."""
    smaller: dict[str, Any] = {"embed_dim": 24, "depth": 2, "num_heads": 2}
    local = timm.create_model("convit_tiny_k5_cifar", **smaller).double().eval()
    whole = timm.create_model("convit_tiny_k8_cifar", **smaller).double().eval()
    whole.load_state_dict(local.state_dict())
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert not torch.allclose(local(images), whole(images), atol=1e-6)
        monkeypatch.setattr(NearAttention5, "kernel", 15)
        assert torch.allclose(local(images), whole(images), atol=1e-12)
