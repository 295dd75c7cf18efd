from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from timm.data.config import resolve_model_data_config
from timm.layers.drop import DropPath
from torch import Tensor
from torch.nn import functional as F

from buildup.graph.kinds import (
    BlockKind,
    Conv,
    ConvAttention,
    GatedAttention,
    GlobalAttention,
    LocalAttention,
    Smoothing,
)
from buildup.graph.layout import layout
from buildup.graph.network import Append, Block, Edit, Network, Stage, apply, replacement
from buildup.models.build import build
from buildup.models.export import export_network, probe_logits
from buildup.models.read import read_network
from buildup.space.load import load
from buildup.strategies.moves import from_layout


@dataclass(frozen=True, kw_only=True)
class Family:
    base: str
    args: Mapping[str, Any] = field(default_factory=dict)


THIN = {"channels": [16, 16, 32, 64]}
"""Few channels, so that building takes no time; they are those of basic blocks, a quarter of bottlenecks' output."""
BOTTLENECKS = {"layers": [2, 2, 2, 2], "channels": [32, 32, 64, 64]}
BOTTLENECKS_V2 = {"layers": [2, 2, 2, 2], "channels": [128, 128, 256, 256]}
RESNET = Family(base="resnet18", args=THIN)
RESNETV2 = Family(base="resnetv2_18", args=THIN)
FAMILIES = [
    RESNET,
    RESNETV2,
    Family(base="resnet18d", args=THIN),
    Family(base="seresnet18", args=THIN),
    Family(base="resnetblur18", args=THIN),
    Family(base="resnet26", args=BOTTLENECKS | {"output_stride": 16}),
    Family(base="ecaresnet26t", args=BOTTLENECKS),
    Family(base="seresnext26d_32x4d", args=BOTTLENECKS),
    Family(base="resnetrs50", args=BOTTLENECKS),
    Family(base="resnet50_gn", args=BOTTLENECKS),
    Family(base="resnetv2_50d", args=BOTTLENECKS_V2),
    Family(base="resnetv2_50d_evos", args=BOTTLENECKS_V2),
    Family(base="resnetv2_50d_frn", args=BOTTLENECKS_V2),
    Family(base="resnetv2_50", args=BOTTLENECKS_V2 | {"preact": False}),
]
EACH_FAMILY = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.base)

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def network_of(family: Family, *, size: int = 32, **settings: Any) -> Network:
    return read_network(family.base, input_shape=(3, size, size), num_classes=10, base_args=family.args, **settings)


def alternet(network: Network) -> Network:
    """The network with attention at the end of every stage."""
    for number, stage in enumerate(network.stages):
        kind = LocalAttention(heads=number + 1, head_size=8, window=min(4, *stage.size))
        network = apply(network, replacement(network, stage.blocks[-1].path, kind))
    return network


@EACH_FAMILY
def test_a_network_read_and_built_is_the_timm_model_itself(family: Family) -> None:
    torch.manual_seed(3)
    theirs = timm.create_model(family.base, num_classes=10, **family.args).eval()
    ours = build(network_of(family, stem="base"), seed=3).eval()
    assert type(ours) is type(theirs)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    with torch.inference_mode():
        assert torch.equal(ours(IMAGES), theirs(IMAGES))


@EACH_FAMILY
def test_blocks_that_stay_keep_the_names_and_weights_that_timm_gives_them(family: Family) -> None:
    torch.manual_seed(3)
    theirs = timm.create_model(family.base, num_classes=10, **family.args).state_dict()
    network = alternet(network_of(family))
    ours = build(network, seed=3).state_dict()
    edited = ("conv1.", "stem.", "maxpool.", *(f"{path}." for path in network.replaced))
    kept = {name for name in theirs if not name.startswith(edited)}
    assert kept == {name for name in ours if not name.startswith(edited)}
    assert all(torch.equal(ours[name], theirs[name]) for name in kept)


