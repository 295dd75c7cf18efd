"""What stands at a place of a network, as modules: one builder for every kind that can replace a timm block.

The attention blocks are those of paper.md 2.2. Its post-activation variant ends with the sum; ours then takes the final
activation of the block it replaces, because the next block of such a base expects an input that went through it
(paper.md 13).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from timm.layers.evo_norm import EvoNorm2dS0
from timm.layers.filter_response_norm import FilterResponseNormTlu2d
from timm.layers.std_conv import StdConv2d
from timm.models import resnet, resnetv2
from torch import Tensor, nn

from buildup.graph.kinds import Kind, LocalAttention
from buildup.models.attention import LocalAttention2d


class PreActAttentionBlock(nn.Module):
    """Local self-attention in place of a pre-activation block.

    norm, GELU, 1x1 conv, norm, attention, drop path; then the input is added as it came. Nothing follows the sum:
    the next block begins with a norm and an activation of its own.
    """

    def __init__(
        self,
        chs: int,
        *,
        expansion: int,
        heads: int,
        head_size: int,
        window: int,
        conv: nn.Module,
        norm: nn.Module,
        drop_path: nn.Module | None,
    ) -> None:
        super().__init__()
        width = chs // expansion
        self.norm1 = norm_like(norm, chs)
        self.act1 = nn.GELU()
        self.conv = conv1x1_like(conv, chs, width)
        self.norm2 = norm_like(norm, width)
        self.attention = LocalAttention2d(width, chs, heads, head_size, window)
        self.drop_path = drop_path or nn.Identity()
        init_convs(self)

    def zero_init_last(self) -> None:
        """Let the block start as the identity."""
        nn.init.zeros_(self.attention.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        y = self.norm2(self.conv(self.act1(self.norm1(x))))
        branch: Tensor = self.drop_path(self.attention(y))
        return x + branch


class PostActAttentionBlock(nn.Module):
    """Local self-attention in place of a post-activation block.

    1x1 conv, norm, GELU, attention, norm, drop path; then the input is added, and the final activation of the
    replaced block follows: the next block expects an input that went through it. What else the replaced block had
    (squeeze-excitation, DropBlock) goes with it.
    """

    def __init__(
        self,
        chs: int,
        *,
        expansion: int,
        heads: int,
        head_size: int,
        window: int,
        conv: nn.Module,
        norm: nn.Module,
        act: nn.Module,
        drop_path: nn.Module | None,
    ) -> None:
        super().__init__()
        width = chs // expansion
        self.conv = conv1x1_like(conv, chs, width)
        self.norm1 = norm_like(norm, width)
        self.act1 = nn.GELU()
        self.attention = LocalAttention2d(width, chs, heads, head_size, window)
        self.norm2 = norm_like(norm, chs)
        self.drop_path = drop_path or nn.Identity()
        self.act2 = act
        init_convs(self)

    def zero_init_last(self) -> None:
        """Let the block start as the identity."""
        nn.init.zeros_(self.norm2.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        branch = self.attention(self.act1(self.norm1(self.conv(x))))
        y: Tensor = self.act2(x + self.drop_path(self.norm2(branch)))
        return y


def norm_like(norm: Any, chs: int) -> Any:
    """A norm of the same sort, without the activation that timm may fuse into it."""
    if isinstance(norm, nn.BatchNorm2d):
        return nn.BatchNorm2d(chs, eps=norm.eps, momentum=norm.momentum)
    if isinstance(norm, nn.GroupNorm):
        return nn.GroupNorm(norm.num_groups, chs, eps=norm.eps)
    if isinstance(norm, EvoNorm2dS0):
        # Without its activation it would not normalise at all; the norm inside it is a group norm.
        return nn.GroupNorm(norm.groups, chs, eps=norm.eps)
    assert isinstance(norm, FilterResponseNormTlu2d)
    return FilterResponseNormTlu2d(chs, apply_act=False, eps=norm.eps)


def conv1x1_like(conv: Any, in_chs: int, out_chs: int) -> nn.Conv2d:
    """A 1x1 convolution without bias, with standardised weights where the other has them."""
    if isinstance(conv, StdConv2d):
        return StdConv2d(in_chs, out_chs, 1, eps=conv.eps)
    return nn.Conv2d(in_chs, out_chs, 1, bias=False)


def init_convs(block: nn.Module) -> None:
    """Give all convolutions the start that timm gives those of a ResNet."""
    for module in block.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def starts_as_identity(block: nn.Module) -> bool:
    """Whether timm has set the last weight of a block's branch to zero."""
    weights = [weight for name, weight in block.named_parameters() if name.endswith(".weight")]
    return any(not weight.is_meta and not weight.any() for weight in weights)


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How an attention block fits one class of timm blocks."""

    block: type[PreActAttentionBlock] | type[PostActAttentionBlock]
    expansion: int
    """The block's width is its channels divided by this."""
    parts: dict[str, str]
    """What the attention block takes over, by the name that timm gives it in the replaced block."""


def _form(block: type[PreActAttentionBlock] | type[PostActAttentionBlock], expansion: int, **parts: str) -> Form:
    return Form(block=block, expansion=expansion, parts={"conv": "conv1", **parts, "drop_path": "drop_path"})


FORMS: dict[type[nn.Module], Form] = {
    resnet.BasicBlock: _form(PostActAttentionBlock, 1, norm="bn1", act="act2"),
    resnet.Bottleneck: _form(PostActAttentionBlock, 4, norm="bn1", act="act3"),
    resnetv2.Bottleneck: _form(PostActAttentionBlock, 4, norm="norm1", act="act3"),
    resnetv2.PreActBasic: _form(PreActAttentionBlock, 1, norm="norm1"),
    resnetv2.PreActBottleneck: _form(PreActAttentionBlock, 4, norm="norm1"),
}
"""The timm blocks that can be replaced."""

NORMS = (nn.BatchNorm2d, nn.GroupNorm, EvoNorm2dS0, FilterResponseNormTlu2d)
"""The norms that a replaced block may have."""


def _local_attention(kind: LocalAttention, replaced: Any) -> nn.Module:
    form = FORMS[type(replaced)]
    parts: dict[str, Any] = {name: getattr(replaced, part) for name, part in form.parts.items()}
    block = form.block(
        replaced.conv1.in_channels,
        expansion=form.expansion,
        heads=kind.heads,
        head_size=kind.head_size,
        window=kind.window,
        **parts,
    )
    if starts_as_identity(replaced):
        block.zero_init_last()
    return block.to(next(replaced.parameters()))


BUILDERS: dict[type[Kind], Callable[[Any, Any], nn.Module]] = {LocalAttention: _local_attention}
"""For every kind but Conv: from its settings and the timm block that it replaces to its module."""
