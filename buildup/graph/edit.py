"""One change of a network: a block replaced in place, or a block added at the end of a stage."""

from dataclasses import dataclass, field, replace

from buildup.errors import LayoutError
from buildup.graph.kinds import Conv, Kind, LocalAttention, describe
from buildup.graph.network import Block, Network


@dataclass(frozen=True, slots=True, kw_only=True)
class Replace:
    """Put another kind where a block stands.

    >>> str(Replace(path="layer4.2", old=Conv(), new=LocalAttention(heads=24, window=4)))
    'layer4.2: conv -> msa(heads=24, window=4)'
    """

    path: str
    old: Kind
    new: Kind

    def __str__(self) -> str:
        return f"{self.path}: {describe(self.old)} -> {describe(self.new)}"

    @property
    def undone(self) -> "Replace":
        """The edit that takes this one back."""
        return Replace(path=self.path, old=self.new, new=self.old)


@dataclass(frozen=True, slots=True, kw_only=True)
class Append:
    """Add a block at the end of a stage: one of the base's own, or another kind in its place.

    >>> str(Append(stage="layer4"))
    'layer4: one more conv'
    """

    stage: str
    kind: Kind = field(default_factory=Conv)

    def __str__(self) -> str:
        return f"{self.stage}: one more {describe(self.kind)}"


Edit = Replace | Append


def apply(network: Network, edit: Edit) -> Network:
    """The network after one edit; the one given stays as it is."""
    if isinstance(edit, Append):
        return _append(network, edit)
    for number, stage in enumerate(network.stages):
        for index, block in enumerate(stage.blocks):
            if block.path == edit.path:
                _check(network, block, index, edit)
                blocks = (*stage.blocks[:index], replace(block, kind=edit.new), *stage.blocks[index + 1 :])
                return network.with_stage(number, replace(stage, blocks=blocks))
    raise LayoutError(
        f"{network.base} has no block {edit.path!r}; it has {', '.join(block.path for block in network.blocks)}."
    )


def replacement(network: Network, path: str, kind: Kind) -> Replace:
    """The edit that puts a kind at a path of this network."""
    return Replace(path=path, old=network.block(path).kind, new=kind)


def _check(network: Network, block: Block, index: int, edit: Replace) -> None:
    if block.kind != edit.old:
        raise LayoutError(
            f"{edit.path} of {network.base} is {describe(block.kind)}, not {describe(edit.old)}: "
            "the edit is for another network."
        )
    if isinstance(edit.new, Conv):
        return
    stage = next(stage for stage in network.stages if block in stage.blocks)
    if obstacle := stage.obstacle(index):
        raise LayoutError(f"{edit.path} of {network.base} {obstacle}, so it can't be replaced.")
    _check_size(network, block, edit.new)


def _check_size(network: Network, block: Block, kind: Kind) -> None:
    height, width = block.out_shape[1:]
    side = kind.window if isinstance(kind, LocalAttention) else 1
    if side > min(height, width):
        raise LayoutError(
            f"{block.path} of {network.base}: window {side} does not fit into its {height}x{width} map. "
            f"Use a window of at most {min(height, width)}."
        )


def _append(network: Network, edit: Append) -> Network:
    for number, stage in enumerate(network.stages):
        if stage.name == edit.stage:
            last = stage.blocks[-1]
            if not last.keeps_shape:
                raise LayoutError(
                    f"{stage.name} of {network.base} ends in a block that changes its shape, "
                    "so no further one can follow it."
                )
            if not stage.grows:
                raise LayoutError(f"{stage.name} of {network.base} runs just its own blocks, so none can be added.")
            new = replace(last, path=_next_path(last.path), kind=edit.kind, added=True)
            _check_size(network, new, edit.kind)
            edges = [(new.path if source == last.path else source, target) for source, target in network.edges]
            return network.with_stage(
                number, replace(stage, blocks=(*stage.blocks, new)), [*edges, (last.path, new.path)]
            )
    raise LayoutError(
        f"{network.base} has no stage {edit.stage!r}; it has {', '.join(stage.name for stage in network.stages)}."
    )


def _next_path(path: str) -> str:
    """`layer4.2` to `layer4.3`, and `s4.b2` to `s4.b3`.

    >>> _next_path("stages.3.blocks.9")
    'stages.3.blocks.10'
    """
    digits = len(path) - len(path.rstrip("0123456789"))
    return f"{path[:-digits]}{int(path[-digits:]) + 1}"
