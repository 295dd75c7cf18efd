"""A trained network as a folder that timm loads, with or without buildup, and as an ONNX file."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from buildup.errors import ExportError, ResourceError, RunError
from buildup.graph.network import Network, Shape
from buildup.graph.serialize import network_to_values
from buildup.models.build import ENTRY_POINT, build, data_config
from buildup.models.standalone import standalone
from buildup.models.trace import evaluation_mode

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

CARD, DIAGRAM = "README.md", "network.svg"
"""The files of a network's card, and of the picture in it."""

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
"""What writing ONNX needs besides buildup's own requirements."""

CLOSE = 1e-4
"""The largest allowed difference between ONNX's logits and torch's, relative to the largest logit if that is over 1."""

ANY_SIZE = {0: "batch", 2: "height", 3: "width"}
ONE_SIZE = {0: "batch"}
"""The axes of images that may have any length."""


def export_network(
    network: Network,
    state_dict: Mapping[str, Tensor],
    folder: Path,
    *,
    card: str,
    diagram: str = "",
    data: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    onnx: bool = False,
) -> None:
    """Write a trained network so that timm loads it, and check that it does.

    The folder gets `config.json` and `model.safetensors` for `timm.create_model("local-dir:FOLDER",
    pretrained=True)` after `import buildup.models`; `alternet.py`, which needs torch and timm only; and the card as
    `README.md`. It appears only after both forms were loaded and gave the trained model's logits.

    Args:
        network: The network that was trained, with its weights in `state_dict`.
        folder: It must not exist, or be empty; `card` is the text of `README.md` there, and `diagram` the picture
            `network.svg` that it shows.
        data: How images were prepared, in timm's words: `mean`, `std`, `crop_pct`, `interpolation`. By default as for
            the base.
        training: Dataset, seed, share of the images and recipe of the training, for `analyze`.
        onnx: Whether to write `model.onnx`, too; `check_onnx` tells whether that is possible here.
    """
    check_target(folder)
    weights = {name: weight.detach().cpu().contiguous().clone() for name, weight in state_dict.items()}
    model = build(network)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ExportError(f"The weights are not those of this network: {error}") from error
    logits = probe_logits(model, network)
    config = data_config(network) | dict(data or {})
    values = _config(network, model, config) | ({"training": dict(training)} if training else {})
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
        (partial / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        # safetensors makes files that only their owner can read.
        shutil.copymode(partial / "config.json", partial / "model.safetensors")
        (partial / "alternet.py").write_text(standalone(network, config), encoding="utf-8")
        (partial / CARD).write_text(card, encoding="utf-8")
        if diagram:
            (partial / DIAGRAM).write_text(diagram, encoding="utf-8")
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


def _config(network: Network, model: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "architecture": ENTRY_POINT,
        "num_classes": network.num_classes,
        "num_features": model.num_features,
        "pretrained_cfg": dict(config),
        "model_args": {"network": network_to_values(network)},
    }


def check_target(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{folder} is there already and is not an empty folder. Choose another, or remove it.")


def probe_logits(model: nn.Module, network: Network) -> Tensor:
    """A model's logits for a fixed batch of noise: on the CPU, in float32, in evaluation mode."""
    device = next(model.parameters()).device
    with torch.inference_mode(), evaluation_mode(model):
        logits: Tensor = model.cpu()(_noise(2, network.input_shape)).clone()
    model.to(device)
    return logits


def _noise(batch: int, shape: Shape) -> Tensor:
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0))


def _check(folder: Path, network: Network, expected: Tensor) -> None:
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True)
    _compare("the folder loaded by timm", probe_logits(loaded, network), expected)
    images, logits = folder / "images.safetensors", folder / "logits.safetensors"
    save_file({"images": _noise(2, network.input_shape)}, images)
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


def check_onnx() -> None:
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise ResourceError(
            f"--onnx: {', '.join(missing)} can't be imported. Install them: in a clone of buildup, "
            "pip install '.[onnx]'"
        )


def save_onnx(model: nn.Module, path: Path, input_shape: Shape) -> None:
    """Write a model in evaluation mode as ONNX, for any batch size and, if possible, any image size.

    The input is `images`, the output `logits`. The logits are compared with the model's own, at other sizes too.
    """
    import onnxruntime  # late, because it is optional

    model.eval()
    channels, height, width = input_shape
    # Larger images than the example's show whether the graph is tied to its number of windows.
    other = _noise(2, (channels, 2 * height, 2 * width + 16))
    try:
        with torch.inference_mode():
            model(other)
        options = [ANY_SIZE, ONE_SIZE]
    except (AssertionError, RuntimeError):
        options = [ONE_SIZE]
    problem = ""
    for axes in options:
        images = _noise(2, input_shape)
        try:
            program = torch.onnx.export(
                model,
                (images,),
                dynamo=True,
                dynamic_shapes=(axes,),
                input_names=["images"],
                output_names=["logits"],
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            problem = str(error)
            continue
        assert program is not None
        program.save(path, external_data=False)
        batches = [images, _noise(5, input_shape), *([other] if axes is ANY_SIZE else [])]
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        gap = 0.0
        for batch in batches:
            found = torch.from_numpy(session.run(["logits"], {"images": batch.numpy()})[0])
            with torch.inference_mode():
                expected = model(batch)
            gap = max(gap, float((found - expected).abs().max() / expected.abs().max().clamp(min=1)))
        if gap <= CLOSE:
            return
        problem = f"its logits differ by {gap:.1e} from torch's"
    path.unlink(missing_ok=True)
    raise ExportError(f"This network can't be written as ONNX: {problem}")
