"""The modules of blocks that replace timm blocks, made in one way for all kinds.

The attention blocks are those of the paper, in the style of the block that they replace. The paper's post-activation
block ends with the sum; ours adds the final activation of the replaced block, if there is one, because the next block
of such a base expects its input after this activation.
"""

from collections.abc import Callable, Mapping
from functools import partial
from math import gcd
from pkgutil import resolve_name
from typing import Any

import torch
from timm.layers.filter_response_norm import FilterResponseNormTlu2d
from timm.layers.norm import LayerNorm2d, RmsNorm2d
from timm.layers.std_conv import StdConv2d
from torch import Tensor, nn

from buildup.errors import KindError, LayoutError
from buildup.graph.kinds import BlockKind
from buildup.graph.network import Block, Norm


class PreActAttentionBlock(nn.Module):
    """Self-attention in place of a pre-activation block.

    norm, GELU, 1x1 conv, norm, attention, scale, drop path, sum with the input. Nothing follows the sum: the next block
    begins with a norm and an activation of its own.
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
        """Initialise the block as the identity."""
        nn.init.zeros_(self.attention.get_parameter("out.weight"))

    def forward(self, x: Tensor) -> Tensor:
        branch = self.attention(self.norm2(self.conv(self.act1(self.norm1(x)))))
        if self.scale is not None:
            branch = branch * self.scale
        y: Tensor = x + self.drop_path(branch)
        return y


class PostActAttentionBlock(nn.Module):
    """Self-attention in place of a block that ends in a norm or in an activation.

    1x1 conv, norm, GELU, attention, norm, drop path, sum with the input, and the final activation of the replaced
    block, if there is one. Other parts of the replaced block (squeeze-excitation, DropBlock) are dropped.
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
        """Initialise the block as the identity, up to its last activation."""
        nn.init.zeros_(self.norm2.get_parameter("weight"))

    def forward(self, x: Tensor) -> Tensor:
        branch = self.attention(self.act1(self.norm1(self.conv(x))))
        y: Tensor = self.act2(x + self.drop_path(self.norm2(branch)))
        return y


