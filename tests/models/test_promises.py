"""What timm promises of its models holds for ours: one network of each of some families, edited in its last stages."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import timm
import torch
from timm.layers.config import set_scriptable
from timm.models import FeatureGraphNet, create_feature_extractor
from torch import Tensor, nn

from buildup.graph.kinds import BlockKind, ConvAttention, GlobalAttention, LocalAttention, Smoothing
from buildup.graph.network import Network, apply, replacement
from buildup.models.build import build
from buildup.models.read import read_network


@dataclass(frozen=True, kw_only=True)
class Family:
    base: str
    args: Mapping[str, Any] = field(default_factory=dict)
    intermediates: bool = True
    """Whether timm gives the intermediate maps of this family."""


THIN = {"channels": [16, 16, 32, 64]}
QUICK = [
    Family(base="resnet18", args=THIN),
    Family(base="resnetv2_18", args=THIN),
    Family(base="convnext_atto", args={"depths": [1, 2, 2, 2], "dims": [8, 16, 32, 64]}),
]
SLOW = [
    Family(base="regnety_002"),
    Family(base="efficientnet_b0"),
    Family(base="mobilenetv3_small_050"),
    Family(base="mambaout_femto", args={"depths": [1, 2, 2, 2], "dims": [16, 32, 48, 64]}),
    Family(base="repghostnet_050"),
    Family(base="vgg11_bn", intermediates=False),
]
FAMILIES = [*QUICK, *(pytest.param(family, marks=pytest.mark.slow) for family in SLOW)]
EACH = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.base)
SOME = pytest.mark.parametrize("family", QUICK[:2], ids=lambda family: family.base)

SIZE = 64
SHAPE: dict[str, Any] = {"heads": 2, "head_size": 8, "width": 16}
KINDS: tuple[BlockKind, ...] = (
    LocalAttention(window=2, **SHAPE),
    ConvAttention(kernel=3, **SHAPE),
    GlobalAttention(**SHAPE),
    Smoothing(),
)


def images(count: int = 2, height: int = SIZE, width: int = SIZE, channels: int = 3) -> Tensor:
    return torch.randn(count, channels, height, width, generator=torch.Generator().manual_seed(0))


def plain(family: Family, **settings: Any) -> Network:
    shape = (3, SIZE, SIZE)
    return read_network(family.base, input_shape=shape, num_classes=5, stem="base", base_args=family.args, **settings)


def edited(family: Family) -> Network:
    """The base with a kind of its own in each of its last stages."""
    network = plain(family)
    kinds = list(KINDS)
    for stage in reversed(network.stages):
        if kinds and (places := stage.positions()):
            network = apply(network, replacement(network, stage.blocks[places[0]].path, kinds.pop(0)))
    return network


def made(family: Family, **overrides: Any) -> Any:
    return build(edited(family), seed=0, **overrides).eval()


@EACH
def test_features_of_all_levels_are_the_bases_where_nothing_is_replaced(family: Family) -> None:
    torch.manual_seed(0)
    theirs = timm.create_model(family.base, features_only=True, **dict(family.args)).eval()
    ours = build(plain(family), seed=0, features_only=True).eval()
    # timm's wrappers name modules by their paths, with dots or without.
    weights = {name.replace(".", "_"): weight for name, weight in theirs.state_dict().items()}
    for name, weight in ours.state_dict().items():
        weight.copy_(weights[name.replace(".", "_")])
    for found, expected in zip(ours(images()), theirs(images()), strict=True):
        assert torch.equal(found, expected)


@EACH
def test_features_have_the_shapes_that_are_told(family: Family) -> None:
    model = made(family, features_only=True)
    found = model(images())
    channels_last = [feature.shape[-1] for feature in found] == model.feature_info.channels()
    sides = [feature.shape[1 if channels_last else 2] for feature in found]
    assert channels_last or [feature.shape[1] for feature in found] == model.feature_info.channels()
    assert [round(SIZE / side) for side in sides] == model.feature_info.reduction()


@EACH
def test_one_level_of_features_can_be_had_alone(family: Family) -> None:
    model = made(family, features_only=True)
    every = model(images())
    last = len(every) - 1
    (alone,) = made(family, features_only=True, out_indices=(last,))(images())
    torch.testing.assert_close(alone, every[last])


@EACH
def test_intermediate_maps_are_those_on_the_way_to_the_logits(family: Family) -> None:
    if not family.intermediates:
        pytest.skip("timm has none for this family")
    model = made(family)
    last, maps = model.forward_intermediates(images())
    torch.testing.assert_close(model.forward_head(last), model(images()))
    getter = made(family, features_only=True, feature_cls="getter", out_indices=(len(maps) - 1,))
    torch.testing.assert_close(getter(images())[0], maps[-1])


@EACH
def test_the_classifier_can_be_replaced_and_removed(family: Family) -> None:
    model = made(family)
    features = model.forward_features(images())
    assert torch.equal(model.forward_head(features), model(images()))
    before = model.forward_head(features, pre_logits=True)
    assert before.shape == (2, model.head_hidden_size)
    model.reset_classifier(3)
    assert model(images()).shape == (2, 3)
    model.reset_classifier(0)
    torch.testing.assert_close(model(images()), before)


@EACH
def test_no_classes_and_other_channels_can_be_asked_for(family: Family) -> None:
    model = made(family, num_classes=0, in_chans=1)
    assert model(images(channels=1)).shape == (2, model.head_hidden_size)


@EACH
def test_gradients_are_equal_with_checkpointing(family: Family) -> None:
    # Normalised by running statistics: a block that runs twice would update them twice.
    model = made(family).double()
    try:
        model.set_grad_checkpointing(True)
    except AssertionError:
        pytest.skip("timm has no checkpointing for this family")
    found = gradients(model)
    model.set_grad_checkpointing(False)
    for name, expected in gradients(model).items():
        torch.testing.assert_close(found[name], expected)


def gradients(model: Any) -> dict[str, Tensor]:
    model.zero_grad()
    model(images().double()).square().sum().backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters()}


@EACH
def test_maps_can_be_extracted_by_tracing(family: Family) -> None:
    network = edited(family)
    path = list(network.replaced)[-1]
    traced: Any = create_feature_extractor(made(family), {path: "map"})
    expected: list[Tensor] = []
    model = made(family)
    model.get_submodule(path).register_forward_hook(lambda module, before, after: expected.append(after))
    model(images())
    torch.testing.assert_close(traced(images())["map"], expected[0])


@SOME
def test_the_traced_wrapper_gives_the_same_features(family: Family) -> None:
    traced = made(family, features_only=True, feature_cls="fx")
    assert isinstance(traced, FeatureGraphNet)
    for found, expected in zip(traced(images()), made(family, features_only=True)(images()), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore:`torch.jit:DeprecationWarning")
@EACH
def test_a_network_can_be_scripted_where_its_base_can(family: Family) -> None:
    with set_scriptable(True):
        model = made(family)
    scripted: Any = torch.jit.script(model)
    torch.testing.assert_close(scripted(images()), made(family)(images()), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@EACH
def test_a_network_can_be_exported_for_images_of_any_size(family: Family) -> None:
    model: nn.Module = made(family)
    dynamic = torch.export.Dim.DYNAMIC
    # torch ties a graph to the number of windows where the example has but one of them.
    example = images(2, 4 * SIZE, 4 * SIZE)
    program = torch.export.export(model, (example,), dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},))
    for size in ((3, 5 * SIZE, 4 * SIZE + 20), (2, 6 * SIZE, 5 * SIZE)):
        torch.testing.assert_close(program.module()(images(*size)), model(images(*size)), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@EACH
def test_a_network_can_be_compiled(family: Family) -> None:
    model = made(family)
    compiled: Any = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images()), model(images()), atol=1e-5, rtol=1e-4)
