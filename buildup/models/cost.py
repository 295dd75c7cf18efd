"""The cost of a network: its parameters, and its multiply-accumulate operations (MACs) for one image."""

from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from buildup.graph.network import Network, Shape
from buildup.graph.serialize import fingerprint
from buildup.models.build import build


class Cost(NamedTuple):
    """Parameters, and MACs of one forward pass at the network's input shape."""

    params: int
    macs: int
    """Convolutions, linear layers and attention products, as in the paper; in gated attention without those of queries
    and keys, below 1 % of a block."""


_known: dict[tuple[str, Shape], Cost] = {}


def cost(network: Network) -> Cost:
    # The fingerprint does not depend on the size of the images.
    key = fingerprint(network), network.input_shape
    if key not in _known:
        model = build(network, device="meta").eval()
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), counter:
            model(torch.empty(1, *network.input_shape, device="meta"))
        params = sum(parameter.numel() for parameter in model.parameters())
        _known[key] = Cost(params=params, macs=counter.get_total_flops() // 2)
    return _known[key]
