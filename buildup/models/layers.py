"""The layers of replaced blocks: self-attention and spatial smoothing, on maps.

Attention works inside windows, over the whole map, or over each place's neighbourhood. It takes maps of any size in
either memory format, and keeps both. The projections are 1x1 convolutions. The rows of `qkv` are all queries, then all
keys, then all values, each head by head: the weights of two convolutions, as in the reference code, go in as
`torch.cat([query.weight, key_value.weight])`.

`torch.export` with a free height and width needs an example with more than one row and column of windows.

No layer has buffers: tables and masks are computed from views and sizes, so a layer can be made on the meta device and
be filled later. Exported files contain copies of the classes.

Letters: B images, C channels, H and W the map, P the side of a window, N = P * P its tokens, R and S the rows and
columns of windows, h heads, d head size.
"""

import torch
import torch.nn.functional as F
from timm.models import register_notrace_module
from torch import Tensor, nn


def crop_map(x: Tensor, axis: int, height: int, width: int) -> Tensor:
    """The first rows and columns of a map whose rows are at an axis and whose columns are at the next."""
    # A slice would tie an exported graph to sizes that the windows divide, or to sizes that they don't.
    exporting = False if torch.jit.is_scripting() else torch.compiler.is_exporting()  # type: ignore[attr-defined]
    if exporting:
        x = x.index_select(axis, torch.arange(height, device=x.device))
        return x.index_select(axis + 1, torch.arange(width, device=x.device))
    return x.narrow(axis, 0, height).narrow(axis + 1, 0, width)


class LocalAttention2d(nn.Module):
    """Self-attention inside non-overlapping windows of a map, without shift.

    A learned table is added to the logits: one for all heads, or one for each. Its index is the key's position minus
    the query's: the opposite sign of Swin's. A map that the windows do not divide is padded at its bottom and right,
    and nothing attends to the padding.

    Forward and backward it is 1.6 to 2.0 times as fast in float32 as its equations written with einsum, and 1.2 to 2.7
    times in bf16, over three usual settings (`python bench/attention.py`: batch 16, channels last, eager torch 2.15,
    one core of an AMD EPYC with AVX-512, medians of ten rounds in turns).
    """

    def __init__(
        self, in_chs: int, out_chs: int, heads: int, head_size: int, window: int, tables: str = "shared"
    ) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.scale = head_size**-0.5
        self.qkv = nn.Conv2d(in_chs, 3 * heads * head_size, 1, bias=False)
        table = [2 * window - 1, 2 * window - 1]
        table = [heads, *table] if tables == "heads" else table
        self.position_bias = nn.Parameter(torch.empty(table))
        self.out = nn.Conv2d(heads * head_size, out_chs, 1)
        nn.init.normal_(self.position_bias, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, out_chs, H, W)."""
        images, _, height, width = x.shape
        heads, side = self.heads, self.window
        rows, columns = (height + side - 1) // side, (width + side - 1) // side
        padding = [0, columns * side - width, 0, rows * side - height]

        # One copy cuts the windows and separates the heads, whole rows of d at a time.
        # A pad of nothing would copy the map: on a CPU, forward and backward took 1.01 to 1.03 times as long. What is
        # scripted or exported takes maps of any size.
        pads = True
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            pads = torch.compiler.is_exporting() or any(padding)
        padded = x.contiguous(memory_format=torch.channels_last)
        padded = F.pad(padded, padding) if pads else padded
        qkv = self._project(padded.permute(0, 2, 3, 1), self.qkv.weight, None)
        parts = qkv.reshape(images, rows, side, columns, side, 3, heads, -1).unbind(5)
        windows = [part.permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, side * side, part.shape[-1]) for part in parts]

        outside = F.pad(x.new_zeros(height, width), padding, value=float("-inf"))
        outside = outside.view(rows, side, columns, side).transpose(1, 2).reshape(-1, 1, 1, side * side)
        # The table's entries as (N, N), query by key: row(key) - row(query) + P - 1, columns likewise.
        # Entry [i, j, a, b] of the unfolded table is table[i + a, j + b]; flipped, i is P - 1 - row(query).
        bias = self.position_bias.unfold(-2, side, 1).unfold(-2, side, 1).flip(-4, -3).flatten(-4, -3).flatten(-2)
        bias = bias + outside

        # Plain products: on 16 to 49 tokens they are faster than torch's fused attention, and have second derivatives.
        logits, tokens = windows[0] @ windows[1].transpose(1, 2), side * side
        logits = torch.add(bias, logits.view(-1, bias.shape[0], heads, tokens, tokens), alpha=self.scale)
        y = logits.softmax(dim=-1).view(-1, tokens, tokens) @ windows[2]

        y = y.view(images, rows, columns, heads, side, side, -1).permute(0, 1, 4, 2, 5, 3, 6)
        y = y.reshape(images, rows * side, columns * side, -1)
        y = crop_map(y, 1, height, width)
        y = self._project(y, self.out.weight, self.out.bias).permute(0, 3, 1, 2)
        return y if x.is_contiguous(memory_format=torch.channels_last) else y.contiguous()

    def _project(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """A 1x1 convolution of (B, H, W, C): torch's convolution where it is faster, else a matrix product."""
        if x.dtype == torch.float32 and x.is_cpu:
            return F.conv2d(x.permute(0, 3, 1, 2), weight, bias).permute(0, 2, 3, 1)
        return F.linear(x, weight.flatten(1), bias)


