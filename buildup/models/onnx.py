"""A model as an ONNX file, checked by running it."""

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from buildup.errors import ExportError, ResourceError
from buildup.graph.network import Shape

PACKAGES = ("onnx", "onnxruntime", "onnxscript")

CLOSE = 1e-4
"""How far logits may be from torch's, as a part of the largest where that is over 1."""

ANY_SIZE = {0: "batch", 2: "height", 3: "width"}
ONE_SIZE = {0: "batch"}
"""The axes of images that may have any length."""


def check_onnx() -> None:
    """Refuse what can't be done without packages that buildup does not need otherwise."""
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise ResourceError(
            f"--onnx: {', '.join(missing)} can't be imported. Install what it needs with: pip install 'buildup[onnx]'"
        )


def save_onnx(model: nn.Module, path: Path, input_shape: Shape) -> None:
    """Write a model in evaluation mode as ONNX, for batches and, where it can, images of any size.

    Its input is `images`, its output `logits`. Both are compared with the model's own, at other sizes too.
    """
    model.eval()
    channels, height, width = input_shape
    # Where a graph was tied to one window, a map of more of them shows it.
    other = _noise(2, (channels, 2 * height, 2 * width + 16))
    problem = ""
    for axes in (ANY_SIZE, ONE_SIZE) if _takes(model, other) else (ONE_SIZE,):
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
        gap = max(_gap(model, path, batch) for batch in batches)
        if gap <= CLOSE:
            return
        problem = f"its logits differ by {gap:.1e} from torch's"
    path.unlink(missing_ok=True)
    raise ExportError(f"This network can't be written as ONNX: {problem}")


def _takes(model: nn.Module, images: Tensor) -> bool:
    try:
        with torch.inference_mode():
            model(images)
    except (AssertionError, RuntimeError):
        return False
    return True


def _gap(model: nn.Module, path: Path, images: Tensor) -> float:
    import onnxruntime  # late, for buildup works without it

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])
    with torch.inference_mode():
        expected = model(images)
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1))


def _noise(batch: int, shape: Shape) -> Tensor:
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0))
