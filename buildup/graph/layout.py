"""Layouts: the short name of a network, one letter per block and `|` between stages.

>>> from buildup.graph.network import sketch
>>> layout(sketch("CCC|CCCM"))
'CCC|CCCM'
"""

from buildup.errors import LayoutError
from buildup.graph.kinds import Conv, known_kinds
from buildup.graph.network import Network


def layout(network: Network) -> str:
    return "|".join(stage.letters for stage in network.stages)


def parse(text: str, network: Network, *, ends: bool = False) -> tuple[str, ...]:
    """The stages of a layout, checked letter by letter against the network it is meant for.

    With `ends`, a stage may have one more letter than the network, for a block added at its end.
    """
    stages = text.strip().split("|")
    shape = layout(network)
    if len(stages) != len(network.stages):
        raise LayoutError(
            f"layout {text!r} has {len(stages)} stages, {network.base} has {len(network.stages)}: {shape}."
        )
    problems = []
    for letters, stage in zip(stages, network.stages, strict=True):
        count = len(stage.blocks)
        if not count <= len(letters) <= count + ends:
            more = f" or {count + 1}" if ends else ""
            found = f"{stage.name} of {network.base} has {count}{more} blocks, not {len(letters)}: {stage.letters}."
            problems.append(found)
            continue
        for index, letter in enumerate(letters):
            path = stage.blocks[index].path if index < count else f"the end of {stage.name}"
            if letter not in known_kinds():
                problems.append(f"letter {letter!r} at {path} is not known; known are {', '.join(known_kinds())}.")
            elif index < count and letter != Conv.letter and (obstacle := stage.obstacle(index)):
                free = ", ".join(stage.blocks[place].path for place in sorted(stage.replaceable))
                where = free or f"no block of {stage.name}"
                problems.append(f"{path} {obstacle}, so only C can stand there. {letter} fits at {where}.")
    if problems:
        raise LayoutError(*(f"layout {text!r}: {problem}" for problem in problems))
    return tuple(stages)
