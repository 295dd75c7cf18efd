"""Every convolutional family of timm: what is read computes what timm's model does, and what is edited trains."""

import copy
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from buildup.engine.graph_cache import base_models
from buildup.errors import BaseError, LayoutError
from buildup.graph.kinds import GatedAttention
from buildup.graph.network import Network, apply
from buildup.models.bases import judge_bases
from buildup.models.blocks import ChannelsLast, PostActAttentionBlock, PreActAttentionBlock, block_factory
from buildup.models.build import build
from buildup.models.read import read_network
from buildup.space.load import load
from buildup.strategies.moves import moves

ALTERNET = load("alternet")

SMALL = (
    "convnext_atto",
    "dla46_c",
    "efficientnet_lite0",
    "fasternet_t0",
    "ghostnet_050",
    "hgnetv2_b0",
    "mambaout_femto",
    "mobilenetv3_small_050",
    "nf_regnet_b0",
    "regnety_002",
    "repvgg_a0",
    "starnet_s1",
)


def last_of_every_stage(network: Network) -> Network:
    """The network with attention at the last legal position of every stage."""
    for places in moves(network, ALTERNET):
        if places:
            network = apply(network, places[0].edit(network))
    return network


def pictures(network: Network, number: int = 2) -> Tensor:
    return torch.randn(number, *network.input_shape, generator=torch.Generator().manual_seed(0))


def check_equal(base: str, size: int) -> None:
    network = read_network(base, input_shape=(3, size, size), num_classes=7, stem="base")
    ours = build(network).eval()
    theirs = timm.create_model(base, num_classes=7).eval()
    theirs.load_state_dict(ours.state_dict())
    with torch.inference_mode():
        assert torch.equal(ours(pictures(network)), theirs(pictures(network)))


def check_trains(base: str, size: int) -> None:
    check_gradients(last_of_every_stage(read_network(base, input_shape=(3, size, size), num_classes=7)))


def check_gradients(network: Network) -> None:
    assert network.replaced
    model = build(network)
    logits = model(pictures(network))
    logits.square().sum().backward()
    assert torch.isfinite(logits).all()
    for path in network.replaced:
        gradients = [weight.grad for weight in model.get_submodule(path).parameters()]
        assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients), path


@pytest.mark.parametrize("base", SMALL)
def test_a_base_that_is_read_and_built_is_the_base(base: str) -> None:
    check_equal(base, 64)


@pytest.mark.parametrize("base", SMALL)
def test_attention_at_the_end_of_every_stage_trains(base: str) -> None:
    check_trains(base, 32)


@pytest.mark.parametrize("base", ["convnext_atto", "mambaout_femto", "resnet18", "starnet_s1"])
def test_attention_at_the_first_block_of_a_stage_trains_where_shapes_allow(base: str) -> None:
    network = read_network(base, input_shape=(3, 32, 32), num_classes=7)
    first = [number for number, stage in enumerate(network.stages) if 0 in stage.replaceable]
    assert first
    for number in first:
        network = network.replace(network.stages[number].blocks[0].path, "M")
    check_gradients(network)


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    """Give weights that start at zero, or close to it, and the statistics of norms other values than at the start."""
    generator = torch.Generator().manual_seed(1)
    for name, values in model.state_dict().items():
        if name.endswith("running_mean") or (values.is_floating_point() and values.abs().max() < 1e-3):
            values.uniform_(0.2, 0.6, generator=generator)
        elif name.endswith("running_var"):
            values.uniform_(0.5, 1.5, generator=generator)


def starts(base: str, size: int) -> dict[str, float | str]:
    """How far a block with gated attention is from the base's own at each place, or why there can be none."""
    network = read_network(base, input_shape=(3, size, size), num_classes=7, stem="base")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(base, num_classes=7).eval()
    randomise(model)
    places = [stage.blocks[index] for stage in network.stages for index in stage.replaceable]
    given: dict[str, Tensor] = {}
    for block in places:
        keep = lambda _, inputs, path=block.path: given.update({path: inputs[0].clone()})  # noqa: E731
        model.get_submodule(block.path).register_forward_pre_hook(keep)
    found: dict[str, float | str] = {}
    with torch.inference_mode():
        model(pictures(network, 1))
    for block in places:
        own = copy.deepcopy(model.get_submodule(block.path))
        own._forward_pre_hooks.clear()
        with torch.inference_mode():
            wanted = own(given[block.path].clone())
        try:
            new = block_factory(replace(block, kind=GatedAttention()))(copy.deepcopy(own))
        except LayoutError as error:
            found[block.path] = str(error)
            continue
        with torch.inference_mode():
            difference = (new(given[block.path].clone()) - wanted).abs().max() / wanted.abs().max()
        found[block.path] = difference.item()
    return found


def kept(found: dict[str, float | str]) -> str:
    """Whether all blocks of a base start as what they replace, or what else is true of the worst."""
    if refused := [one for one in found.values() if isinstance(one, str)]:
        return f"refused: {refused[0]}"
    return "exact" if all(error <= 1e-5 for error in found.values() if isinstance(error, float)) else "fitted"


@pytest.mark.parametrize("base", ["resnet26", "resnetv2_18", "test_resnet"])
def test_gated_attention_starts_as_the_block_that_it_replaces(base: str) -> None:
    assert kept(starts(base, 64)) == "exact"


