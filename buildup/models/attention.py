"""Self-attention on maps: inside windows, over the whole map, or in the shape of a convolution (paper.md 2.1, 8.10).

All three take any size of map, in either memory format, and give one of the same size and format. Their projections
are 1x1 convolutions. The rows of `qkv` are all queries, then all keys, then all values, each head by head: the weights
of two convolutions, as in the reference code, go in as `torch.cat([query.weight, key_value.weight])`.

`torch.export` with a free height and width needs an example with more than one row and column of windows.

Nothing here is a buffer: tables and masks are made from views and sizes, so a module can be made on the meta device and
be filled later. The classes are copied by their source into exported files, so each stands alone.

Letters: B images, C channels, H and W the map, P the side of a window, N = P * P its tokens, R and S the rows and
columns of windows, h heads, d head size.
"""

import torch
import torch.nn.functional as F
from timm.models import register_notrace_module
from torch import Tensor, nn


class LocalAttention2d(nn.Module):
    """Self-attention inside non-overlapping windows of a map, without shift.

    A learned table is added to the logits: one for all heads, or one for each. Its entry for a query and a key is found
    by the key's place minus the query's: the opposite sign of Swin's. A map that the windows do not divide is padded at
    its bottom and right, and nothing attends to the padding.

    Forward and backward it is 1.6 to 2.0 times as fast in float32 as its equations written with einsum, and 1.2 to 2.7
    times in bf16, over three usual settings (`python bench/attention.py`: batch 16, channels last, eager torch 2.15,
    one core of an AMD EPYC with AVX-512, medians of ten rounds in turns).
    """

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        heads: int,
        head_size: int,
        window: int,
        tables: str = "shared",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.scale = head_size**-0.5
        self.qkv = nn.Conv2d(in_chs, 3 * heads * head_size, 1, bias=False, device=device, dtype=dtype)
        table = [2 * window - 1, 2 * window - 1]
        table = [heads, *table] if tables == "heads" else table
        self.position_bias = nn.Parameter(torch.empty(table, device=device, dtype=dtype))
        self.out = nn.Conv2d(heads * head_size, out_chs, 1, device=device, dtype=dtype)
        nn.init.normal_(self.position_bias, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, out_chs, H, W)."""
        images, _, height, width = x.shape
        heads, side = self.heads, self.window
        rows, columns = (height + side - 1) // side, (width + side - 1) // side
        padding = [0, columns * side - width, 0, rows * side - height]

        # One copy cuts the windows and puts the heads apart, whole rows of d at a time.
        padded = F.pad(x.contiguous(memory_format=torch.channels_last), padding).permute(0, 2, 3, 1)
        qkv = self._project(padded, self.qkv.weight, None)
        parts = qkv.reshape(images, rows, side, columns, side, 3, heads, -1).unbind(5)
        windows = [part.permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, side * side, part.shape[-1]) for part in parts]

        nowhere = F.pad(x.new_zeros(height, width), padding, value=float("-inf"))
        nowhere = nowhere.view(rows, side, columns, side).transpose(1, 2).reshape(-1, 1, 1, side * side)
        y = self._attend(windows[0], windows[1], windows[2], self._bias() + nowhere)

        y = y.view(images, rows, columns, heads, side, side, -1).permute(0, 1, 4, 2, 5, 3, 6)
        y = y.reshape(images, rows * side, columns * side, -1)
        # A slice would tie an exported graph to sizes that the windows divide, or to sizes that they don't.
        exporting = False if torch.jit.is_scripting() else torch.compiler.is_exporting()  # type: ignore[attr-defined]
        if exporting:
            y = y.index_select(1, torch.arange(height, device=y.device))
            y = y.index_select(2, torch.arange(width, device=y.device))
        else:
            y = y[:, :height, :width]
        y = self._project(y, self.out.weight, self.out.bias).permute(0, 3, 1, 2)
        return y if x.is_contiguous(memory_format=torch.channels_last) else y.contiguous()

    def _project(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """A 1x1 convolution of (B, H, W, C): as torch's convolution where that is the faster, else as a product."""
        if x.dtype == torch.float32 and x.is_cpu:
            return F.conv2d(x.permute(0, 3, 1, 2), weight, bias).permute(0, 2, 3, 1)
        return F.linear(x, weight.flatten(1), bias)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        """(B * R * S * h, N, d) three times, and a bias for (R * S, h, N, N), to (B * R * S * h, N, d)."""
        # Plain products: on 16 to 49 tokens they are faster than torch's fused attention, and have second derivatives.
        logits = query @ key.transpose(1, 2)
        tokens = logits.shape[-1]
        logits = torch.add(bias, logits.view(-1, bias.shape[0], self.heads, tokens, tokens), alpha=self.scale)
        return logits.softmax(dim=-1).view(-1, tokens, tokens) @ value

    def _bias(self) -> Tensor:
        """The table's entries as (N, N), query by key: row(key) - row(query) + P - 1, columns likewise."""
        side = self.window
        # Entry [i, j, a, b] of the unfolded table is table[i + a, j + b]; flipped, i is P - 1 - row(query).
        return self.position_bias.unfold(-2, side, 1).unfold(-2, side, 1).flip(-4, -3).flatten(-4, -3).flatten(-2)


