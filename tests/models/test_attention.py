import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from buildup.models.attention import LocalAttention2d

HEADS, SIZE = 2, 3


def layer(window: int, seed: int = 0) -> LocalAttention2d:
    torch.manual_seed(seed)
    made = LocalAttention2d(5, 7, HEADS, SIZE, window, dtype=torch.float64)
    nn.init.normal_(made.position_bias)
    return made


def values_only(made: LocalAttention2d) -> LocalAttention2d:
    """The layer with queries and keys that are zero, so that its table alone decides."""
    inner = HEADS * SIZE
    with torch.no_grad():
        made.query.weight.zero_()
        made.key_value.weight[:inner].zero_()
    return made


def projected(made: LocalAttention2d, x: Tensor) -> Tensor:
    """What the layer's values are."""
    both: Tensor = made.key_value(x)
    return both[:, HEADS * SIZE :]


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 100))
@settings(deadline=None, max_examples=10)
def test_every_window_attends_as_a_picture_of_its_own(window: int, rows: int, columns: int, seed: int) -> None:
    made = layer(window, seed)
    x = torch.randn(2, 5, rows * window, columns * window, dtype=torch.float64)
    windows = x.unfold(2, window, window).unfold(3, window, window)
    expected = torch.empty(2, 7, *x.shape[-2:], dtype=torch.float64)
    for row in range(rows):
        for column in range(columns):
            place = (..., slice(row * window, (row + 1) * window), slice(column * window, (column + 1) * window))
            expected[place] = global_attention(made, windows[:, :, row, column])
    torch.testing.assert_close(made(x), expected, rtol=0, atol=1e-12)


def global_attention(made: LocalAttention2d, x: Tensor) -> Tensor:
    """Attention over a whole picture by torch's own function, its bias found entry by entry."""
    batch, _, height, width = x.shape
    tokens = [(row, column) for row in range(height) for column in range(width)]
    bias = torch.stack(
        [torch.stack([made.position_bias[c - a + height - 1, d - b + width - 1] for c, d in tokens]) for a, b in tokens]
    )
    query, key, value = (
        part.reshape(batch, HEADS, SIZE, -1).transpose(2, 3)
        for part in (made.query(x), *made.key_value(x).chunk(2, dim=1))
    )
    y = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    result: Tensor = made.out(y.transpose(2, 3).reshape(batch, -1, height, width))
    return result


def test_one_window_over_the_whole_map_is_global_attention() -> None:
    made = layer(6)
    x = torch.randn(2, 5, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(made(x), global_attention(made, x), rtol=0, atol=1e-12)


def test_without_queries_keys_and_table_it_is_the_mean_of_the_window() -> None:
    made = values_only(layer(3))
    nn.init.zeros_(made.position_bias)
    x = torch.randn(2, 5, 6, 9, dtype=torch.float64)
    means = nn.functional.avg_pool2d(projected(made, x), 3)
    expected = made.out(means.repeat_interleave(3, dim=2).repeat_interleave(3, dim=3))
    torch.testing.assert_close(made(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("down", "right"), [(0, 0), (1, 0), (0, 2), (2, 1), (-1, 0), (-2, -1)])
def test_a_large_entry_of_the_table_picks_the_key_at_that_place_from_the_query(down: int, right: int) -> None:
    made = values_only(layer(3))
    nn.init.zeros_(made.position_bias)
    with torch.no_grad():
        made.position_bias[down + 2, right + 2] = 1000.0
    x = torch.randn(1, 5, 3, 3, dtype=torch.float64)
    y, values = made(x), made.out(projected(made, x))
    for row in range(max(0, -down), min(3, 3 - down)):
        for column in range(max(0, -right), min(3, 3 - right)):
            picked = values[:, :, row + down, column + right]
            torch.testing.assert_close(y[:, :, row, column], picked, rtol=0, atol=1e-12)


def test_exchanging_windows_exchanges_their_results() -> None:
    made = layer(2)
    x = torch.randn(1, 5, 4, 6, dtype=torch.float64)
    torch.testing.assert_close(made(exchanged(x)), exchanged(made(x)), rtol=0, atol=1e-12)


def exchanged(x: Tensor) -> Tensor:
    """The map with its windows of 2 in another order."""
    batch, channels, _, _ = x.shape
    windows = x.reshape(batch, channels, 2, 2, 3, 2).transpose(3, 4).reshape(batch, channels, 6, 2, 2)
    windows = windows[:, :, [4, 0, 5, 2, 1, 3]]
    return windows.reshape(batch, channels, 2, 3, 2, 2).transpose(3, 4).reshape(batch, channels, 4, 6)


@pytest.mark.parametrize("shape", [(2, 4), (3, 2)])
def test_its_gradients_are_right_in_float64(shape: tuple[int, int]) -> None:
    made = LocalAttention2d(1, 1, 1, 2, 2, dtype=torch.float64)
    x = torch.randn(1, 1, *shape, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in made.named_parameters()]

    def run(x: Tensor, *parameters: Tensor) -> Tensor:
        y: Tensor = torch.func.functional_call(made, dict(zip(names, parameters, strict=True)), (x,))
        return y

    assert torch.autograd.gradcheck(run, (x, *made.parameters()))


@given(st.integers(1, 7), st.integers(1, 7), st.integers(2, 5))
@settings(deadline=None, max_examples=10)
def test_padding_gets_no_weight_at_any_size(height: int, width: int, window: int) -> None:
    made = values_only(layer(window))
    nn.init.zeros_(made.position_bias)
    x = torch.ones(1, 5, height, width, dtype=torch.float64)
    # The mean over real pixels only: had padding any weight, it would be less at the border.
    torch.testing.assert_close(made(x), made.out(projected(made, x)), rtol=0, atol=1e-12)


def test_the_table_starts_with_a_deviation_of_a_fiftieth() -> None:
    torch.manual_seed(0)
    table = LocalAttention2d(4, 4, 1, 4, 40).position_bias
    assert table.shape == (79, 79)
    assert float(table.detach().std()) == pytest.approx(0.02, rel=0.05)


def test_a_layer_made_without_memory_works_once_it_has_weights() -> None:
    made = layer(2)
    empty = LocalAttention2d(5, 7, HEADS, SIZE, 2, device="meta", dtype=torch.float64)
    empty.load_state_dict(made.state_dict(), assign=True)
    x = torch.randn(1, 5, 4, 4, dtype=torch.float64)
    assert torch.equal(empty(x), made(x))
    assert torch.equal(copy.deepcopy(made)(x), made(x))


def test_channels_last_maps_give_the_same_result() -> None:
    made = layer(2)
    x = torch.randn(2, 5, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(made(x.to(memory_format=torch.channels_last)), made(x), rtol=0, atol=1e-12)
