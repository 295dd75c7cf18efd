"""Start a network from trained weights of its base: all unchanged parts of the base get them.

Replaced blocks and added blocks are initialised anew. So is the classifier if the number of classes differs, and so are
convolutions that the small stem resizes, unless the weights come from a training with the small stem. timm adapts the
first convolution to other numbers of channels.
"""

import hashlib
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from timm.models import load_state_dict
from torch import Tensor, nn

from buildup.errors import BaseError
from buildup.graph.base_name import parse_base
from buildup.graph.network import Network
from buildup.models.bases import create_on_meta
from buildup.models.stem import apply_small_stem
from buildup.trials.training import Pretrained, WeightsOrigin

QUOTED = re.compile(r'"([^"]+)"')

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
LEARNED = (".weight", ".bias", "running_mean", "running_var")

SHOWN = 3
"""How many of the weights that do not fit an error names."""
FILES = "model.safetensors", "weights.safetensors", "pytorch_model.bin"
"""What the weights of an export or a training are called in its folder."""
LOADING_ERRORS = (
    *(AttributeError, EOFError, LookupError, OSError, RuntimeError, ValueError),
    *(SafetensorError, pickle.UnpicklingError),
)
WHOLE_MODULE = "it holds more than tensors, as a whole model or a number of numpy; save `model.state_dict()` alone"


def find_pretrained(network: Network, name: str, file: str | bool = True) -> Pretrained:
    """Read trained weights of a network's base from a file, or download them; refuse those of another model.

    `name` is the base's name in timm; its tag selects one of timm's weights. A `file`, or the folder of one, is used in
    place of them.
    """
    if file == "":
        raise BaseError("--pretrained is empty. Name a file, or give the flag alone for timm's weights.")
    source = _file_of(Path(str(file)).absolute()) if file is not True else parse_base(name)[0]
    return Pretrained(source=source, hash=_hash(_read(network, source)))


def origin_of(start: Pretrained | None) -> WeightsOrigin | None:
    """What timm says of the weights that a training starts from; None for those of a file, and without any."""
    if start is None or Path(start.source).is_absolute():
        return None
    config: Any = timm.get_pretrained_cfg(start.source)
    name = f"{config.architecture}.{config.tag}" if config.tag else config.architecture
    return WeightsOrigin(name=name, license=config.license or "", hub_id=config.hf_hub_id or "")


def load_pretrained(model: nn.Module, network: Network, pretrained: Pretrained) -> None:
    weights = check_pretrained(network, pretrained)
    own = model.state_dict()
    fresh = tuple(f"{path}." for path, kind in network.replaced.items() if not kind.within)
    resized = tuple(f"{path}." for path, to in network.shrunk if to == "3x3")
    heads = tuple(f"{path}." for path in classifiers(network.base))
    for name, weight in weights.items():
        if name not in own or name.startswith(fresh):
            continue
        if own[name].shape == weight.shape:
            own[name].copy_(weight)
        else:
            assert name.startswith(heads + resized)


def check_pretrained(network: Network, pretrained: Pretrained) -> dict[str, Tensor]:
    if Path(pretrained.source).is_absolute() and not Path(pretrained.source).is_file():
        raise BaseError(
            f"{pretrained.source}: the run began with the weights of this file, and it is gone. Put it back (hash "
            f"{pretrained.hash[:12]}), or start a new run."
        )
    weights = _read(network, pretrained.source)
    if (found := _hash(weights)) != pretrained.hash:
        raise BaseError(
            f"{pretrained.source}: these are not the weights that the run began with (hash {found[:12]}, then "
            f"{pretrained.hash[:12]}). Give back the file of then, or start a new run."
        )
    return weights


def fresh_parts(network: Network, pretrained: Pretrained | None) -> str | None:
    """A sentence on the parts of the base that start anew beside trained weights; None if there are none of either."""
    if pretrained is None:
        return None
    found = [f"{path}, which {why}" for path, why in fresh_modules(network, pretrained).items()]
    return f"Trained anew beside the weights of {pretrained.source}: {'; '.join(found)}." if found else None


