"""The local attention layer beside plain versions, torch's fused attention and timm's Swin: milliseconds."""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.models.swin_transformer import WindowAttention, window_partition, window_reverse
from torch import Tensor, nn

from answer import answer
from buildup.engine.problems import Problems
from buildup.files import cores
from buildup.models.layers import LocalAttention2d
from buildup.training.execution import check_device

Variant = Literal["ours", "einsum", "convs", "sdpa", "swin"]
Precision = Literal["float32", "bf16"]

HEAD_SIZE = 64
PRECISIONS: dict[Precision, torch.dtype] = {"float32": torch.float32, "bf16": torch.bfloat16}
CPU_BATCH, GPU_BATCH = 16, 512
ROUNDS = 10
"""After three to warm up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A layer and the map that it stands on."""

    in_chs: int
    out_chs: int
    heads: int
    size: int
    window: int


SETTINGS = (
    Setting(in_chs=128, out_chs=512, heads=6, size=16, window=4),
    Setting(in_chs=512, out_chs=2048, heads=24, size=4, window=4),
    Setting(in_chs=128, out_chs=512, heads=6, size=28, window=7),
)
"""Stages 2 and 4 of a ResNet-50 at 32 px, and stage 2 at 224 px."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one version of a layer takes, forward and backward."""

    setting: Setting
    variant: Variant
    precision: Precision
    milliseconds: float
    """The median."""
    ratio: float
    """To ours: above 1 where ours is faster."""
    peak_mib: float | None
    """Of the device's memory; a CPU does not tell."""


