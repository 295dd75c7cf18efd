"""Dropout as in the paper on spatial smoothing: one in each block, before its last convolution.

Dropout has no weights, so a network trained with it is exported and analysed like any other. The last convolution of a
block is the one at the end of its longest chain of convolutions, found by tracing. It is never in a shortcut, and never
in channel attention, whose maps have a single point. Our local attention is no such convolution, since it projects
without calling its submodules; there, dropout comes before the convolution in front of it.
"""

from torch import Tensor, nn

from buildup.errors import BaseError
from buildup.graph.network import Network
from buildup.models.build import build
from buildup.models.layers import GatedAttention2d
from buildup.models.trace import trace_calls

NAME = "buildup_dropout"
"""The submodule that a convolution gets."""


LAYERS = (nn.Conv2d, nn.Linear, GatedAttention2d)
"""The layers that dropout can come before."""


def add_dropout(model: nn.Module, network: Network, rate: float) -> None:
    """Add dropout to a built model, in place. Blocks without convolutions, as smoothing, get none."""
    places = dropout_places(network)
    if not places:
        raise BaseError(f"{network.base} has no blocks with convolutions, so dropout has no place in it.")
    for path in places:
        layer = model.get_submodule(path)
        layer.add_module(NAME, nn.Dropout(rate))
        layer.register_forward_pre_hook(_drop)


def dropout_places(network: Network) -> tuple[str, ...]:
    """The paths of the convolutions that dropout comes before, at most one for each block."""
    if not network.stages:
        return ()
    model = build(network, device="meta")
    weighted = {path: module for path, module in model.named_modules() if isinstance(module, LAYERS)}
    gated = tuple(f"{path}." for path, module in weighted.items() if isinstance(module, GatedAttention2d))
    # Gated attention stands for the convolution that it replaces, so all of its input is dropped.
    layers = {path: module for path, module in weighted.items() if not path.startswith(gated)}
    root = trace_calls(network.base, model, network.input_shape, layers)
    calls = {call.path: call for call in root.inside if call.path in layers}
    found = []
    for block in network.blocks:
        depths: dict[str, int] = {}
        maps = []
        for path, call in calls.items():
            if not f"{path}.".startswith(f"{block.path}."):
                continue
            depths[path] = 1 + max((depths[source] for source in call.input_blocks if source in depths), default=0)
            layer = layers[path]
            channels = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
            if call.input is not None and call.input.numel() != channels:  # more than a single point
                maps.append(path)
        if maps:
            found.append(max(reversed(maps), key=depths.__getitem__))
    return tuple(found)


def _drop(layer: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (layer.get_submodule(NAME)(args[0]), *args[1:])