@EACH_FAMILY
def test_features_have_the_channels_and_reductions_that_are_told(family: Family) -> None:
    network = alternet(network_of(family))
    model: Any = build(network, features_only=True, device="meta")
    features = model(IMAGES.to("meta"))
    assert [feature.shape[1] for feature in features] == model.feature_info.channels()
    assert [32 // feature.shape[2] for feature in features] == model.feature_info.reduction()


@EACH_FAMILY
def test_timm_finds_the_first_convolution_and_the_classifier_where_it_looks(family: Family) -> None:
    model: Any = build(alternet(network_of(family)), device="meta", in_chans=5, num_classes=7)
    assert model.get_submodule(model.pretrained_cfg["first_conv"]).in_channels == 5
    assert model.get_submodule(model.pretrained_cfg["classifier"]).weight.shape[0] == 7


@pytest.mark.parametrize("family", [RESNET, RESNETV2], ids=lambda family: family.base)
def test_features_are_what_the_stages_of_the_whole_model_give_out(family: Family) -> None:
    network = alternet(network_of(family))
    model = build(network, seed=1).eval()
    expected: list[Tensor] = []
    for number in (1, 3):
        stage = model.get_submodule(network.stages[number].name)
        stage.register_forward_hook(lambda module, before, after: expected.append(after))
    features = build(network, seed=1, features_only=True, out_indices=(2, 4)).eval()
    with torch.inference_mode():
        model(IMAGES)
        for found, wanted in zip(features(IMAGES), expected, strict=True):
            assert torch.equal(found, wanted)


def test_a_candidate_shares_with_its_parent_every_weight_of_the_blocks_they_share() -> None:
    parent = apply(network_of(RESNET), Append(stage="layer4"))
    kind = LocalAttention(heads=3, window=4)
    first = apply(parent, replacement(parent, "layer4.2", kind))
    second = apply(first, replacement(first, "layer3.1", kind))
    weights = [build(network, seed=5).state_dict() for network in (parent, first, second)]
    for one, other, path in ((0, 1, "layer4.2."), (1, 2, "layer3.1.")):
        shared = [name for name in weights[one] if not name.startswith(path)]
        assert shared == [name for name in weights[other] if not name.startswith(path)]
        assert all(torch.equal(weights[one][name], weights[other][name]) for name in shared)


def test_every_block_of_its_own_starts_with_weights_of_its_own() -> None:
    network = network_of(RESNET)
    for _ in range(2):
        network = apply(network, Append(stage="layer1"))
    model = build(network, seed=5)
    weights = [model.get_parameter(f"layer1.{index}.conv2.weight") for index in range(4)]
    assert not any(torch.equal(weights[a], weights[b]) for a in range(4) for b in range(a))
    assert all(float(weight.detach().std()) == pytest.approx((2 / (16 * 9)) ** 0.5, rel=0.1) for weight in weights)


def test_an_added_block_starts_as_timms_own_last_block_does() -> None:
    network = apply(network_of(RESNET), Append(stage="layer4"))
    model = build(network, seed=5, drop_path_rate=0.2)
    assert not model.get_parameter("layer4.2.bn2.weight").any()
    assert model.get_submodule("layer4.2.drop_path").drop_prob == 0.2


def test_a_seed_decides_all_weights_and_leaves_the_callers_random_numbers_alone() -> None:
    network = alternet(apply(network_of(RESNET), Append(stage="layer2")))
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    one, two, other = (build(network, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["layer4.1.conv.weight"], other["layer4.1.conv.weight"])


@pytest.mark.parametrize("family", [RESNET, RESNETV2], ids=lambda family: family.base)
def test_what_timm_gives_a_model_goes_on_working(family: Family) -> None:
    model: Any = build(alternet(network_of(family)), seed=0).eval()
    with torch.inference_mode():
        logits = model(IMAGES)
        assert torch.equal(model.forward_head(model.forward_features(IMAGES)), logits)
    model.reset_classifier(4)
    assert model(IMAGES).shape == (2, 4)
    data: Any = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    assert data["input_size"] == (3, 32, 32)


@pytest.mark.parametrize("family", [RESNET, RESNETV2], ids=lambda family: family.base)
def test_gradients_are_the_same_with_checkpointing(family: Family) -> None:
    model: Any = build(alternet(network_of(family)), seed=0).double().eval()
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(IMAGES.double()).square().sum().backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    for name in gradients[0]:
        torch.testing.assert_close(gradients[0][name], gradients[1][name])


@pytest.mark.parametrize("size", [24, 40])
def test_a_network_runs_at_other_sizes_than_it_was_built_for(size: int) -> None:
    model = build(alternet(network_of(RESNET)), seed=0).eval()
    with torch.inference_mode():
        assert model(torch.randn(1, 3, size, size)).isfinite().all()


def kinds_for(stage: Stage, block: Block) -> list[BlockKind]:
    """Every kind, small, with the settings that change what is built."""
    width = None if block.expansion else 8
    side = min(4, *stage.size)
    return [
        LocalAttention(heads=2, head_size=8, window=side, width=width),
        LocalAttention(heads=2, head_size=8, window=1, width=8, tables="heads"),
        GlobalAttention(heads=2, head_size=8, width=8),
        ConvAttention(heads=1, kernel=3, head_size=8, width=8),
        ConvAttention(heads=1, kernel=5, head_size=8, width=8, borders="attended"),
        GatedAttention(),
        Smoothing(),
        Conv(),
    ]


def legal_edits(network: Network) -> list[Edit]:
    edits: list[Edit] = []
    for stage in network.stages:
        if stage.closed is None:
            edits += [Append(stage=stage.name, kind=kind) for kind in kinds_for(stage, stage.blocks[-1])]
        for position in stage.replaceable:
            block = stage.blocks[position]
            edits += [replacement(network, block.path, kind) for kind in kinds_for(stage, block) if kind != block.kind]
    return edits


def edited(family: Family, size: int, data: st.DataObject) -> Network:
    """A network after a few legal edits in a row."""
    network = network_of(family, size=size)
    for _ in range(data.draw(st.integers(1, 4))):
        network = apply(network, data.draw(st.sampled_from(legal_edits(network))))
    return network


OTHERS = [Family(base=base) for base in ("convnext_atto", "regnety_002", "mobilenetv3_small_050", "mambaout_femto")]


@given(
    st.sampled_from([RESNET, RESNETV2, Family(base="resnet26", args=BOTTLENECKS), *OTHERS]),
    st.integers(20, 28),
    st.data(),
)
@settings(max_examples=15)
def test_any_legal_edits_give_a_network_that_trains_a_step(family: Family, size: int, data: st.DataObject) -> None:
    network = edited(family, size, data)
    model = build(network, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    images = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(0))
    loss = F.cross_entropy(model(images), torch.tensor([0, 1, 2, 3]))
    torch.autograd.backward(loss)
    optimizer.step()
    assert loss.isfinite(), layout(network)
    assert all(parameter.grad is not None and parameter.isfinite().all() for parameter in model.parameters())
    assert any(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


@pytest.mark.slow
@given(st.sampled_from([RESNET, RESNETV2, *OTHERS]), st.data())
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_legal_edits_give_a_network_that_exports_and_loads_with_equal_logits(
    tmp_path: Path, family: Family, data: st.DataObject
) -> None:
    network = edited(family, 24, data)
    model = build(network, seed=0)
    model(torch.randn(4, *network.input_shape, generator=torch.Generator().manual_seed(0)))
    folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
    # It raises where the file alone gives other logits than timm.
    export_network(network, model.state_dict(), folder, card="")
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert torch.equal(probe_logits(loaded, network), probe_logits(model, network))
    assert {"config.json", "model.safetensors", "alternet.py"} <= {path.name for path in folder.iterdir()}


def test_dropped_paths_rise_evenly_over_all_blocks_that_exist_after_building_up() -> None:
    base = read_network("resnetv2_50", input_shape=(3, 32, 32), num_classes=10)
    network = from_layout("CCC|CCCM|CCCCCM|CMCM", base, load("paper"))
    model = build(network, device="meta", drop_path_rate=0.1)
    rates = [
        [module.drop_prob for module in model.get_submodule(block.path).modules() if isinstance(module, DropPath)]
        for block in network.blocks
    ]
    # The reference: rate * i / (N - 1), .00625 a block over 17.
    assert rates[0] == []
    assert rates[1:] == [[pytest.approx(0.1 * place / 16)] for place in range(1, 17)]


def test_dropped_paths_of_a_base_without_added_blocks_are_those_of_timm() -> None:
    base = read_network("efficientnet_lite0", input_shape=(3, 32, 32), num_classes=10)
    theirs = timm.create_model("efficientnet_lite0", drop_path_rate=0.2)
    ours = build(base, device="meta", drop_path_rate=0.2)
    assert [module.drop_prob for module in ours.modules() if isinstance(module, DropPath)] == [
        module.drop_prob for module in theirs.modules() if isinstance(module, DropPath)
    ]
