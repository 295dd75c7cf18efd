"""A network's fingerprint: one short name for what it computes.

Equal networks have equal fingerprints in every process and version; any difference that changes the function
changes it. It is a hash over the graph alone: every node is hashed with its predecessors, so names of nodes and
their order in memory do not count, while base, stem, kinds and settings do.
"""

import hashlib
import json
from typing import Any

import networkx as nx

from buildup.graph.block_style import style_to_values
from buildup.graph.kinds import Conv, to_values
from buildup.graph.network import Block, Network


def fingerprint(network: Network) -> str:
    """The fingerprint of a network, 16 hexadecimal digits."""
    graph = network.graph
    hashes: dict[str, str] = {}
    for node in nx.topological_sort(graph):
        block: Block | None = graph.nodes[node]["block"]
        label = node if block is None else _label(block)
        hashes[node] = _digest([label, sorted(hashes[before] for before in graph.predecessors(node))])
    whole = [network.base, dict(network.base_args), network.stem, network.input_shape[0], network.num_classes]
    return _digest([*whole, *([dict(network.shrunk)] if network.shrunk else []), hashes["head"]])[:16]


def _label(block: Block) -> list[Any]:
    label = [to_values(block.kind), block.module, block.in_shape[0], block.out_shape[0], block.added]
    if block.style is not None and not isinstance(block.kind, Conv):
        label.append(style_to_values(block.style))
    return label


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
