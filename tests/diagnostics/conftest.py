"""Tiny models of many families, and one thread for all of them."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import timm
import torch
from torch import nn

from buildup.models.build import build
from buildup.models.read import read_network
from buildup.space.load import load
from buildup.strategies.moves import from_layout

TINY: dict[str, dict[str, Any]] = {
    "test_resnet": {},
    "test_efficientnet_ln": {},
    "test_convnext": {},
    "test_vit": {"img_size": 32, "patch_size": 8},
    "test_vit4": {"img_size": 32, "patch_size": 8},
    "swin_tiny_patch4_window7_224": {
        "img_size": 32, "patch_size": 2, "embed_dim": 16, "depths": (2, 2), "num_heads": (1, 2), "window_size": 4
    },
    "swinv2_cr_tiny_224": {
        "img_size": 32, "patch_size": 2, "embed_dim": 16, "depths": (2, 2), "num_heads": (1, 2), "window_size": 4
    },
    "pit_ti_224": {
        "img_size": 32, "patch_size": 4, "stride": 2, "base_dims": (16, 16), "heads": (1, 2), "depth": (1, 2)
    },
    "deit_tiny_distilled_patch16_224": {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2},
    "xcit_nano_12_p16_224": {"img_size": 32, "patch_size": 16, "embed_dim": 16, "depth": 2, "num_heads": 2},
}  # fmt: skip
"""timm's names, and what makes them small."""


def tiny(name: str, **other: Any) -> nn.Module:
    """A timm model with ten classes for images of 32 px, its weights drawn from a fixed seed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=10, **TINY[name] | other)
        shaken(model)
    return model


def alternet(layout: str) -> nn.Module:
    """A narrow AlterNet for digits."""
    narrow = {"channels": [16, 16, 32, 32], "stem_chs": 16}
    start = read_network("resnetv2_18", input_shape=(1, 16, 16), num_classes=10, base_args=narrow)
    model = build(from_layout(layout, start, load("alternet")), seed=0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shaken(model)
    return model


def shaken(model: nn.Module) -> None:
    """Let no weight be zero and no statistic be the usual one: what starts as the identity would hide mistakes."""
    for weight in model.parameters():
        weight.data += 0.05 * torch.randn_like(weight)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """These models are so small that threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def _own_data_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BUILDUP_DATA", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(scope="session")
def make() -> Callable[..., nn.Module]:
    """A tiny timm model by its name."""
    return tiny


@pytest.fixture(scope="session")
def make_alternet() -> Callable[[str], nn.Module]:
    """A narrow AlterNet by its layout."""
    return alternet


@pytest.fixture(params=[*TINY, "CC|CM|CG|CK", "CC|CS|CM|CM"])
def any_model(request: pytest.FixtureRequest) -> nn.Module:
    """One model of each family."""
    return alternet(request.param) if "|" in request.param else tiny(request.param)
