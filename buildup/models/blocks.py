"""What stands at a place of a network, as modules: one builder for every kind that can replace a timm block.

The attention blocks are those of paper.md 2.2, with the habits of the block that they replace. The post-activation
variant of the paper ends with the sum; ours then takes the final activation of the replaced block where it has one,
because the next block of such a base expects an input that went through it (paper.md 13).
"""

from collections.abc import Callable
from math import gcd
from typing import Any

from timm.layers.filter_response_norm import FilterResponseNormTlu2d
from timm.layers.norm import LayerNorm2d, RmsNorm2d
from timm.layers.std_conv import StdConv2d
from torch import Tensor, nn

from buildup.errors import LayoutError
from buildup.graph.block_style import BlockStyle, Norm
from buildup.graph.kinds import Attention, ConvAttention, GlobalAttention, LocalAttention, Smoothing
from buildup.graph.network import Block
from buildup.models.attention import ConvAttention2d, GlobalAttention2d, LocalAttention2d
from buildup.models.smoothing import Smoothing2d


class PreActAttentionBlock(nn.Module):
    """Self-attention in place of a pre-activation block.

    norm, GELU, 1x1 conv, norm, attention, scale, drop path; then the input is added as it came. Nothing follows the
    sum: the next block begins with a norm and an activation of its own.
    """

    def __init__(
        self,
        chs: int,
        width: int,
        attention: nn.Module,
        *,
        conv: Callable[[int, int], nn.Module],
        norm: Callable[[int], nn.Module],
        scale: Tensor | None,
        drop_path: nn.Module | None,
    ) -> None:
        super().__init__()
        self.norm1 = norm(chs)
        self.act1 = nn.GELU()
        self.conv = conv(chs, width)
        self.norm2 = norm(width)
        self.attention = attention
        self.scale = None if scale is None else nn.Parameter(scale.detach().clone().view(-1, 1, 1))
        self.drop_path = drop_path or nn.Identity()
        init_convs(self)

    def zero_init_last(self) -> None:
        """Let the block start as the identity."""
        nn.init.zeros_(self.attention.get_parameter("out.weight"))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        branch = self.attention(self.norm2(self.conv(self.act1(self.norm1(x)))))
        if self.scale is not None:
            branch = branch * self.scale
        y: Tensor = x + self.drop_path(branch)
        return y


class PostActAttentionBlock(nn.Module):
    """Self-attention in place of a block that ends in a norm or in an activation.

    1x1 conv, norm, GELU, attention, norm, drop path; then the input is added, and the final activation of the
    replaced block follows, where it has one: the next block expects an input that went through it. What else the
    replaced block had (squeeze-excitation, DropBlock) goes with it.
    """

    def __init__(
        self,
        chs: int,
        width: int,
        attention: nn.Module,
        *,
        conv: Callable[[int, int], nn.Module],
        norm: Callable[[int], nn.Module],
        act: nn.Module | None,
        drop_path: nn.Module | None,
    ) -> None:
        super().__init__()
        self.conv = conv(chs, width)
        self.norm1 = norm(width)
        self.act1 = nn.GELU()
        self.attention = attention
        self.norm2 = norm(chs)
        self.drop_path = drop_path or nn.Identity()
        self.act2 = act or nn.Identity()
        init_convs(self)

    def zero_init_last(self) -> None:
        """Let the block start as the identity, up to its last activation."""
        nn.init.zeros_(self.norm2.get_parameter("weight"))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        branch = self.attention(self.act1(self.norm1(self.conv(x))))
        y: Tensor = self.act2(x + self.drop_path(self.norm2(branch)))
        return y


class ChannelsLast(nn.Module):
    """A block for a base whose maps are height, width, channels."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        y: Tensor = self.block(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return y


def build_block(block: Block, replaced: nn.Module) -> nn.Module:
    """The module of a block that is not the base's own, in place of the timm block that the base has there."""
    if block.style is None:
        raise LayoutError(
            f"{block.path} has no form: the network is a sketch, and only what `read` gives can be built."
        )
    if isinstance(block.kind, Smoothing):
        module: nn.Module = Smoothing2d(block.kind.kernel, block.kind.temperature, block.kind.borders)
    else:
        assert isinstance(block.kind, Attention)
        module = _attention_block(block, block.kind, block.style, replaced)
    return ChannelsLast(module) if block.style.channels_last else module


