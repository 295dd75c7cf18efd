"""A block kind without an effect: the base's own block once more, for searches in which nothing can help.

Its weights start as those of every replaced block do: from the distribution of the base, drawn from a seed of their
own. All other weights, the images, their order and the augmentation are those of the parent. So parent and candidate
are the same network, and differ as a parent and a candidate of a real search do that are equally good.
"""

from dataclasses import dataclass
from typing import ClassVar

from timm.models.resnet import BasicBlock
from torch import nn

from buildup.graph.kinds import BlockKind, register_kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Twin(BlockKind):
    """The basic block of a ResNet in place of a basic block."""

    letter: ClassVar[str] = "Q"
    name: ClassVar[str] = "twin"
    label: ClassVar[str] = "the base's own, initialised anew"
    module: ClassVar[str] = "twin:TwinBlock"


class TwinBlock(BasicBlock):
    """timm's basic block, initialised as in timm's ResNet."""

    def __init__(self, chs: int) -> None:
        super().__init__(chs, chs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.zero_init_last()


def register_twin() -> None:
    """Make the kind known to spaces. A call and no decorator, so that the import changes nothing."""
    register_kind(Twin)
