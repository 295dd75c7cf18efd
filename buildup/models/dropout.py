"""Dropout as in the paper on spatial smoothing (paper.md 9): one in each block, before its last convolution.

It has no weights, so a network trained with it is exported and analysed like any other. Which
convolution is the last is seen in a run without memory: the one that most others feed into, on the longest way through
the block. So it is never in a shortcut, and what weighs channels by one point of each map is left alone. Our local
attention makes its projections itself; there it is the convolution before them.
"""

from torch import Tensor, nn

from buildup.errors import BaseError
from buildup.graph.network import Network
from buildup.models.build import build
from buildup.models.trace import Call, trace

NAME = "buildup_dropout"
"""The submodule that a convolution gets."""


def add_dropout(model: nn.Module, network: Network, rate: float) -> None:
    """Let a built model drop values in training mode, in place. Blocks that weigh nothing (smoothing) have none."""
    places = dropout_places(network)
    if not places:
        raise BaseError(f"{network.base} has no blocks with convolutions, so dropout has no place in it.")
    for path in places:
        layer = model.get_submodule(path)
        layer.add_module(NAME, nn.Dropout(rate))
        layer.register_forward_pre_hook(_drop)


def dropout_places(network: Network) -> tuple[str, ...]:
    """The paths of the convolutions that dropout comes before, one a block."""
    if not network.stages:
        return ()
    model = build(network, device="meta")
    paths = [path for path, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    calls = {call.path: call for call in trace(network.base, model, network.input_shape, paths).inside}
    found = []
    for block in network.blocks:
        depths: dict[str, int] = {}
        for path in calls:
            if path not in paths or not f"{path}.".startswith(f"{block.path}."):
                continue
            depths[path] = 1 + max((depths[source] for source in calls[path].reads if source in depths), default=0)
        maps = [path for path in depths if _is_map(calls[path])]
        if maps:
            found.append(max(reversed(maps), key=depths.__getitem__))
    return tuple(found)


def _is_map(call: Call) -> bool:
    """Whether it sees more than one point."""
    channels = getattr(call.module, "in_channels", None) or getattr(call.module, "in_features", None)
    return call.inputs_of is not None and call.inputs_of[0].numel() != channels


def _drop(layer: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (layer.get_submodule(NAME)(args[0]), *args[1:])
