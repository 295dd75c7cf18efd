from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from buildup.errors import RunError
from buildup.graph.edit import Append, apply, replacement
from buildup.graph.kinds import BlockKind, Conv, LocalAttention, Smoothing
from buildup.graph.network import Network
from buildup.models.build import build
from buildup.models.inherit import Inheritance, inherit, new_blocks
from buildup.models.read import read

ATTENTION = LocalAttention(heads=2, head_size=8, window=4, width=16)
BASES = [
    "resnet18",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnetv2_18", "regnety_002", "convnext_atto")),
]


def changed(network: Network, kind: BlockKind) -> Network:
    """With another kind in place of the last block."""
    return apply(network, replacement(network, network.stages[-1].blocks[-1].path, kind))


def trained(network: Network, folder: Path) -> tuple[nn.Module, Inheritance]:
    """A model whose weights and statistics are not those that it began with, and the file of them."""
    model = build(network, seed=1).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.add_(0.01 if "running" in name else 0.003)
    path = folder / "weights.safetensors"
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, path, {"identity": "network x, seed 1"})
    return model, Inheritance(network=network, weights=str(path))


@pytest.mark.parametrize("base", BASES)
def test_a_candidate_computes_at_first_what_its_parent_does_without_the_replaced_block(
    base: str, tmp_path: Path
) -> None:
    parent = read(base, input_shape=(3, 32, 32), num_classes=5)
    model, weights = trained(parent, tmp_path)
    network = changed(parent, ATTENTION)
    child = build(network, seed=1).eval()
    [path] = new_blocks(network, parent)
    place, _, name = path.rpartition(".")
    model.get_submodule(place).add_module(name, nn.Identity())
    x = torch.randn(2, 3, 32, 32)
    assert inherit(child, network, weights) == ()
    with torch.inference_mode():
        torch.testing.assert_close(child(x), model(x), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_the_new_block_learns_from_the_first_step_on(tmp_path: Path) -> None:
    parent = read("resnet18", input_shape=(3, 32, 32), num_classes=5)
    _, weights = trained(parent, tmp_path)
    network = changed(parent, ATTENTION)
    child = build(network, seed=1).train()
    inherit(child, network, weights)
    child(torch.randn(4, 3, 32, 32)).square().sum().backward()
    [path] = new_blocks(network, parent)
    gradients = [parameter.grad for parameter in child.get_submodule(path).parameters()]
    assert any(gradient is not None and gradient.any() for gradient in gradients)


@pytest.mark.slow
def test_a_parent_that_goes_on_keeps_all_of_its_weights(tmp_path: Path) -> None:
    parent = read("resnet18", input_shape=(3, 32, 32), num_classes=5)
    model, weights = trained(parent, tmp_path)
    again = build(parent, seed=2)
    assert inherit(again, parent, weights) == ()
    assert all(
        torch.equal(ours, theirs)
        for ours, theirs in zip(again.state_dict().values(), model.state_dict().values(), strict=True)
    )


def test_an_added_block_of_the_base_starts_as_the_identity_and_smoothing_is_named(tmp_path: Path) -> None:
    parent = read("resnet18", input_shape=(3, 32, 32), num_classes=5)
    model, weights = trained(parent, tmp_path)
    longer = apply(parent, Append(stage=parent.stages[-1].name, kind=Conv()))
    child = build(longer, seed=1).eval()
    assert inherit(child, longer, weights) == ()
    x = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(child(x), model(x), rtol=0, atol=1e-5)
    smooth = apply(parent, Append(stage=parent.stages[-1].name, kind=Smoothing(kernel=2)))
    assert inherit(build(smooth, seed=1), smooth, weights) == new_blocks(smooth, parent) != ()


@pytest.mark.slow
def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    parent = read("resnet18", input_shape=(3, 32, 32), num_classes=5)
    other = read("resnet18", input_shape=(3, 32, 32), num_classes=7)
    _, weights = trained(parent, tmp_path)
    with pytest.raises(RunError, match=r"no fc.weight of shape \(7, 512\)"):
        inherit(build(other, seed=1), other, weights)
    (tmp_path / "torn").write_bytes(b"x")
    with pytest.raises(RunError, match="no weights of a training"):
        _ = Inheritance(network=parent, weights=str(tmp_path / "torn")).identity