class EinsumAttention(nn.Module):
    """The layer as its equations read: every product is an einsum over windows."""

    def __init__(self, ours: LocalAttention2d) -> None:
        super().__init__()
        self.ours = ours
        side = ours.window
        rows, columns = torch.arange(side**2) // side, torch.arange(side**2) % side
        self.register_buffer("rows", rows - rows[:, None] + side - 1)
        self.register_buffer("columns", columns - columns[:, None] + side - 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, out_chs, H, W)."""
        side, heads = self.ours.window, self.ours.heads
        images, channels, height, width = x.shape
        windows = x.reshape(images, channels, height // side, side, width // side, side)
        windows = torch.einsum("bcrisj->brsijc", windows).reshape(-1, side**2, channels)
        weights = self.ours.qkv.weight.view(3, heads, -1, channels)
        query, key, value = (torch.einsum("wnc,hdc->whnd", windows, weight) for weight in weights)
        y = self._attend(query, key, value)
        out = self.ours.out
        y = torch.einsum("whnd,ohd->wno", y, out.weight.view(-1, heads, y.shape[-1])) + out.get_parameter("bias")
        y = y.reshape(images, height // side, width // side, side, side, -1)
        return torch.einsum("brsijo->borisj", y).reshape(images, -1, height, width)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        bias = self.ours.position_bias[self.get_buffer("rows"), self.get_buffer("columns")]
        weights = (torch.einsum("whnd,whmd->whnm", query, key) * self.ours.scale + bias).softmax(dim=-1)
        return torch.einsum("whnm,whmd->whnd", weights, value)


class ConvsAttention(EinsumAttention):
    """The layer as code for CNNs is written: one convolution for queries, one for keys and values, then windows."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, out_chs, H, W)."""
        images, _, height, width = x.shape
        inner = self.ours.out.in_channels
        query = self._cut(F.conv2d(x, self.ours.qkv.weight[:inner]))
        key, value = (self._cut(half) for half in F.conv2d(x, self.ours.qkv.weight[inner:]).chunk(2, dim=1))
        y = self._attend(query, key, value)
        side, heads = self.ours.window, self.ours.heads
        y = y.reshape(images, height // side, width // side, heads, side, side, -1)
        y = y.permute(0, 3, 6, 1, 4, 2, 5).reshape(images, inner, height, width)
        z: Tensor = self.ours.out(y)
        return z

    def _cut(self, x: Tensor) -> Tensor:
        side, heads = self.ours.window, self.ours.heads
        images, inner, height, width = x.shape
        x = x.reshape(images, heads, inner // heads, height // side, side, width // side, side)
        return x.permute(0, 3, 5, 1, 4, 6, 2).reshape(-1, heads, side**2, inner // heads)


class SdpaAttention(EinsumAttention):
    """The layer with torch's fused attention between the einsums."""

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        bias = self.ours.position_bias[self.get_buffer("rows"), self.get_buffer("columns")].to(query.dtype)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=self.ours.scale)


class SwinAttention(nn.Module):
    """timm's, between its own cutting and joining of windows, with the same weights."""

    def __init__(self, ours: LocalAttention2d) -> None:
        super().__init__()
        in_chs, inner, out_chs = ours.qkv.in_channels, ours.out.in_channels, ours.out.out_channels
        self.window = (ours.window, ours.window)
        self.attention: Any = WindowAttention(in_chs, ours.heads, inner // ours.heads, ours.window, qkv_bias=False)
        # Swin gives back as many channels as it takes.
        self.attention.proj = nn.Linear(inner, out_chs)
        weights = {"qkv.weight": ours.qkv.weight.flatten(1), "proj.weight": ours.out.weight.flatten(1)}
        # Its table is read by the query's place minus the key's, and there is one for each head.
        table = ours.position_bias.flip(0, 1).reshape(-1, 1).expand(-1, ours.heads)
        weights |= {"proj.bias": ours.out.get_parameter("bias"), "relative_position_bias_table": table}
        self.attention.load_state_dict(weights, strict=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, out_chs, H, W)."""
        _, channels, height, width = x.shape
        windows = window_partition(x.permute(0, 2, 3, 1), self.window).view(-1, self.window[0] ** 2, channels)
        y: Tensor = window_reverse(self.attention(windows), self.window, height, width)
        return y.permute(0, 3, 1, 2)


VERSIONS: dict[Variant, Callable[[LocalAttention2d], nn.Module]] = {
    "ours": lambda ours: ours,
    "einsum": EinsumAttention,
    "convs": ConvsAttention,
    "sdpa": SdpaAttention,
    "swin": SwinAttention,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the flags, time, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", metavar="N", help="images of a step (default: 16 on a CPU, 512 on a GPU)")
    parser.add_argument("--compile", action="store_true", help="compile every version before it is timed")
    parser.add_argument("--device", metavar="NAME", help="auto (default), cpu, cuda or mps")
    return answer(parser, attention, arguments)


def attention(flags: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Time all versions in turns; the rows as text and as values."""
    problems = Problems()
    device = "cpu"
    with problems.caught():
        device = check_device(flags["device"] or "auto")
    usual = GPU_BATCH if device.startswith("cuda") else CPU_BATCH
    batch = problems.whole("--batch", flags["batch"], usual, most=65_536)
    problems.raise_any()
    before = torch.get_num_threads()
    torch.set_num_threads(cores())
    try:
        rows = [row for setting in SETTINGS for row in compare(setting, batch, torch.device(device), flags["compile"])]
    finally:
        torch.set_num_threads(before)
    head = (
        f"forward and backward on {device}, batch {batch}, channels last, {'compiled' if flags['compile'] else 'eager'}"
    )
    return _text(head, rows), {
        "device": device,
        "batch": batch,
        "compiled": flags["compile"],
        "threads": cores(),
        "torch": torch.__version__,
        "rows": [asdict(row) for row in rows],
    }


def compare(
    setting: Setting, batch: int, device: torch.device, compiled: bool = False, rounds: int = ROUNDS
) -> Iterator[Row]:
    """Time the versions of one layer in turns, so that a busy machine is busy for all of them."""
    torch.manual_seed(0)
    ours = LocalAttention2d(setting.in_chs, setting.out_chs, setting.heads, HEAD_SIZE, setting.window)
    image = torch.randn(batch, setting.in_chs, setting.size, setting.size, device=device)
    layers = {name: make(ours).to(device).to(memory_format=torch.channels_last) for name, make in VERSIONS.items()}
    if compiled:
        for layer in layers.values():
            layer.compile()
    for precision in PRECISIONS:
        # In a network, what stands before the layer has given its result in this precision.
        x = image.to(PRECISIONS[precision], memory_format=torch.channels_last).requires_grad_()
        times: dict[Variant, list[float]] = {name: [] for name in layers}
        peaks = {name: _step(layer, x)[1] for name, layer in layers.items()}
        for number in range(rounds + 2):
            for name, layer in layers.items():
                seconds, _ = _step(layer, x)
                times[name] += [seconds] if number >= 2 else []
        for name in layers:
            yield Row(
                setting=setting,
                variant=name,
                precision=precision,
                milliseconds=1000 * median(times[name]),
                ratio=median(times[name]) / median(times["ours"]),
                peak_mib=peaks[name],
            )


def _step(layer: nn.Module, x: Tensor) -> tuple[float, float | None]:
    """Seconds of one pass forth and back, and the memory that it took at most."""
    on_gpu = x.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(x.device)
    began = _now(x.device)
    with torch.autocast(x.device.type, x.dtype, enabled=x.dtype == torch.bfloat16):
        y = layer(x)
    y.backward(torch.ones_like(y))
    seconds = _now(x.device) - began
    layer.zero_grad()
    x.grad = None
    return seconds, torch.cuda.max_memory_allocated(x.device) / 2**20 if on_gpu else None


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _text(head: str, rows: list[Row]) -> str:
    lines = [head, "", f"{'layer':36} {'precision':9} {'version':7} {'ms':>8} {'to ours':>7} {'peak MiB':>8}"]
    for row in rows:
        s = row.setting
        layer = f"{s.in_chs}->{s.out_chs} at {s.size}x{s.size}, {s.heads} heads, window {s.window}"
        peak = "" if row.peak_mib is None else f"{row.peak_mib:8.0f}"
        lines.append(f"{layer:36} {row.precision:9} {row.variant:7} {row.milliseconds:8.1f} {row.ratio:7.2f} {peak:>8}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