class GlobalAttention2d(nn.Module):
    """Self-attention over a whole map, without a table of positions.

    With torch's fused attention, memory does not grow with the square of H * W. Its fast kernels have no second
    derivatives: if you need those, run the layer inside `torch.nn.attention.sdpa_kernel(SDPBackend.MATH)`.
    """

    def __init__(self, in_chs: int, out_chs: int, heads: int, head_size: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Conv2d(in_chs, 3 * heads * head_size, 1, bias=False)
        self.out = nn.Conv2d(heads * head_size, out_chs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, out_chs, H, W)."""
        images, _, height, width = x.shape
        qkv = self.qkv(x.contiguous(memory_format=torch.channels_last)).permute(0, 2, 3, 1)
        parts = [part.transpose(1, 2) for part in qkv.reshape(images, height * width, 3, self.heads, -1).unbind(2)]
        y = F.scaled_dot_product_attention(parts[0], parts[1], parts[2]).transpose(1, 2)
        y = y.reshape(images, height, width, -1).permute(0, 3, 1, 2)
        if not x.is_contiguous(memory_format=torch.channels_last):
            y = y.contiguous()
        z: Tensor = self.out(y)
        return z


class ConvAttention2d(nn.Module):
    """Self-attention in the shape of a convolution: every place attends to the k x k places around it.

    With `borders="masked"` nothing attends to places outside of the map. With `"attended"` these are zeros that take
    part in the softmax, as in the reference code.

    The map is cut into tiles. One matrix product computes the logits of a tile with its surroundings; keys that are too
    far away are masked. Surroundings overlap, so keys and values are copied ((tile + k - 1) / tile)^2 times, at most 4;
    unfolding makes k^2 copies. Every place has (tile + k - 1)^2 logits for each head.
    """

    def __init__(
        self, in_chs: int, out_chs: int, heads: int, head_size: int, kernel: int, borders: str = "masked"
    ) -> None:
        super().__init__()
        self.heads = heads
        self.kernel = kernel
        self.tile = max(4, kernel - 1)
        self.masked = borders == "masked"
        self.scale = head_size**-0.5
        self.qkv = nn.Conv2d(in_chs, 3 * heads * head_size, 1, bias=False)
        self.out = nn.Conv2d(heads * head_size, out_chs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, out_chs, H, W)."""
        images, _, height, width = x.shape
        heads, tile, reach = self.heads, self.tile, self.kernel // 2
        rows, columns = (height + tile - 1) // tile, (width + tile - 1) // tile
        padding = [reach, columns * tile - width + reach, reach, rows * tile - height + reach]
        around = tile + 2 * reach

        # Without a bias, the padding's keys and values are zeros.
        qkv = self.qkv(F.pad(x.contiguous(memory_format=torch.channels_last), padding)).permute(0, 2, 3, 1)
        query, key, value = qkv.unflatten(3, [3, heads, -1]).unbind(3)
        query = query[:, reach : reach + rows * tile, reach : reach + columns * tile]
        query = query.unflatten(1, [rows, tile]).unflatten(3, [columns, tile]).permute(0, 1, 3, 5, 2, 4, 6)
        query = query.reshape(-1, tile * tile, query.shape[-1])
        # (B, R, S, h, around, around, d): a token is a row of d again.
        near = [
            part.unfold(1, around, tile).unfold(2, around, tile).permute(0, 1, 2, 3, 5, 6, 4) for part in (key, value)
        ]
        near = [part.reshape(-1, around * around, part.shape[-1]) for part in near]

        # Minus infinity where a query of a tile does not reach a key, else zero.
        steps = torch.arange(around, device=x.device) - torch.arange(tile, device=x.device).unsqueeze(1)
        far = (steps < 0) | (steps >= self.kernel)
        far = (far.view(tile, 1, around, 1) | far.view(1, tile, 1, around)).view(tile * tile, around * around)
        bias = x.new_zeros(tile * tile, around * around).masked_fill(far, float("-inf"))
        if self.masked:
            # Not minus infinity: a place in the padding may have no other keys. The exponential is zero all the same.
            outside = F.pad(x.new_zeros(height, width), padding, value=-3e4)
            bias = bias + outside.unfold(0, around, tile).unfold(1, around, tile).reshape(-1, 1, 1, around * around)
        logits = query @ near[0].transpose(1, 2)
        logits = torch.add(bias, logits.view(-1, rows * columns, heads, tile * tile, around * around), alpha=self.scale)
        y = logits.softmax(dim=-1).view(-1, tile * tile, around * around) @ near[1]

        y = y.view(images, rows, columns, heads, tile, tile, -1)
        if x.is_contiguous(memory_format=torch.channels_last):
            y = y.permute(0, 1, 4, 2, 5, 3, 6).reshape(images, rows * tile, columns * tile, -1).permute(0, 3, 1, 2)
        else:
            y = y.permute(0, 3, 6, 1, 4, 2, 5).reshape(images, -1, rows * tile, columns * tile)
        z: Tensor = self.out(crop_map(y, 2, height, width))
        return z


class GatedAttention2d(nn.Module):
    """A 3x3 convolution whose taps can become attention.

    A convolution multiplies the nine places around each one, its taps, by a matrix each, and adds up the results. Here
    each tap is a head. With a gate g, its matrix gets (1 - g) times the place of the tap, and g times the mean of all
    nine by attention. All gates start at zero, where this is the convolution up to rounding. Their gradients are not
    zero, so training can open them. Values are the features themselves, since the matrices follow.

    Of a larger convolution the middle 3x3 weights are kept, the nearest ones for uncorrelated inputs.
    """

    def __init__(self, conv: nn.Conv2d, head_size: int = 16) -> None:
        super().__init__()
        self.kernel = 3
        self.in_channels = conv.in_channels
        self.groups = conv.groups
        self.dilation = conv.dilation[0]
        self.scale = head_size**-0.5
        self.weight = nn.Parameter(middle_weights(conv))
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach().clone())
        self.query_key = nn.Conv2d(conv.in_channels, 2 * 9 * head_size, 1, bias=False)
        self.position_bias = nn.Parameter(torch.zeros(9, 9))
        self.gate = nn.Parameter(torch.zeros(9))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, out_chs, H, W)."""
        query, key = self.query_key(x).unflatten(1, [2, 9, -1]).unbind(1)
        # A head's logits of the nine taps: (B, 9, H, W, 9).
        logits = torch.stack([(query * one).sum(2) for one in self._taps(key)], dim=-1) * self.scale
        outside = torch.stack(self._taps(x.new_zeros(1, 1, x.shape[2], x.shape[3]), value=float("-inf")), dim=-1)
        logits = logits + self.position_bias.view(9, 1, 1, 9) + outside
        # What each head takes from each tap, (B, H, W, 9, 9): its own one as far as its gate is closed. The gate is in
        # these weights and not beside the taps, which are larger: 0.55 times the time (64 channels, 32x32, one core).
        gate = self.gate.unsqueeze(-1)
        weights = (1 - gate) * torch.eye(9, device=x.device) + gate * logits.softmax(dim=-1).permute(0, 2, 3, 1, 4)
        taps = torch.stack([tap.permute(0, 2, 3, 1) for tap in self._taps(x)], dim=3)
        seen = weights.to(taps.dtype) @ taps
        if self.groups > 1:  # the channels of a group side by side
            seen = seen.unflatten(-1, [self.groups, -1]).transpose(3, 4)
        matrices = self.weight.permute(0, 2, 3, 1).flatten(1).unsqueeze(-1).unsqueeze(-1)
        y = F.conv2d(seen.flatten(3).permute(0, 3, 1, 2), matrices, self.bias, groups=self.groups)
        return y if x.is_contiguous(memory_format=torch.channels_last) else y.contiguous()

    def _taps(self, x: Tensor, value: float = 0.0) -> list[Tensor]:
        """Views of maps, shifted to each of the nine taps, in the order of the weights."""
        height, width, step = x.shape[-2], x.shape[-1], self.dilation
        x = F.pad(x, [step, step, step, step], value=value)
        return [x.narrow(-2, tap // 3 * step, height).narrow(-1, tap % 3 * step, width) for tap in range(9)]


@torch.no_grad()
def middle_weights(conv: nn.Conv2d) -> Tensor:
    """The middle 3x3 weights that a convolution applies, also where it first transforms its parameters."""
    side, step = conv.kernel_size[0], conv.dilation[0]
    weight = conv.weight.detach()
    if type(conv) is not nn.Conv2d:
        # Standardised weights, say. Its answer to single pixels has them.
        inputs, middle = conv.in_channels // conv.groups, step * (side // 2)
        pixels = weight.new_zeros(inputs, conv.groups, inputs, 2 * middle + 1, 2 * middle + 1)
        pixels[torch.arange(inputs), :, torch.arange(inputs), middle, middle] = 1
        nothing = conv(weight.new_zeros(1, conv.in_channels, 2 * middle + 1, 2 * middle + 1))
        weight = (conv(pixels.flatten(1, 2)) - nothing)[..., ::step, ::step].transpose(0, 1).flip(2, 3)
    edge = (side - 3) // 2
    return weight[:, :, edge : edge + 3, edge : edge + 3].clone()


class Smoothing2d(nn.Module):
    """ReLU(t * tanh(x / t)), blurred by a binomial filter: the mean of 2 x 2 places, (1, 2, 1) twice for 3 x 3.

    It has no weights. The map keeps its size: its borders are repeated, one place more at the bottom and right if the
    kernel is even. With `borders="grow"` it is padded with kernel // 2 zeros, as in the reference code: an even kernel
    then makes it one larger, and its borders become darker.
    """

    def __init__(self, kernel: int, temperature: float, borders: str) -> None:
        super().__init__()
        self.kernel = kernel
        self.temperature = temperature
        self.grow = borders == "grow"

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape, or one larger."""
        x = F.relu(self.temperature * torch.tanh(x / self.temperature))
        before, after = (self.kernel - 1) // 2, self.kernel // 2
        if self.grow:
            x = F.pad(x, [after, after, after, after])
        else:
            x = F.pad(x, [before, after, before, after], mode="replicate")
        # A binomial filter is the repeated mean of two neighbours.
        for _ in range(self.kernel - 1):
            x = F.avg_pool2d(x, 2, stride=1)
        return x

    def extra_repr(self) -> str:
        return f"kernel={self.kernel}, temperature={self.temperature}, borders={'grow' if self.grow else 'replicate'}"


# They ask for memory formats, which fx cannot trace, so timm's feature extraction by fx must treat them as leaves. No
# decorators, since copied classes should need torch alone.
for _layer in (LocalAttention2d, GlobalAttention2d, ConvAttention2d, GatedAttention2d):
    register_notrace_module(_layer)