def width_of(block: Block) -> int:
    """How many channels attention reads: as its settings say, else as the paper does for the block it replaces."""
    assert isinstance(block.kind, Attention)
    width = block.kind.width or (block.expansion and block.in_shape[0] // block.expansion)
    if not width:
        raise LayoutError(
            f"{block.path}: its {block.kind.name} has no width, and the paper says none for {block.module} blocks. "
            f"Set width, the channels that attention reads; {max(8, block.in_shape[0] // 4)} is usual."
        )
    return width


def _attention_block(block: Block, kind: Attention, style: BlockStyle, replaced: nn.Module) -> nn.Module:
    chs, width = block.in_shape[0], width_of(block)
    parts: dict[str, Any] = {
        "conv": conv_layer(style.standardised),
        "norm": norm_layer(style.norm),
        "drop_path": _part(replaced, style.drop_path),
    }
    attention = _attention(kind, width, chs)
    if style.order == "pre":
        scale = _part(replaced, style.scale)
        made: PreActAttentionBlock | PostActAttentionBlock = PreActAttentionBlock(
            chs, width, attention, scale=scale, **parts
        )
    else:
        made = PostActAttentionBlock(chs, width, attention, act=_part(replaced, style.act), **parts)
    if starts_as_identity(replaced):
        made.zero_init_last()
    return made.to(next(replaced.parameters()))


def _attention(kind: Attention, width: int, chs: int) -> nn.Module:
    match kind:
        case LocalAttention():
            return LocalAttention2d(width, chs, kind.heads, kind.head_size, kind.window, kind.tables)
        case GlobalAttention():
            return GlobalAttention2d(width, chs, kind.heads, kind.head_size)
        case ConvAttention():
            return ConvAttention2d(width, chs, kind.heads, kind.head_size, kind.kernel, kind.borders)


def _part(block: nn.Module, path: str) -> Any:
    """What a path inside a block leads to; None where there is nothing."""
    part: Any = block
    for name in path.split(".") if path else ():
        part = getattr(part, name, None)
    return part if path else None


def norm_layer(norm: Norm) -> Callable[[int], nn.Module]:
    """From a number of channels to a norm of a sort."""
    match norm.kind:
        case "batch":
            return lambda chs: nn.BatchNorm2d(chs, eps=norm.eps, momentum=norm.momentum)
        case "group":
            groups = norm.groups or 32
            return lambda chs: nn.GroupNorm(gcd(groups, chs), chs, eps=norm.eps)
        case "layer":
            return lambda chs: LayerNorm2d(chs, eps=norm.eps)
        case "rms":
            return lambda chs: RmsNorm2d(chs, eps=norm.eps)
        case "frn":
            return lambda chs: FilterResponseNormTlu2d(chs, apply_act=False, eps=norm.eps)


def conv_layer(standardised: float | None) -> Callable[[int, int], nn.Module]:
    """From two numbers of channels to a 1x1 convolution, with standardised weights where an eps for them is given."""
    if standardised is None:
        return lambda in_chs, out_chs: nn.Conv2d(in_chs, out_chs, 1, bias=False)
    return lambda in_chs, out_chs: StdConv2d(in_chs, out_chs, 1, eps=standardised)


def init_convs(block: nn.Module) -> None:
    """Give all convolutions the start that timm gives those of a ResNet.

    Queries start apart from keys and values, which are two convolutions in the paper's code.
    """
    for name, module in block.named_modules():
        if isinstance(module, nn.Conv2d):
            queries = module.out_channels // 3 if name.endswith("qkv") else 0
            for part in (module.weight.data[:queries], module.weight.data[queries:]):
                if len(part):
                    nn.init.kaiming_normal_(part, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def starts_as_identity(block: nn.Module) -> bool:
    """Whether timm has set the last weight of a block's branch to zero."""
    weights = [weight for name, weight in block.named_parameters() if name.endswith(".weight")]
    return any(not weight.is_meta and not weight.any() for weight in weights)