def fresh_modules(network: Network, pretrained: Pretrained) -> dict[str, str]:
    """The modules of the base that start anew beside trained weights, and why."""
    weights = check_pretrained(network, pretrained)
    heads = classifiers(network.base)
    found = {}
    for name, shape in _shapes(network, network.num_classes).items():
        known, path = weights.get(name), name.rpartition(".")[0]
        if known is None and path in heads:
            found[path] = "is not among them"
        elif known is not None and known.shape != shape and path in heads:
            found[path] = f"told {known.shape[0]} classes apart, and the data has {network.num_classes}"
        elif known is not None and known.shape != shape:
            small = dict(network.shrunk).get(path) == "3x3"
            way = " (a space with `stem: base` keeps it)" if small else ""
            found[path] = f"has another shape for images of {network.input_shape[1]} px{way}"
    return found


def _read(network: Network, source: str) -> dict[str, Tensor]:
    """All weights of a base, with the number of classes that they were trained for and the network's channels."""
    arguments: dict[str, Any] = {"in_chans": network.input_shape[0], **network.base_args}
    is_file = Path(source).is_absolute()
    if is_file:
        weights = _read_file(network, source)
        classes = _classes(network, weights)
        shapes = {name: weight.shape for name, weight in weights.items()}
        if network.shrunk and classes and shapes == _shapes(network, classes):
            return weights  # of a training with the small stem
        arguments |= _as_saved(network, weights, classes)
    try:
        # Creating a model draws random numbers, which stay in a first convolution that can't be adapted to other
        # channels. They are always the same, and the caller's random state does not change.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            name = network.base if is_file else source
            model: nn.Module = timm.create_model(name, pretrained=True, **arguments)
    except (AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        # Torch raises these for weights that do not fit, timm for older files that it does not know, and the download
        # without a connection.
        if is_file:
            raise BaseError(f"{source}: these are not weights of {network.title}: {_misfit(error)}.") from error
        raise BaseError(
            f"--pretrained: timm's weights of {source} can't be had: {str(error).partition('. ')[0]}. "
            "Where there are others in a file, use: --pretrained FILE"
        ) from error
    return model.state_dict()


def _classes(network: Network, weights: Mapping[str, Tensor]) -> int:
    """How many classes weights tell apart; 0 if they have no classifier."""
    keys = [f"{path}.weight" for path in classifiers(network.base)]
    return next((weights[key].shape[0] for key in keys if key in weights), 0)


def _as_saved(network: Network, weights: Mapping[str, Tensor], classes: int) -> dict[str, Any]:
    """The arguments by which timm loads weights with the classes and channels that they were trained for."""
    config: Any = timm.get_pretrained_cfg(network.base)
    overlay: dict[str, Any] = {"state_dict": dict(weights)}
    arguments: dict[str, Any] = {"pretrained_cfg_overlay": overlay}
    if classifiers(network.base) and classes != config.num_classes + (config.label_offset or 0):
        overlay |= {"num_classes": classes, "label_offset": 0}
        arguments["num_classes"] = classes
    own = _shapes(network, network.num_classes)
    for key in (f"{path}.weight" for path in _paths(network.base, "first_conv")):
        channels = network.input_shape[0]
        if key in weights and weights[key].ndim == 4 and own[key][1] == channels != weights[key].shape[1]:
            overlay["input_size"] = (weights[key].shape[1], *config.input_size[1:])
        elif key in weights and weights[key].shape[1:2] == (channels,):
            overlay["input_size"] = (channels, *config.input_size[1:])
    return arguments


def _shapes(network: Network, num_classes: int) -> dict[str, torch.Size]:
    own = {"in_chans": network.input_shape[0], "num_classes": num_classes, **network.base_args}
    model = create_on_meta(network.base, own)
    apply_small_stem(model, dict(network.shrunk))
    return {name: weight.shape for name, weight in model.state_dict().items()}


def classifiers(base: str) -> tuple[str, ...]:
    """The paths of a base's classifier; some bases have two."""
    return _paths(base, "classifier")


def _paths(base: str, what: str) -> tuple[str, ...]:
    paths = getattr(timm.get_pretrained_cfg(base), what)
    return (paths,) if isinstance(paths, str) else tuple(paths or ())


def _file_of(path: Path) -> str:
    """The file of weights that a path names, which may be the folder of an export or a training."""
    if not path.is_dir():
        return str(path)
    found = [str(path / name) for name in FILES if (path / name).is_file()]
    if not found:
        attempts = (int(one.parent.name.partition("-")[2]) for one in path.glob("attempt-[0-9]*/weights.safetensors"))
        if newest := max(attempts, default=0):
            return str(path / f"attempt-{newest}" / "weights.safetensors")
        raise BaseError(f"{path}: this is a folder without {' or '.join(FILES[:2])}. Name the file of weights in it.")
    return found[0]


def _read_file(network: Network, path: str) -> dict[str, Tensor]:
    """The tensors of a file by the names that they have in the base."""
    if not Path(path).is_file():
        raise BaseError(f"{path}: there is no such file of weights.")
    problem = "it does not hold tensors by name"
    try:
        found: Any = load_state_dict(path, weights_only=True)
        named = [found, *(one for one in found.values() if isinstance(one, Mapping))]
        whole = [one for one in named if one and all(isinstance(weight, Tensor) for weight in one.values())]
        if len(whole) == 1:
            weights = _without_prefix(network, whole[0])
            _check_values(path, weights)
            return weights
    except LOADING_ERRORS as error:
        said = str(error).partition("\n")[0]
        problem = WHOLE_MODULE if "weights_only" in str(error) else f"it can't be read, and may be cut off: {said}"
        if other := _other_kind(path):
            problem = other
    raise BaseError(f"{path}: no file of weights ({problem}). A .safetensors file or a .pth of a state dict is needed.")


def _other_kind(path: str) -> str:
    """What a file is, if by its first bytes it is none that torch writes; empty if it may be."""
    with open(path, "rb") as file:
        start = file.read(9)
    if not start:
        return "it is empty"
    if not path.endswith(".safetensors") and start[8:] == b"{":
        return "by its content it is a .safetensors file; give it that ending"
    return "" if path.endswith(".safetensors") or start[:2] in {b"PK", b"\x80\x02"} else "torch did not write it"


def _without_prefix(network: Network, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights without what all of their names begin with, such as `model.`, if the base's own names do not."""
    own = _shapes(network, network.num_classes)
    prefix = f"{next(iter(weights)).partition('.')[0]}."
    if all(name.startswith(prefix) for name in weights) and not any(name.startswith(prefix) for name in own):
        return {name.removeprefix(prefix): weight for name, weight in weights.items()}
    return dict(weights)


def _check_values(path: str, weights: Mapping[str, Tensor]) -> None:
    """Raise if weights can't be those of a training that went well."""
    floats = {name: weight for name, weight in weights.items() if weight.is_floating_point()}
    kinds = {
        "hold what is no number": [name for name, weight in floats.items() if not torch.isfinite(weight).all()],
        "hold whole numbers": [name for name in weights.keys() - floats.keys() if name.endswith(LEARNED)],
        "hold negative variances": [
            name for name, weight in floats.items() if name.endswith("running_var") and (weight < 0).any()
        ],
    }
    for what, names in kinds.items():
        if names:
            raise BaseError(f"{path}: {len(names)} of its tensors {what}, {min(names)} first.")


def _misfit(error: Exception) -> str:
    """Torch's message for weights that do not fit, with only a few of their names."""
    text = str(error)
    parts = [
        f"{found} {_some(QUOTED.findall(line))}"
        for found, head in (("it lacks", "Missing"), ("it has besides", "Unexpected"))
        for line in re.findall(rf"{head} key\(s\) in state_dict: (.*)", text)
    ]
    if parts and all(name.endswith(STATISTICS) for name in QUOTED.findall(text)):
        return f"its norms have no statistics ({parts[0]}). Save the whole state_dict, which has buffers too"
    shapes = re.findall(r"size mismatch for (\S+): .*?\[([\d, ]*)\].*?\[([\d, ]*)\]", text)
    if shapes:
        shown = _some([f"{name} ({old} in the file, {new} in the base)" for name, old, new in shapes])
        parts.append(f"of another shape are {shown}")
    if any("attention" in name for name in QUOTED.findall(text)):
        parts.append("weights of a network with replaced blocks can't start its base")
    return "; ".join(parts) or text.partition("\n")[0].rstrip(".")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"


def _hash(weights: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
