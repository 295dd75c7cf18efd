"""How attention is fitted to the block that it replaces."""

from hypothesis import example, given
from hypothesis import strategies as st

from buildup.graph.attention_size import AttentionSize, attention_size

CHANNELS = st.integers(min_value=16, max_value=2048)
RATIO = st.floats(min_value=1, max_value=18)
HEADS = st.sampled_from([1, 3, 6, 12, 24, 48])


def weights(channels: int, size: AttentionSize) -> int:
    """Of the 1x1 convolutions: into the block, to query, key and value, and out of it."""
    assert size.width is not None
    inner = size.heads * size.head_size
    return channels * size.width + 3 * size.width * inner + inner * channels


@given(CHANNELS, RATIO, HEADS)
@example(channels=17, ratio=1.0, usual_heads=3)
@example(channels=2048, ratio=18.0, usual_heads=1)
def test_attention_has_about_the_parameters_of_the_block_it_replaces(
    channels: int, ratio: float, usual_heads: int
) -> None:
    params = round(ratio * channels**2)
    size = attention_size(channels, params, usual_heads=usual_heads)
    assert abs(weights(channels, size) / params - 1) < 0.15
    assert 8 <= size.head_size <= 64
    assert size.head_size % 8 == 0


@given(CHANNELS, RATIO, HEADS)
def test_heads_change_only_where_they_would_be_far_too_small_or_too_large(
    channels: int, ratio: float, usual_heads: int
) -> None:
    params = round(ratio * channels**2)
    size = attention_size(channels, params, usual_heads=usual_heads)
    inner = size.heads * size.head_size
    assert size.heads == usual_heads or not 20 * usual_heads < inner < 64 * usual_heads


def test_a_convnext_keeps_the_heads_of_the_paper() -> None:
    stages = [(96, 79_296), (192, 306_048), (384, 1_201_920), (768, 4_763_136)]  # timm's convnext_tiny
    usual = [3, 6, 12, 24]
    sizes = [attention_size(*stage, usual_heads=heads) for stage, heads in zip(stages, usual, strict=True)]
    assert [size.heads for size in sizes] == usual
    assert {size.head_size for size in sizes} == {64}


@given(CHANNELS, st.integers(min_value=1, max_value=10**9), st.integers(1, 64), st.integers(1, 256))
def test_what_was_asked_for_is_kept_whatever_the_block_is(channels: int, params: int, heads: int, size: int) -> None:
    for block in ((channels, params), (channels, None), (channels, params, 4)):
        both = attention_size(*block, usual_heads=3, heads=heads, head_size=size)
        assert (both.heads, both.head_size) == (heads, size)
        assert attention_size(*block, usual_heads=3, heads=heads).heads == heads
        assert attention_size(*block, usual_heads=3, head_size=size).head_size == size


@given(CHANNELS, st.integers(min_value=1, max_value=10**9), st.integers(1, 64))
def test_any_budget_gives_a_block_that_can_be_built(channels: int, params: int, heads: int) -> None:
    for one in (attention_size(channels, params, usual_heads=heads, heads=asked) for asked in (None, heads)):
        assert one.width is not None
        assert 2 <= one.width <= 2 * channels
        assert one.heads >= 1


def test_the_block_of_the_paper_is_taken_where_it_replaces_a_block_of_a_resnet() -> None:
    paper = AttentionSize(heads=12, head_size=64, width=None)
    assert attention_size(1024, 1_117_184, 4, usual_heads=12) == paper
    assert attention_size(1024, None, 4, usual_heads=12) == paper


@given(st.integers(4, 64), st.sampled_from([1, 4]), HEADS)
def test_heads_in_a_narrow_resnet_are_three_times_as_wide_as_what_they_read(
    width: int, expansion: int, usual_heads: int
) -> None:
    size = attention_size(width * expansion, 18 * width**2, expansion, usual_heads=usual_heads)
    assert size.heads * size.head_size <= max(3 * width, 64)
    assert size.heads == usual_heads or (size.heads + 1) * size.head_size > 3 * width


def test_a_sketch_without_parameters_gets_the_block_of_the_paper() -> None:
    assert attention_size(64, None, usual_heads=3) == AttentionSize(heads=3, head_size=64, width=None)
