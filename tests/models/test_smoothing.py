import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models import create_feature_extractor
from torch import Tensor, nn
from torch.nn import functional as F

from buildup.models.layers import Smoothing2d

HOT = 1e9
"""A temperature at which the bounded activation is a ReLU."""


def smooth(kernel: int = 2, temperature: float = 10, borders: str = "replicate") -> Smoothing2d:
    return Smoothing2d(kernel, temperature, borders)


@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=10)
def test_a_constant_map_stays_as_it_is(kernel: int, height: int, width: int) -> None:
    x = torch.full((2, 3, height, width), 3.0, dtype=torch.float64)
    torch.testing.assert_close(smooth(kernel, HOT)(x), x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize(("down", "right"), [(0.0, 0.0), (0.3, 1.1), (math.pi / 2, 2.0), (math.pi, 0.7)])
def test_a_wave_is_damped_by_the_cosines_of_its_half_frequencies(kernel: int, down: float, right: float) -> None:
    rows, columns = torch.arange(16.0, dtype=torch.float64)[:, None], torch.arange(16.0, dtype=torch.float64)
    # Around the middle of an even kernel, which lies between the places, the wave keeps its phase.
    shift = 0.0 if kernel % 2 else 0.5
    x = 2 + torch.cos(down * rows + right * columns)
    factor = (math.cos(down / 2) * math.cos(right / 2)) ** (kernel - 1)
    expected = 2 + factor * torch.cos(down * (rows + shift) + right * (columns + shift))
    inside = slice(4, 12)
    y = smooth(kernel, HOT)(x[None, None])[0, 0]
    torch.testing.assert_close(y[inside, inside], expected[inside, inside], rtol=0, atol=1e-9)


@pytest.mark.parametrize(("kernel", "row"), [(1, [1]), (2, [1, 1]), (3, [1, 2, 1]), (5, [1, 4, 6, 4, 1])])
def test_the_kernels_are_those_of_the_paper(kernel: int, row: list[int]) -> None:
    point = torch.zeros(1, 1, 11, 11, dtype=torch.float64)
    point[..., 5, 5] = 1
    weights = torch.tensor(row, dtype=torch.float64) / sum(row)
    before = kernel // 2
    place = slice(5 - before, 5 - before + kernel)
    y = smooth(kernel, HOT)(point)[0, 0]
    torch.testing.assert_close(y[place, place], weights.outer(weights), rtol=0, atol=1e-12)
    assert float(y.sum()) == pytest.approx(1)


@pytest.mark.parametrize("size", [32, 17, 10, 5])
def test_the_reference_way_grows_the_map_and_darkens_its_borders(size: int) -> None:
    x = torch.ones(1, 2, size, size, dtype=torch.float64)
    y = smooth(2, HOT, "grow")(x)
    assert y.shape[-2:] == (size + 1, size + 1)
    torch.testing.assert_close(y, F.avg_pool2d(x, 2, stride=1, padding=1), rtol=0, atol=1e-12)
    assert float(y[0, 0, 0, size // 2]) == pytest.approx(1 / 2)
    assert float(y[0, 0, 0, 0]) == pytest.approx(1 / 4)


@pytest.mark.parametrize("shape", [(32, 32), (5, 8), (1, 1), (1, 4)])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
def test_the_map_keeps_its_size_and_memory_format(kernel: int, shape: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *shape)
    assert smooth(kernel)(x).shape == x.shape
    assert smooth(kernel)(x).is_contiguous()
    last = smooth(kernel)(x.to(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, smooth(kernel)(x))


def test_at_a_high_temperature_it_is_a_relu_and_a_blur() -> None:
    x = torch.randn(2, 3, 6, 7, dtype=torch.float64)
    expected = F.avg_pool2d(F.pad(x.relu(), (0, 1, 0, 1), mode="replicate"), 2, stride=1)
    torch.testing.assert_close(smooth(2, HOT)(x), expected, rtol=0, atol=1e-9)


@given(st.integers(1, 4), st.integers(1, 20), st.floats(0, 1e4))
@settings(max_examples=20)
def test_it_lies_between_zero_and_its_temperature(kernel: int, temperature: int, scale: float) -> None:
    y = smooth(kernel, temperature)(scale * torch.randn(1, 1, 5, 5))
    assert y.min() >= 0
    assert y.max() <= temperature * (1 + 1e-6)


def test_it_has_nothing_to_learn_or_to_store() -> None:
    made = smooth()
    assert not list(made.parameters())
    assert not made.state_dict()
    assert made(torch.empty(1, 2, 3, 4, device="meta")).shape == (1, 2, 3, 4)


@pytest.mark.parametrize("borders", ["replicate", "grow"])
def test_its_first_and_second_derivatives_are_right(borders: str) -> None:
    # Away from zero, where the ReLU has none.
    x = (torch.rand(1, 1, 3, 4, dtype=torch.float64) + 0.5).requires_grad_()
    assert torch.autograd.gradcheck(smooth(3, 10, borders), (x,))
    assert torch.autograd.gradgradcheck(smooth(3, 10, borders), (x,))


@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated")
@pytest.mark.parametrize("borders", ["replicate", "grow"])
def test_script_trace_and_export_give_the_same_at_any_size(borders: str) -> None:
    made = smooth(3, 10, borders).eval()
    free = torch.export.Dim.DYNAMIC
    example = torch.randn(2, 3, 8, 9)
    exported = torch.export.export(made, (example,), dynamic_shapes={"x": {2: free, 3: free}}).module()
    traced = create_feature_extractor(nn.Sequential(made), ["0"])
    scripted = torch.jit.script(made)
    for size in (8, 5):
        x: Tensor = torch.randn(2, 3, size, 7)
        assert torch.equal(exported(x), made(x))
        assert torch.equal(scripted(x), made(x))
        assert torch.equal(traced(x)["0"], made(x))