class GlobalAttention2d(nn.Module):
    """Self-attention over a whole map, without a table of positions.

    torch's fused attention keeps its memory from growing with the square of H * W. Its fast kernels have no second
    derivatives: where those are needed, run it inside `torch.nn.attention.sdpa_kernel(SDPBackend.MATH)`.
    """

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        heads: int,
        head_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Conv2d(in_chs, 3 * heads * head_size, 1, bias=False, device=device, dtype=dtype)
        self.out = nn.Conv2d(heads * head_size, out_chs, 1, device=device, dtype=dtype)

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

    With `borders="masked"` nothing attends to what lies outside of the map. With `"attended"` the outside is zeros that
    take their share of the softmax, as in the reference code.

    The map is cut into tiles, and each meets its surroundings in one matrix product; what lies too far away is masked.
    Surroundings overlap, so keys and values are copied ((tile + k - 1) / tile)^2 times, at most 4; unfolding makes k^2
    copies. Every place then has (tile + k - 1)^2 logits a head.
    """

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        heads: int,
        head_size: int,
        kernel: int,
        borders: str = "masked",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.kernel = kernel
        self.tile = max(4, kernel - 1)
        self.masked = borders == "masked"
        self.scale = head_size**-0.5
        self.qkv = nn.Conv2d(in_chs, 3 * heads * head_size, 1, bias=False, device=device, dtype=dtype)
        self.out = nn.Conv2d(heads * head_size, out_chs, 1, device=device, dtype=dtype)

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
        # (B, R, S, h, d, around, around), and then a token is a row of d again.
        near = [
            part.unfold(1, around, tile).unfold(2, around, tile).permute(0, 1, 2, 3, 5, 6, 4) for part in (key, value)
        ]
        near = [part.reshape(-1, around * around, part.shape[-1]) for part in near]

        bias = self._far(x)
        if self.masked:
            # Not minus infinity, for a place in the padding may have nothing else around; its exponential is zero.
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
        # A slice would tie an exported graph to sizes that the tiles divide, or to sizes that they don't.
        exporting = False if torch.jit.is_scripting() else torch.compiler.is_exporting()  # type: ignore[attr-defined]
        if exporting:
            y = y.index_select(2, torch.arange(height, device=y.device))
            y = y.index_select(3, torch.arange(width, device=y.device))
        else:
            y = y[:, :, :height, :width]
        z: Tensor = self.out(y)
        return z

    def _far(self, like: Tensor) -> Tensor:
        """Minus infinity at each key of a tile's surroundings that a query of the tile does not reach, else zero."""
        side, around = self.tile, self.tile + self.kernel - 1
        steps = torch.arange(around, device=like.device) - torch.arange(side, device=like.device).unsqueeze(1)
        far = (steps < 0) | (steps >= self.kernel)
        far = (far.view(side, 1, around, 1) | far.view(1, side, 1, around)).view(side * side, around * around)
        return like.new_zeros(side * side, around * around).masked_fill(far, float("-inf"))


# They ask for memory formats, which timm's feature extraction by fx can't follow: it takes them as one step. Not as a
# decorator, for a copied source should need torch alone.
for _layer in (LocalAttention2d, GlobalAttention2d, ConvAttention2d):
    register_notrace_module(_layer)
