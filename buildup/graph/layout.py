"""Layouts: how people and files name a network, one letter a block and `|` between stages.

>>> from buildup.graph.network import sketch
>>> layout(sketch("CCC|CCCM"))
'CCC|CCCM'
"""

from buildup.errors import LayoutError
from buildup.graph.kinds import KINDS
from buildup.graph.network import Network


def layout(network: Network) -> str:
    """The letters of a network."""
    return "|".join(stage.letters for stage in network.stages)


def parse(text: str, network: Network) -> tuple[str, ...]:
    """The stages of a layout, checked letter by letter against the network it is meant for."""
    stages = text.strip().split("|")
    shape = layout(network)
    if len(stages) != len(network.stages):
        raise LayoutError(
            f"layout {text!r} has {len(stages)} stages, {network.base} has {len(network.stages)}: {shape}."
        )
    problems = []
    for letters, stage in zip(stages, network.stages, strict=True):
        if len(letters) != len(stage.blocks):
            problems.append(
                f"layout {text!r}: {stage.name} of {network.base} has {len(stage.blocks)} blocks, not {len(letters)}."
            )
            continue
        for index, (letter, block) in enumerate(zip(letters, stage.blocks, strict=True)):
            if letter not in KINDS:
                problems.append(
                    f"layout {text!r}: letter {letter!r} at {block.path} is not known; known are {', '.join(KINDS)}."
                )
            elif letter != "C" and (obstacle := stage.obstacle(index)):
                problems.append(f"layout {text!r}: {block.path} {obstacle}, so only C can stand there.")
    if problems:
        raise LayoutError(*problems)
    return tuple(stages)
