"""A network as plain values: what a worker is sent, an export keeps and `graph --format json` prints."""

from typing import Any

from buildup.graph.block_style import style_from_values, style_to_values
from buildup.graph.fingerprint import fingerprint
from buildup.graph.kinds import RESERVED, from_values, to_values
from buildup.graph.layout import layout
from buildup.graph.network import Block, Network, Shape, Stage

TOLD = ("added", "params", "expansion", "fixed")
"""What is written of a block only where there is something to tell."""


def network_to_values(network: Network) -> dict[str, Any]:
    """Everything of a network, ready for JSON."""
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
                "blocks": [_block_to_values(block) for block in stage.blocks],
            }
            for stage in network.stages
        ],
        "edges": [list(edge) for edge in network.edges],
    }


def network_from_values(values: dict[str, Any]) -> Network:
    """The network that `network_to_values` wrote down."""
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


def _block_to_values(block: Block) -> dict[str, Any]:
    told = {name: getattr(block, name) for name in TOLD if getattr(block, name)}
    return {
        "path": block.path,
        **to_values(block.kind),
        "module": block.module,
        "in_shape": list(block.in_shape),
        "out_shape": list(block.out_shape),
        **({"form": style_to_values(block.style)} if block.style else {}),
        **told,
    }


def _block_from_values(values: dict[str, Any]) -> Block:
    return Block(
        path=values["path"],
        module=values["module"],
        in_shape=_shape(values["in_shape"]),
        out_shape=_shape(values["out_shape"]),
        kind=from_values({key: value for key, value in values.items() if key not in RESERVED or key == "kind"}),
        style=style_from_values(values["form"]) if "form" in values else None,
        **{name: values[name] for name in TOLD if name in values},
    )


def _shape(values: list[int]) -> Shape:
    channels, height, width = values
    return channels, height, width