def test_gated_attention_starts_near_a_block_of_larger_convolutions() -> None:
    found = starts("convnext_atto", 64)
    assert kept(found) == "fitted"
    assert all(0 < float(error) < 1 for error in found.values())


@pytest.mark.slow
def test_gated_attention_starts_exactly_in_most_families(listed: list[str]) -> None:
    found = Counter(kept(starts(base, fitting_size(base))).partition(":")[0] for base in listed)
    print(found)
    assert found["exact"] >= 300


@dataclass(frozen=True, kw_only=True)
class Habit:
    """What the attention block of a base is expected to take over."""

    base: str
    path: str
    block: type[nn.Module]
    norm: type[nn.Module]
    act: type[nn.Module] = nn.Identity
    scale: float | None = None


HABITS = [
    Habit(base="convnext_atto", path="stages.3.blocks.1", block=PreActAttentionBlock, norm=nn.LayerNorm, scale=1e-6),
    Habit(base="efficientnet_lite0", path="blocks.5.3", block=PostActAttentionBlock, norm=nn.BatchNorm2d),
    Habit(base="regnety_002", path="s4.b7", block=PostActAttentionBlock, norm=nn.BatchNorm2d, act=nn.ReLU),
    Habit(base="nf_regnet_b0", path="stages.3.5", block=PreActAttentionBlock, norm=nn.LayerNorm),
    Habit(base="repvgg_a0", path="stages.2.13", block=PostActAttentionBlock, norm=nn.BatchNorm2d, act=nn.ReLU),
    Habit(base="dpn48b", path="features.conv5_3.c3x3_b", block=PreActAttentionBlock, norm=nn.BatchNorm2d),
]


@pytest.mark.parametrize("habit", HABITS, ids=lambda habit: habit.base)
def test_attention_takes_over_the_habits_of_a_family(habit: Habit) -> None:
    network = last_of_every_stage(read_network(habit.base, input_shape=(3, 64, 64), num_classes=7))
    block: Any = build(network).get_submodule(habit.path)
    assert type(block) is habit.block
    assert isinstance(block.norm2, habit.norm)
    assert isinstance(getattr(block, "act2", nn.Identity()), habit.act)
    scale = getattr(block, "scale", None)
    assert (None if scale is None else pytest.approx(scale.detach().mean().item())) == habit.scale


def test_a_base_of_maps_with_channels_last_gets_blocks_that_turn_them() -> None:
    network = last_of_every_stage(read_network("mambaout_femto", input_shape=(3, 64, 64), num_classes=7))
    assert network.block("stages.3.blocks.2").out_shape == (288, 8, 8)
    assert isinstance(build(network, device="meta").get_submodule("stages.3.blocks.2"), ChannelsLast)


def test_attention_costs_about_what_it_replaces_in_families_that_the_paper_does_not_speak_of() -> None:
    network = read_network("convnext_atto", input_shape=(3, 64, 64), num_classes=7)
    edited = last_of_every_stage(network)
    model = build(edited, device="meta")
    for path in edited.replaced:
        params = sum(weight.numel() for weight in model.get_submodule(path).parameters())
        assert params == pytest.approx(network.block(path).params, rel=0.1)


def test_a_pattern_is_looked_into_once_and_then_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    rows = base_models("resnet1[48]t*")
    row = {"name": "resnet14t", "family": "resnet", "supported": False, "stages": 0, "positions": 0}
    assert rows == [row | {"reason": rows[0]["reason"]}]
    assert "resnet14t can't be a base" in rows[0]["reason"]
    monkeypatch.delattr("buildup.models.bases.judge_bases")
    assert base_models("resnet14t") == rows


def test_a_model_that_is_no_cnn_is_told_from_one_that_cannot_be_a_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    rows = judge_bases({}, "vit_tiny_patch16_224")["rows"] | judge_bases({}, "densenet121")["rows"]
    assert (rows["vit_tiny_patch16_224"]["convolutional"], rows["densenet121"]["convolutional"]) == (False, True)
    assert not rows["densenet121"]["supported"]


@pytest.fixture(scope="session")
def listed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [name for name, row in judge_bases({}, None)["rows"].items() if row["supported"]]


@pytest.mark.slow
def test_the_catalogue_has_most_convolutional_names(listed: list[str]) -> None:
    assert len(listed) >= 560


def fitting_size(base: str) -> int:
    """The smallest of a few sizes that the base takes: some are made for one."""
    for size in (64, 128, 224, 256, 299, 331):
        try:
            read_network(base, input_shape=(3, size, size), num_classes=7, stem="base")
        except BaseError:
            continue
        return size
    raise AssertionError(f"{base} takes no size")


@pytest.mark.slow
@pytest.mark.parametrize("part", range(32))
def test_every_listed_name_computes_what_its_base_does_and_trains_when_edited(listed: list[str], part: int) -> None:
    """One test for many names, so that what failed is told together."""
    failed = []
    for base in listed[part::32]:
        try:
            size = fitting_size(base)
            check_equal(base, size)
            check_trains(base, size)
        except Exception as error:  # noqa: BLE001
            failed.append(f"{base}: {error!r}")
    assert not failed
