"""A trained network as a folder that timm loads, with or without buildup."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from buildup.errors import ExportError, RunError
from buildup.graph.network import Network
from buildup.graph.serialize import network_to_values
from buildup.models.build import ENTRY_POINT, build, data_config
from buildup.models.onnx import save_onnx
from buildup.models.standalone import standalone

CHECK = """
import sys
sys.modules["buildup"] = None
import torch
from safetensors.torch import load_file, save_file
torch.set_num_threads(int(sys.argv[3]))
import alternet
with torch.inference_mode():
    save_file({"logits": alternet.load()(load_file(sys.argv[1])["images"])}, sys.argv[2])
"""
"""Loads `alternet.py` in a process that cannot import buildup."""


def export(
    network: Network,
    state_dict: Mapping[str, Tensor],
    folder: Path,
    *,
    card: str,
    expected: Tensor | None = None,
    data: Mapping[str, Any] | None = None,
    onnx: bool = False,
) -> None:
    """Write a trained network so that timm loads it, and prove that it does.

    The folder gets `config.json` and `model.safetensors` for `timm.create_model("local-dir:FOLDER",
    pretrained=True)` after `import buildup.models`; `alternet.py`, which needs torch and timm only; and the card as
    `README.md`. It appears at once, after both forms were loaded back and gave the trained model's logits.

    Args:
        network: what was trained.
        state_dict: its weights.
        folder: where to; it must not exist, or be empty.
        card: what `README.md` says.
        expected: The trained model's own `probe_logits`; those of a model built anew from the weights where left out.
        data: How images were prepared, in timm's words: `mean`, `std`, `crop_pct`, `interpolation`. The base's own
            habits where left out.
        onnx: Whether to write `model.onnx`, too; `check_onnx` says whether that can be done here.
    """
    check_target(folder)
    weights = {name: weight.detach().cpu().contiguous().clone() for name, weight in state_dict.items()}
    model = build(network)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ExportError(f"The weights are not those of this network: {error}") from error
    logits = probe_logits(model, network) if expected is None else expected
    config = data_config(network) | dict(data or {})
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
        (partial / "config.json").write_text(_config(network, model, config), encoding="utf-8")
        # safetensors makes files for their owner alone.
        shutil.copymode(partial / "config.json", partial / "model.safetensors")
        (partial / "alternet.py").write_text(standalone(network, config), encoding="utf-8")
        (partial / "README.md").write_text(card, encoding="utf-8")
        _check(partial, network, logits)
        if onnx:
            save_onnx(model, partial / "model.onnx", network.input_shape)
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    except OSError as error:
        raise RunError(f"{folder} could not be written: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_target(folder: Path) -> None:
    """Refuse a folder that an export would overwrite."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{folder} is there already and is not an empty folder. Choose another, or remove it.")


def probe_logits(model: nn.Module, network: Network) -> Tensor:
    """What a model answers to a fixed batch of noise: on the CPU, in float32, in evaluation mode."""
    training = model.training
    device = next(model.parameters()).device
    with torch.inference_mode():
        logits: Tensor = model.cpu().eval()(_probe(network)).clone()
    model.train(training).to(device)
    return logits


def _probe(network: Network) -> Tensor:
    return torch.randn(2, *network.input_shape, generator=torch.Generator().manual_seed(0))


def _config(network: Network, model: Any, config: Mapping[str, Any]) -> str:
    """timm's `config.json`: entry point, arguments and everything that its loader adapts weights by."""
    values = {
        "architecture": ENTRY_POINT,
        "num_classes": network.num_classes,
        "num_features": model.num_features,
        "pretrained_cfg": {name: value for name, value in config.items() if name != "architecture"},
        "model_args": {"network": network_to_values(network)},
    }
    return json.dumps(values, indent=2) + "\n"


def _check(folder: Path, network: Network, expected: Tensor) -> None:
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True)
    _compare("the folder loaded by timm", probe_logits(loaded, network), expected)
    images, logits = folder / "images.safetensors", folder / "logits.safetensors"
    save_file({"images": _probe(network)}, images)
    command = [sys.executable, "-B", "-c", CHECK, images.name, logits.name, str(torch.get_num_threads())]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise ExportError(f"alternet.py cannot be loaded without buildup: {ended.stderr.strip()}")
    _compare("alternet.py", load_file(logits)["logits"], expected)
    images.unlink()
    logits.unlink()


def _compare(what: str, found: Tensor, expected: Tensor) -> None:
    if not torch.equal(found, expected):
        gap = (found - expected).abs().max() if found.shape == expected.shape else "another shape"
        raise ExportError(f"{what} does not compute what was trained: its logits differ by {gap}.")