class ChannelsLast(nn.Module):
    """A block in a base whose maps are channels last: (B, H, W, C)."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return y


def block_factory(block: Block) -> Callable[[nn.Module], nn.Module]:
    """The function that makes the module of a block from the timm block that it replaces.

    It is a `partial` of plain values, classes, functions and other partials, so that an exported file can contain it.
    """
    kind, style = block.kind, block.style
    if style is None:
        raise LayoutError(
            f"{block.path} has no form: the network is a sketch, and only what `read` gives can be built."
        )
    chs = block.in_shape[0]
    if kind.within:
        return partial(inner_layer, make=partial(module_class(kind), **kind.arguments(chs, chs)))
    width = attention_width(block) if kind.branch else chs
    # A 1x1 convolution; its weights are standardised if there is an eps for that.
    conv: Callable[[int, int], nn.Module] = partial(nn.Conv2d, kernel_size=1, bias=False)
    if style.standardised is not None:
        conv = partial(StdConv2d, kernel_size=1, eps=style.standardised)
    layer = partial(module_class(kind), **kind.arguments(chs, width))
    factory = partial(whole_block, make=layer)
    if kind.branch:
        pre = style.order == "pre"
        factory = partial(
            branch_block,
            block=PreActAttentionBlock if pre else PostActAttentionBlock,
            branch=layer,
            chs=chs,
            width=width,
            conv=conv,
            norm=_norm_layer(style.norm),
            parts={"drop_path": style.drop_path, **({"scale": style.scale} if pre else {"act": style.act})},
        )
    return partial(channels_last_block, make=factory) if style.channels_last else factory


def module_class(kind: BlockKind) -> type[nn.Module]:
    try:
        found: type[nn.Module] = resolve_name(kind.module)
    except (ImportError, AttributeError) as error:
        raise KindError(
            f"Block kind {kind.letter} ({kind.name}): its module {kind.module} is missing: {error}."
        ) from error
    return found


def attention_width(block: Block) -> int:
    """The channels that a branch reads: from its settings, else what the paper gives for the replaced block."""
    chs = block.in_shape[0]
    width: int | None = getattr(block.kind, "width", None) or (block.expansion and chs // block.expansion)
    if not width and hasattr(block.kind, "width"):
        raise LayoutError(
            f"{block.path}: its {block.kind.name} has no width, and the paper says none for {block.module} blocks. "
            f"Set width, the channels that attention reads; {max(8, chs // 4)} is usual."
        )
    return width or max(8, chs // 4)


def _norm_layer(norm: Norm) -> Callable[[int], nn.Module]:
    match norm.kind:
        case "batch":
            return partial(nn.BatchNorm2d, eps=norm.eps, momentum=norm.momentum)
        case "group":
            return partial(group_norm, groups=norm.groups or 32, eps=norm.eps)
        case "layer":
            return partial(LayerNorm2d, eps=norm.eps)
        case "rms":
            return partial(RmsNorm2d, eps=norm.eps)
        case "frn":
            return partial(FilterResponseNormTlu2d, apply_act=False, eps=norm.eps)


def group_norm(chs: int, *, groups: int, eps: float) -> nn.Module:
    """A group norm with at most the given number of groups, so that they divide the channels."""
    return nn.GroupNorm(gcd(groups, chs), chs, eps=eps)


def branch_block(
    replaced: nn.Module,
    *,
    block: Callable[..., Any],
    branch: Callable[[], nn.Module],
    chs: int,
    width: int,
    conv: Callable[[int, int], nn.Module],
    norm: Callable[[int], nn.Module],
    parts: Mapping[str, str],
) -> nn.Module:
    """A residual block around one layer, in the style of the block that it replaces.

    The layer, made by `branch`, reads `width` channels. `parts` has the paths in the replaced block of the parts that
    the new one keeps; empty where there is no such part.
    """
    kept = {name: find_part(replaced, path) for name, path in parts.items()}
    made = block(chs, width, branch(), conv=conv, norm=norm, **kept)
    weights = [weight for name, weight in replaced.named_parameters() if name.endswith(".weight")]
    # timm initialises a block as the identity by a last weight of zero.
    if any(not weight.is_meta and not weight.any() for weight in weights):
        made.zero_init_last()
    moved: nn.Module = made.to(next(replaced.parameters()))
    return moved


def inner_layer(replaced: nn.Module, *, make: Callable[..., nn.Module]) -> nn.Module:
    """The block itself, with another layer in place of its last 3x3 convolution, or else of its last larger one.

    A block that is a convolution becomes that layer.
    """
    path = inner_convolution(replaced)
    if path is None:
        raise LayoutError(
            f"{type(replaced).__name__} has no convolution of 3x3 or more that keeps the size of its maps, which this "
            "kind starts from. Put another kind there."
        )
    conv: Any = replaced.get_submodule(path)
    layer = make(conv=conv).to(conv.weight).train(replaced.training)
    if not path:
        return layer
    replaced.set_submodule(path, layer)
    return replaced


def inner_convolution(block: nn.Module) -> str | None:
    """The path of the convolution that an inner layer replaces; empty for the block itself, None if there is none."""
    found: dict[bool, str] = {}
    for path, conv in block.named_modules():
        if not isinstance(conv, nn.Conv2d) or conv.padding_mode != "zeros":
            continue
        side, step = conv.kernel_size[0], conv.dilation[0]
        if side == 1 or side % 2 == 0 or conv.kernel_size != (side, side) or conv.dilation != (step, step):
            continue
        maps = conv.weight.new_zeros(1, conv.in_channels, step * side, step * side)
        with torch.no_grad():
            if conv(maps).shape[2:] == maps.shape[2:]:
                found[side == 3] = path
    return found.get(True, found.get(False))


def whole_block(replaced: nn.Module, *, make: Callable[[], nn.Module]) -> nn.Module:
    """A block that takes only device and dtype from the block that it replaces."""
    return make().to(next(replaced.parameters()))


def channels_last_block(replaced: nn.Module, *, make: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return ChannelsLast(make(replaced))


def find_part(block: nn.Module, path: str) -> Any:
    """The module or parameter at a path in a block; None for an empty path or one that leads nowhere."""
    part: Any = block
    for name in path.split(".") if path else ():
        part = getattr(part, name, None)
    return part if path else None


def init_convs(block: nn.Module) -> None:
    """Initialise all convolutions as timm does in a ResNet.

    Queries are initialised separately from keys and values, since the paper's code has two convolutions.
    """
    for name, module in block.named_modules():
        if isinstance(module, nn.Conv2d):
            queries = module.out_channels // 3 if name.endswith("qkv") else 0
            for part in (module.weight.data[:queries], module.weight.data[queries:]):
                if len(part):
                    nn.init.kaiming_normal_(part, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
