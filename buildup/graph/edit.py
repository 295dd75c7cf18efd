"""One change of a network: a block replaced in place, or a block added at the end of a stage."""

from dataclasses import dataclass, field, replace

from buildup.errors import LayoutError
from buildup.graph.kinds import BlockKind, Conv, describe
from buildup.graph.network import Block, Network, Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Replace:
    """Put another kind where a block stands.

    >>> from buildup.graph.kinds import LocalAttention
    >>> str(Replace(path="layer4.2", old=Conv(), new=LocalAttention(heads=24, window=4)))
    'layer4.2: conv -> msa(heads=24, window=4)'
    """

    path: str
    old: BlockKind
    new: BlockKind

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
    kind: BlockKind = field(default_factory=Conv)

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


def replacement(network: Network, path: str, kind: BlockKind) -> Replace:
    """The edit that puts a kind at a path of this network."""
    return Replace(path=path, old=network.block(path).kind, new=kind)


def edits_between(base: Network, network: Network) -> tuple[Edit, ...]:
    """The edits that make a network from its base, in the order of its blocks."""
    own = {block.path: block.kind for block in base.blocks}
    edits: list[Edit] = []
    for stage in network.stages:
        for block in stage.blocks:
            if block.path not in own:
                edits.append(Append(stage=stage.name, kind=block.kind))
            elif block.kind != own[block.path]:
                edits.append(Replace(path=block.path, old=own[block.path], new=block.kind))
    return tuple(edits)


def next_path(stage: Stage) -> str:
    """Where a block added at the end of a stage stands: after `layer4.2` is `layer4.3`, after `s4.b9` is `s4.b10`."""
    path = stage.blocks[-1].path
    digits = len(path) - len(path.rstrip("0123456789"))
    return f"{path[:-digits]}{int(path[-digits:]) + 1}"


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


def _check_size(network: Network, block: Block, kind: BlockKind) -> None:
    if misfit := kind.misfit(block.out_shape[1:]):
        raise LayoutError(f"{block.path} of {network.base}: {misfit}")


def _append(network: Network, edit: Append) -> Network:
    for number, stage in enumerate(network.stages):
        if stage.name == edit.stage:
            last = stage.blocks[-1]
            if stage.closed:
                raise LayoutError(f"{stage.name} of {network.base} {stage.closed}.")
            if stage.is_point and not isinstance(edit.kind, Conv):
                raise LayoutError(f"{stage.name} of {network.base} has maps of one point, so only C can be added.")
            new = replace(last, path=next_path(stage), kind=edit.kind, added=True)
            _check_size(network, new, edit.kind)
            edges = [(new.path if source == last.path else source, target) for source, target in network.edges]
            return network.with_stage(
                number, replace(stage, blocks=(*stage.blocks, new)), [*edges, (last.path, new.path)]
            )
    raise LayoutError(
        f"{network.base} has no stage {edit.stage!r}; it has {', '.join(stage.name for stage in network.stages)}."
    )
