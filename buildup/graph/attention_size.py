"""The size of attention that replaces a block: about as many parameters as the block had."""

from dataclasses import dataclass
from math import ceil, sqrt

FIRST_HEADS = 3
"""Heads in the fourth stage from the end; they double from stage to stage: 3, 6, 12, 24."""
LARGEST_WINDOW = 7
HEAD_SIZE = 64
"""Head size of the paper's block, and the maximum elsewhere."""
LEAST_HEAD_SIZE, MOST_HEAD_SIZE = 16, 80
"""The number of heads is lowered or raised until a head has this many channels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSize:
    """Number of heads, channels per head, and channels that attention reads; None for those of the paper's block."""

    heads: int
    head_size: int
    width: int | None


def attention_size(
    channels: int,
    params: int | None,
    expansion: int | None = None,
    *,
    usual_heads: int,
    heads: int | None = None,
    head_size: int | None = None,
) -> AttentionSize:
    """The size of attention in place of a block.

    The paper's block stands in a ResNet, where its width follows from the block that it replaces and heads are 64 wide.
    The paper's heads have three times that width together. In a narrower ResNet there are only as many as that, or one:
    six heads on 16 channels would be 24 times as wide, and cost more than all else of such a network.

    Elsewhere it is fitted: with C channels, width w and inner size i = heads * head size, its convolutions have
    C*w + 3*w*i + i*C weights (into the block, to query, key and value, and out of it). The paper has i = 3*w; setting
    the sum to the P parameters of the replaced block gives

        w = (sqrt(16*C^2 + 36*P) - 4*C) / 18.

    The usual number of heads is kept if each would have 16 to 80 channels, else lowered or raised. The head size is
    rounded to a multiple of 8, 64 at most. Then w is solved for again, which meets P within 15 % for P from C^2 to
    18*C^2 and C from 16 to 2048. The minimum is one head of 8 channels and a width of 2.

    >>> attention_size(96, 79296, usual_heads=3)  # stages.0.blocks.2 of ConvNeXt
    AttentionSize(heads=3, head_size=64, width=88)

    Args:
        channels: Channels of the maps that the replaced block reads.
        params: Its parameters, if they are known.
        expansion: In a ResNet, the channels divided by those that its 3x3 convolution reads; None elsewhere.
        usual_heads: Number of heads that the rule gives the stage.
        heads: Requested number of heads, kept whatever the block is.
        head_size: Requested head size, kept likewise.
    """
    if expansion is not None or params is None:
        head_size = head_size or HEAD_SIZE
        if expansion is not None:
            usual_heads = min(usual_heads, max(1, 3 * (channels // expansion) // head_size))
        return AttentionSize(heads=heads or usual_heads, head_size=head_size, width=None)
    inner = (sqrt(16 * channels**2 + 36 * params) - 4 * channels) / 6
    if heads is None and head_size is None:
        heads = max(ceil(inner / MOST_HEAD_SIZE), min(usual_heads, int(inner / LEAST_HEAD_SIZE)), 1)
    heads = heads or max(1, round(inner / (head_size or HEAD_SIZE)))
    head_size = head_size or min(HEAD_SIZE, max(8, 8 * round(inner / heads / 8)))
    inner = heads * head_size
    width = (params - inner * channels) / (channels + 3 * inner)
    unit = 8 if width >= 24 else 2  # multiples of 8 are too coarse for small widths
    # The upper bound matters only where few heads were requested.
    width = min(max(unit, unit * round(width / unit)), 2 * channels)
    return AttentionSize(heads=heads, head_size=head_size, width=width)


def window_for(size: tuple[int, int]) -> int:
    """The usual window of a map: 7 or its largest divisor below; 7 with padding where there is none.

    >>> [window_for((side, side)) for side in (56, 32, 8, 4, 10, 13, 11)]
    [7, 4, 4, 4, 5, 7, 7]
    """
    if min(size) <= LARGEST_WINDOW:
        return min(size)
    dividing = [window for window in range(LARGEST_WINDOW, 1, -1) if all(side % window == 0 for side in size)]
    return dividing[0] if dividing else LARGEST_WINDOW


def heads_at(first: int, number: int, stages: int) -> int:
    """Number of heads of a stage: `first` in the fourth stage from the end, doubled from stage to stage.

    >>> [heads_at(3, number, 4) for number in range(4)], [heads_at(3, number, 5) for number in range(5)]
    ([3, 6, 12, 24], [1, 3, 6, 12, 24])
    """
    doublings = number - (stages - 4)
    return max(1, first << doublings if doublings >= 0 else first >> -doublings)
