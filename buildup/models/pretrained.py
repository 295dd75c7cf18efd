"""Trained weights of a base as the start of a network: all that the network leaves as timm makes it begins with them.

Blocks of other kinds, added blocks and what a small stem changes begin fresh. The classifier does where it tells other
classes apart; the first convolution is adapted to other channels as timm does it.
"""

import hashlib
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from timm.models import load_state_dict
from torch import Tensor, nn

from buildup.errors import BaseError
from buildup.graph.network import Network

QUOTED = re.compile(r'"([^"]+)"')

SHOWN = 3
"""So many weights are named in an error, of all that do not fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pretrained:
    """Where trained weights of a base are, and which they are."""

    source: str
    """A file's absolute path, or a name of timm with the tag of its weights."""
    hash: str
    """Of the names and values of all weights, so that no other weights are taken for them later."""

    def __str__(self) -> str:
        return f"{self.source} ({self.hash[:12]})"


def find_pretrained(network: Network, name: str, file: str = "") -> Pretrained:
    """Read trained weights of a network's base, or download them, and refuse those of another network.

    Args:
        network: what is to begin with them.
        name: The base's name in timm; its tag says which of timm's weights are meant.
        file: A file of weights in place of timm's.
    """
    source = str(Path(file).absolute()) if file else name
    return Pretrained(source=source, hash=_hash(_read(network, source)))


def load_pretrained(model: nn.Module, network: Network, pretrained: Pretrained) -> None:
    """Let a model that was built from a network begin with trained weights, in place."""
    weights = _checked(network, pretrained)
    own = model.state_dict()
    fresh = tuple(f"{path}." for path in (*network.replaced, *(path for path, to in network.shrunk if to == "3x3")))
    classifier = tuple(f"{path}." for path in _paths(network.base, "classifier"))
    for name, weight in weights.items():
        if name not in own or name.startswith(fresh):
            continue
        if own[name].shape == weight.shape:
            own[name].copy_(weight)
        else:
            assert name.startswith(classifier)


def check_pretrained(network: Network, pretrained: Pretrained) -> None:
    """Refuse weights that changed since they were found."""
    _checked(network, pretrained)


def _checked(network: Network, pretrained: Pretrained) -> dict[str, Tensor]:
    weights = _read(network, pretrained.source)
    if (found := _hash(weights)) != pretrained.hash:
        raise BaseError(
            f"{pretrained.source}: these are not the weights that the run began with (hash {found[:12]}, then "
            f"{pretrained.hash[:12]}). Give back the file of then, or start a new run."
        )
    return weights


def _read(network: Network, source: str) -> dict[str, Tensor]:
    """All weights of a base as trained, with as many classes as they tell apart, for the network's channels."""
    config: Any = timm.get_pretrained_cfg(network.base)
    channels = network.input_shape[0]
    arguments: dict[str, Any] = {"in_chans": channels, **network.base_args}
    name = network.base
    if _is_file(source):
        weights = _read_file(source)
        classes, inputs = _classes(network.base, weights), _channels(network.base, weights)
        overlay: dict[str, Any] = {"state_dict": weights}
        if classes and classes != config.num_classes + (config.label_offset or 0):
            overlay |= {"num_classes": classes, "label_offset": 0}
            arguments["num_classes"] = classes
        if inputs == channels:
            overlay["input_size"] = (inputs, *config.input_size[1:])
        arguments["pretrained_cfg_overlay"] = overlay
    else:
        name = source
    try:
        # Making a model draws random numbers, which are none of the caller's. They stay in a first convolution that
        # can't be adapted to other channels.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            model: nn.Module = timm.create_model(name, pretrained=True, **arguments)
    except (AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        # What torch says to weights that do not fit, what timm's readers of older files say to unknown ones, and what
        # a network says that is not there.
        if _is_file(source):
            raise BaseError(f"{source}: these are not weights of {network.base}: {_misfit(error)}.") from error
        raise BaseError(
            f"--pretrained: timm's weights of {name} can't be had: {str(error).partition('. ')[0]}. "
            "Where there are others in a file, use: --pretrained FILE"
        ) from error
    return model.state_dict()


def _is_file(source: str) -> bool:
    """Whether a source is a file, and no name of timm."""
    return Path(source).is_absolute()


def _read_file(path: str) -> dict[str, Tensor]:
    if not Path(path).is_file():
        raise BaseError(f"{path}: there is no such file of weights.")
    try:
        weights = load_state_dict(path, weights_only=True)
    except (AttributeError, EOFError, LookupError, RuntimeError, ValueError) as error:
        raise _no_weights(path, str(error).partition("\n")[0]) from error
    except (OSError, SafetensorError, pickle.UnpicklingError) as error:
        raise _no_weights(path, str(error).partition("\n")[0]) from error
    if not weights or not all(isinstance(weight, Tensor) for weight in weights.values()):
        raise _no_weights(path, "it does not hold tensors by name")
    return dict(weights)


def _no_weights(path: str, why: str) -> BaseError:
    return BaseError(f"{path}: no file of weights ({why}). A .safetensors file or a .pth of a state dict is needed.")


def _paths(base: str, what: str) -> tuple[str, ...]:
    """Where a base has its classifier or first convolution; some have two."""
    told = getattr(timm.get_pretrained_cfg(base), what)
    return (told,) if isinstance(told, str) else tuple(told or ())


def _classes(base: str, weights: Mapping[str, Tensor]) -> int | None:
    found = [weights[key].shape[0] for path in _paths(base, "classifier") if (key := f"{path}.weight") in weights]
    return found[0] if found else None


def _channels(base: str, weights: Mapping[str, Tensor]) -> int | None:
    found = [weights[key] for path in _paths(base, "first_conv") if (key := f"{path}.weight") in weights]
    return found[0].shape[1] if found and found[0].ndim == 4 else None


def _misfit(error: Exception) -> str:
    """What torch says of weights that do not fit, without hundreds of names."""
    text = str(error)
    parts = [
        f"{found} {_some(QUOTED.findall(line))}"
        for found, head in (("it lacks", "Missing"), ("it has besides", "Unexpected"))
        for line in re.findall(rf"{head} key\(s\) in state_dict: (.*)", text)
    ]
    shapes = re.findall(r"size mismatch for (\S+): .*?\[([\d, ]*)\].*?\[([\d, ]*)\]", text)
    if shapes:
        parts.append(f"of another shape are {_some([f'{name} ({old} for {new})' for name, old, new in shapes])}")
    return "; ".join(parts) or text.partition("\n")[0]


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"


def _hash(weights: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
