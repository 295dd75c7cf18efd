"""A network's fingerprint: one short name for what it computes.

Equal networks have equal fingerprints in every process and version; any difference that changes the function
changes it. It is a hash over the graph alone: every node is hashed with its predecessors, so names of nodes and
their order in memory do not count, while base, stem, kinds and settings do.
"""

import hashlib
import json

import networkx as nx

from buildup.graph.kinds import to_values
from buildup.graph.network import Network


def fingerprint(network: Network) -> str:
    """The fingerprint of a network, 16 hexadecimal digits."""
    graph = network.graph
    hashes: dict[str, str] = {}
    for node in nx.topological_sort(graph):
        block = graph.nodes[node]["block"]
        label = (
            node
            if block is None
            else [to_values(block.kind), block.module, block.in_shape[0], block.out_shape[0], block.added]
        )
        hashes[node] = _digest([label, sorted(hashes[before] for before in graph.predecessors(node))])
    channels = network.input_shape[0]
    return _digest(
        [network.base, dict(network.base_args), network.stem, channels, network.num_classes, hashes["head"]]
    )[:16]


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
