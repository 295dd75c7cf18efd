import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from buildup.errors import ExportError, ResourceError
from buildup.graph.kinds import BlockKind, ConvAttention, GatedAttention, GlobalAttention, LocalAttention, Smoothing
from buildup.graph.network import Network, apply, replacement
from buildup.models.build import build
from buildup.models.export import CLOSE, PACKAGES, check_onnx, export_network, probe_logits, save_onnx
from buildup.models.read import read_network

SHAPE: dict[str, Any] = {"heads": 2, "head_size": 8, "width": 16}


def mixed(base: str) -> Network:
    """A base with one kind of block in each of its last stages."""
    network = read_network(base, input_shape=(3, 64, 64), num_classes=6)
    kinds: list[BlockKind] = [
        GlobalAttention(**SHAPE),
        LocalAttention(window=3, **SHAPE),
        ConvAttention(kernel=3, **SHAPE),
        Smoothing(),
    ]
    for stage in reversed(network.stages):
        if kinds and (places := stage.positions()):
            network = apply(network, replacement(network, stage.blocks[places[0]].path, kinds.pop(0)))
    left = [stage.blocks[index] for stage in network.stages for index in stage.replaceable]
    for block in [block for block in left if block.path not in network.replaced and block.module != "ConvNormAct"][:1]:
        network = apply(network, replacement(network, block.path, GatedAttention()))
    return network


def answers(path: Path, images: Tensor) -> Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


@pytest.mark.parametrize("package", PACKAGES)
def test_a_missing_package_is_named_with_what_installs_it(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ResourceError, match=rf"{package} can't be imported.*'\.\[onnx\]'"):
        check_onnx()


@pytest.mark.slow
@pytest.mark.parametrize("base", ["resnet18", "resnetv2_18", "regnety_002", "mambaout_femto", "vgg11_bn"])
def test_onnxruntime_gives_the_same_logits_for_images_and_batches_of_any_size(base: str, tmp_path: Path) -> None:
    model = build(mixed(base), seed=0).eval()
    save_onnx(model, tmp_path / "model.onnx", (3, 64, 64))
    for shape in ((1, 3, 64, 64), (4, 3, 64, 64), (2, 3, 80, 100)):
        images = torch.randn(shape)
        with torch.inference_mode():
            expected = model(images)
        torch.testing.assert_close(answers(tmp_path / "model.onnx", images), expected, atol=CLOSE, rtol=0)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


class Fixed(nn.Module):
    """A model that takes images of one size alone."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3 * 8 * 8, 5)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(images.flatten(1))
        return logits


class Random(nn.Module):
    """A model that answers anew each time."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3)) + torch.randn(images.shape[0], 3)


@pytest.mark.slow
def test_a_network_for_one_size_of_images_still_takes_batches_of_any_size(tmp_path: Path) -> None:
    model = Fixed().eval()
    save_onnx(model, tmp_path / "model.onnx", (3, 8, 8))
    images = torch.randn(7, 3, 8, 8)
    torch.testing.assert_close(answers(tmp_path / "model.onnx", images), model(images).detach(), atol=CLOSE, rtol=0)


@pytest.mark.slow
def test_other_logits_are_refused_and_leave_no_file(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="differ by"):
        save_onnx(Random(), tmp_path / "model.onnx", (3, 8, 8))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_export_has_the_same_network_in_this_form_too(tmp_path: Path) -> None:
    network = mixed("resnet18")
    export_network(network, build(network, seed=0).state_dict(), tmp_path / "net", card="", onnx=True)
    model = timm.create_model(f"local-dir:{tmp_path / 'net'}", pretrained=True)
    images = torch.randn(2, *network.input_shape, generator=torch.Generator().manual_seed(0))
    found = answers(tmp_path / "net" / "model.onnx", images)
    torch.testing.assert_close(found, probe_logits(model, network), atol=CLOSE, rtol=0)
