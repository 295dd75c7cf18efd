"""Local self-attention on feature maps: every window attends to itself (paper.md 2.1)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LocalAttention2d(nn.Module):
    """Self-attention inside non-overlapping windows of a map, without shift.

    One learned table, shared by all heads, is added to the logits. Its entry for a query and a key is found by the
    key's place minus the query's: the opposite sign of Swin's. A map that the windows do not divide is padded at
    its bottom and right, and nothing attends to the padding.

    The table is read through strided views, so there is no index to keep: the module can be made on the meta
    device and filled later.

    Letters: B images, C channels, H and W the map, P the side of a window, N = P * P its tokens, R and S the rows
    and columns of windows, h heads, d head size.
    """

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        heads: int,
        head_size: int,
        window: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        inner = heads * head_size
        self.heads = heads
        self.window = window
        self.scale = head_size**-0.5
        self.query = nn.Conv2d(in_chs, inner, 1, bias=False, device=device, dtype=dtype)
        self.key_value = nn.Conv2d(in_chs, 2 * inner, 1, bias=False, device=device, dtype=dtype)
        self.position_bias = nn.Parameter(torch.empty(2 * window - 1, 2 * window - 1, device=device, dtype=dtype))
        self.out = nn.Conv2d(inner, out_chs, 1, device=device, dtype=dtype)
        nn.init.normal_(self.position_bias, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, out_chs, H, W)."""
        height, width = x.shape[-2:]
        bottom, right = -height % self.window, -width % self.window
        if bottom or right:
            x = F.pad(x, (0, right, 0, bottom))
        query = self._windows(self.query(x))
        key, value = (self._windows(half) for half in self.key_value(x).chunk(2, dim=1))
        logits = query @ key.transpose(-2, -1) * self.scale + self._bias()
        if bottom or right:
            real = F.pad(x.new_ones(1, 1, height, width, dtype=torch.bool), (0, right, 0, bottom))
            logits = logits.masked_fill(~self._cut(real, 1).transpose(-2, -1), float("-inf"))
        y: Tensor = self.out(self._map(logits.softmax(dim=-1) @ value, x)[..., :height, :width])
        return y

    def _bias(self) -> Tensor:
        """The table's entries as (N, N), query by key: row(key) - row(query) + P - 1, columns likewise."""
        side = self.window
        # Entry [i, j, a, b] of the unfolded table is table[i + a, j + b]; flipped, i is P - 1 - row(query).
        views = self.position_bias.unfold(0, side, 1).unfold(1, side, 1)
        return views.flip(0, 1).reshape(side**2, side**2)

    def _windows(self, x: Tensor) -> Tensor:
        """(B, h * d, H, W) to (B, R * S, h, N, d)."""
        return self._cut(x, self.heads)

    def _cut(self, x: Tensor, heads: int) -> Tensor:
        side = self.window
        images, channels, height, width = x.shape
        x = x.view(images, heads, channels // heads, height // side, side, width // side, side)
        return x.permute(0, 3, 5, 1, 4, 6, 2).reshape(images, -1, heads, side**2, channels // heads)

    def _map(self, y: Tensor, like: Tensor) -> Tensor:
        """(B, R * S, h, N, d) back to (B, h * d, H, W), with H and W those of `like`."""
        side = self.window
        images, _, height, width = like.shape
        y = y.view(images, height // side, width // side, self.heads, side, side, -1)
        return y.permute(0, 3, 6, 1, 4, 2, 5).reshape(images, -1, height, width)
