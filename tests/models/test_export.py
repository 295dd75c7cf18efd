import json
import os
import subprocess
import sys
from importlib import import_module
from itertools import count
from pathlib import Path
from shutil import which
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from buildup.errors import ExportError, RunError
from buildup.graph.kinds import BlockKind, ConvAttention, GatedAttention, GlobalAttention, LocalAttention, Smoothing
from buildup.graph.network import Append, Network, apply, replacement
from buildup.graph.serialize import fingerprint
from buildup.models.build import build, data_config
from buildup.models.export import check_target, export_network, probe_logits
from buildup.models.read import read_network
from buildup.models.standalone import standalone


def network_of(base: str, stage: str) -> Network:
    """A base with one block more at a stage's end, which is attention."""
    channels = [16, 16, 32, 64] if base in ("resnet18", "resnetv2_18") else None
    args = {"channels": channels} if channels else None
    network = apply(read_network(base, input_shape=(3, 16, 16), num_classes=6, base_args=args), Append(stage=stage))
    path = next(block.path for block in network.blocks if block.added)
    return apply(network, replacement(network, path, LocalAttention(heads=2, head_size=8, window=2)))


def trained(network: Network) -> dict[str, Tensor]:
    """Weights that are not those of the start, batch statistics included."""
    model = build(network, seed=0)
    torch.manual_seed(0)
    model(torch.randn(4, *network.input_shape))
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.05)
    return model.state_dict()


NETWORK = network_of("resnet18", "layer4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "net"
    export_network(
        NETWORK, trained(NETWORK), folder, card="# A card\n", data={"mean": (0.5, 0.4, 0.3), "crop_pct": 1.0}
    )
    return folder


@pytest.fixture(scope="module")
def expected() -> Tensor:
    model = build(NETWORK)
    model.load_state_dict(trained(NETWORK))
    return probe_logits(model, NETWORK)


def test_timm_loads_the_folder_with_equal_logits(folder: Path, expected: Tensor) -> None:
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert torch.equal(probe_logits(model, NETWORK), expected)


def test_the_folder_holds_what_is_promised_and_nothing_else(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "alternet.py", "README.md"}
    assert [path.name for path in folder.parent.iterdir()] == ["net"]
    assert (folder / "README.md").read_text() == "# A card\n"


def test_whoever_may_read_the_folder_may_read_the_weights(folder: Path) -> None:
    modes = {path.name: path.stat().st_mode for path in folder.iterdir()}
    assert modes["model.safetensors"] == modes["config.json"]


def test_the_config_says_how_images_are_prepared(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
    assert config["input_size"] == [3, 16, 16]
    assert (config["mean"], config["crop_pct"], config["num_classes"]) == ([0.5, 0.4, 0.3], 1.0, 6)
    assert (config["first_conv"], config["classifier"]) == ("conv1", "fc")


def test_other_classes_and_channels_load_with_all_else_as_trained(folder: Path) -> None:
    plain = timm.create_model(f"local-dir:{folder}", pretrained=True).state_dict()
    other = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=3, in_chans=1)
    assert other.eval()(torch.randn(2, 1, 16, 16)).shape == (2, 3)
    weights = other.state_dict()
    torch.testing.assert_close(weights["conv1.weight"], plain["conv1.weight"].sum(dim=1, keepdim=True))
    assert all(torch.equal(weights[name], plain[name]) for name in plain if not name.startswith(("conv1.", "fc.")))


def test_features_load_from_the_folder(folder: Path) -> None:
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, features_only=True, out_indices=(2, 4))
    assert [feature.shape[1:] for feature in model(torch.randn(1, 3, 16, 16))] == [(16, 8, 8), (64, 2, 2)]


def test_the_single_file_loads_beside_buildup_under_a_name_of_its_own(
    folder: Path, expected: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "alternet", raising=False)
    alternet = import_module("alternet")
    name = f"alternet_{fingerprint(NETWORK)}"
    assert timm.is_model(name)
    assert torch.equal(probe_logits(alternet.load(), NETWORK), expected)
    assert timm.create_model(name, pretrained=True, num_classes=2)(torch.randn(1, 3, 16, 16)).shape == (1, 2)


