"""A network as plain values, and its fingerprint.

The values are what a worker is sent, an export stores and `graph --format json` prints.
"""

import hashlib
import json
from dataclasses import asdict
from graphlib import TopologicalSorter
from typing import Any

from buildup.errors import LayoutError
from buildup.graph.kinds import RESERVED, Conv, from_values, to_values
from buildup.graph.layout import layout
from buildup.graph.network import Block, BlockStyle, Network, Norm, Shape, Stage

OPTIONAL = ("added", "params", "expansion", "fixed")
"""Fields of a block that are written only where they are set."""


def fingerprint(network: Network) -> str:
    """The fingerprint of a network: 16 hexadecimal digits that name what it computes.

    Equal networks have equal fingerprints in every process and version; any difference that changes the function
    changes it. Every node is hashed with its predecessors, so names of nodes and their order in memory do not count,
    while base, stem, kinds and settings do.
    """
    blocks = {block.path: block for block in network.blocks}
    before: dict[str, set[str]] = {node: set() for node in ("stem", *blocks, "head")}
    for source, target in network.edges:
        before[target].add(source)
    hashes: dict[str, str] = {}
    for node in TopologicalSorter(before).static_order():
        block = blocks.get(node)
        label: list[Any] = []
        if block is not None:
            label = [to_values(block.kind), block.module, block.in_shape[0], block.out_shape[0], block.added]
            if block.style is not None and not isinstance(block.kind, Conv):
                label.append(_set_fields(asdict(block.style)))
        hashes[node] = _digest([label or node, sorted(hashes[one] for one in before[node])])
    whole = [network.base, dict(network.base_args), network.stem, network.input_shape[0], network.num_classes]
    return _digest([*whole, *([dict(network.shrunk)] if network.shrunk else []), hashes["head"]])[:16]


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _set_fields(values: dict[str, Any]) -> dict[str, Any]:
    """The fields of a style, and of the norm in it, that are set."""
    found = {name: _set_fields(value) if isinstance(value, dict) else value for name, value in values.items()}
    return {name: value for name, value in found.items() if value not in (None, "", False)}


def network_to_values(network: Network) -> dict[str, Any]:
    return {
        "base": network.base,
        "base_args": dict(network.base_args),
        "stem": network.stem,
        **({"shrunk": dict(network.shrunk)} if network.shrunk else {}),
        "input_shape": list(network.input_shape),
        "num_classes": network.num_classes,
        "layout": layout(network),
        "fingerprint": fingerprint(network),
        "stages": [
            {
                "name": stage.name,
                **({} if stage.grows else {"grows": False}),
                "blocks": [
                    {
                        "path": block.path,
                        **to_values(block.kind),
                        "module": block.module,
                        "in_shape": list(block.in_shape),
                        "out_shape": list(block.out_shape),
                        **({"form": _set_fields(asdict(block.style))} if block.style else {}),
                        **{name: getattr(block, name) for name in OPTIONAL if getattr(block, name)},
                    }
                    for block in stage.blocks
                ],
            }
            for stage in network.stages
        ],
        "edges": [list(edge) for edge in network.edges],
    }


def network_from_values(values: dict[str, Any]) -> Network:
    """The network that `network_to_values` wrote down. Raises `LayoutError` for other values."""
    try:
        return Network(
            base=values["base"],
            base_args=dict(values["base_args"]),
            stem=values["stem"],
            shrunk=tuple(values.get("shrunk", {}).items()),
            input_shape=_shape(values["input_shape"]),
            num_classes=values["num_classes"],
            stages=tuple(
                Stage(
                    name=stage["name"],
                    grows=stage.get("grows", True),
                    blocks=tuple(_block_from_values(block) for block in stage["blocks"]),
                )
                for stage in values["stages"]
            ),
            edges=tuple((source, target) for source, target in values["edges"]),
        )
    except (LookupError, TypeError, ValueError, AttributeError) as problem:
        raise LayoutError(f"this is no network ({type(problem).__name__}: {problem}).") from None


def _block_from_values(values: dict[str, Any]) -> Block:
    style = values.get("form")
    return Block(
        path=values["path"],
        module=values["module"],
        in_shape=_shape(values["in_shape"]),
        out_shape=_shape(values["out_shape"]),
        kind=from_values({key: value for key, value in values.items() if key not in RESERVED or key == "kind"}),
        style=BlockStyle(**{**style, "norm": Norm(**style["norm"])}) if style else None,
        **{name: values[name] for name in OPTIONAL if name in values},
    )


def _shape(values: list[int]) -> Shape:
    channels, height, width = values
    return channels, height, width