def test_logits_that_are_not_the_trained_models_fail_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = count()
    monkeypatch.setattr(
        "buildup.models.export.probe_logits", lambda model, network: probe_logits(model, network) + next(others)
    )
    with pytest.raises(ExportError, match="its logits differ by"):
        export_network(NETWORK, trained(NETWORK), tmp_path / "net", card="")
    assert not list(tmp_path.iterdir())


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="not those of this network"):
        export_network(NETWORK, build(network_of("resnet18", "layer3")).state_dict(), tmp_path / "net", card="")
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_is_refused_and_an_empty_one_taken(tmp_path: Path) -> None:
    check_target(tmp_path)
    check_target(tmp_path / "new")
    (tmp_path / "mine.txt").write_text("mine")
    for target in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(RunError, match="Choose another"):
            export_network(NETWORK, {}, target, card="")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("base", "held", "missing"),
    [
        ("resnet18", "PostActAttentionBlock", "PreActAttentionBlock"),
        ("resnetv2_18", "PreActAttentionBlock", "PostActAttentionBlock"),
    ],
)
def test_the_single_file_holds_the_form_it_needs_and_knows_nothing_of_buildup(
    base: str, held: str, missing: str
) -> None:
    stage = "layer4" if base == "resnet18" else "stages.3"
    network = network_of(base, stage)
    text = standalone(network, data_config(network))
    assert f"class {held}" in text
    assert missing not in text
    assert "import buildup" not in text
    assert "from buildup" not in text


def test_the_single_file_of_a_base_as_it_is_has_no_attention() -> None:
    network = read_network("resnet18", input_shape=(3, 224, 224), num_classes=10)
    text = standalone(network, data_config(network))
    assert "Attention" not in text
    assert "shrink" not in text
    compile(text, "alternet.py", "exec")


def mixed(base: str, size: int = 64) -> Network:
    """A base with one kind of block in each of its last stages, and one block more where there can be one."""
    network = read_network(base, input_shape=(3, size, size), num_classes=6)
    shape: dict[str, Any] = {"heads": 2, "head_size": 8, "width": 16}
    kinds: list[BlockKind] = [
        LocalAttention(window=2, **shape),
        ConvAttention(kernel=3, **shape),
        Smoothing(),
        GlobalAttention(**shape),
    ]
    for number in reversed(range(len(network.stages))):
        if network.stages[number].closed is None and not any(block.added for block in network.blocks):
            network = apply(network, Append(stage=network.stages[number].name))
        stage = network.stages[number]
        if kinds and (places := stage.positions()):
            network = apply(network, replacement(network, stage.blocks[places[0]].path, kinds.pop(0)))
    left = [stage.blocks[index] for stage in network.stages for index in stage.replaceable]
    for block in [block for block in left if block.path not in network.replaced and block.module != "ConvNormAct"][:1]:
        network = apply(network, replacement(network, block.path, GatedAttention()))
    return network


# ResNet's and RegNet's forms, layer scale, maps with channels last, blocks without a norm or with weights standardised,
# and stages of single convolutions.
FORMS = ["resnet26t", "regnety_002", "convnext_atto", "mambaout_femto", "nfnet_l0", "efficientnet_b0", "vgg11_bn"]


@pytest.mark.parametrize("base", [*FORMS[:2], *(pytest.param(base, marks=pytest.mark.slow) for base in FORMS[2:])])
def test_the_single_file_looks_as_ruff_would_format_it(base: str, tmp_path: Path) -> None:
    network = mixed(base)
    (tmp_path / "alternet.py").write_text(standalone(network, data_config(network)))
    rules = ["--isolated", "--line-length=120", "--target-version=py311"]
    for command in (["check", "--select=E,F,W,I,UP,B,C4,SIM,RUF", *rules], ["format", "--check", *rules]):
        done = subprocess.run(
            [ruff(), *command, "--no-cache", "alternet.py"], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout


def ruff() -> str:
    found = which("ruff", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return found or pytest.skip("ruff is not installed")


@pytest.mark.slow
@pytest.mark.parametrize("base", FORMS)
def test_every_form_and_kind_is_exported_and_loaded_back(base: str, tmp_path: Path) -> None:
    network = mixed(base)
    export_network(network, trained(network), tmp_path / "net", card="")
    assert (tmp_path / "net" / "alternet.py").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("base", "stage"),
    [
        ("resnet26t", "layer2"),
        ("resnet50_gn", "layer3"),
        ("seresnext26d_32x4d", "layer4"),
        ("resnetv2_18", "stages.3"),
        ("resnetv2_50d_evos", "stages.1"),
        ("resnetv2_50x1_bit", "stages.2"),
    ],
)
def test_every_family_is_exported_and_loaded_back(base: str, stage: str, tmp_path: Path) -> None:
    network = network_of(base, stage)
    export_network(network, trained(network), tmp_path / "net", card="")
    assert (tmp_path / "net" / "alternet.py").exists()


@pytest.mark.slow
def test_a_base_as_it_is_can_be_exported(tmp_path: Path) -> None:
    network = read_network("resnet18", input_shape=(3, 96, 96), num_classes=10)
    export_network(network, trained(network), tmp_path / "net", card="")
    assert (tmp_path / "net" / "alternet.py").exists()
