import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildup.errors import LayoutError
from buildup.graph.kinds import (
    BlockKind,
    Conv,
    ConvAttention,
    GlobalAttention,
    LocalAttention,
    Smoothing,
    describe,
    from_values,
    to_values,
)

COUNT = st.integers(min_value=1, max_value=64)
SIZE = {"heads": COUNT, "head_size": COUNT, "width": st.none() | COUNT}
KIND = st.one_of(
    st.builds(Conv),
    st.builds(LocalAttention, **SIZE, window=COUNT, tables=st.sampled_from(["shared", "heads"])),
    st.builds(GlobalAttention, **SIZE),
    st.builds(
        ConvAttention,
        **SIZE,
        kernel=COUNT.map(lambda half: 2 * half - 1),
        borders=st.sampled_from(["masked", "attended"]),
    ),
    st.builds(Smoothing, kernel=COUNT, temperature=COUNT, borders=st.sampled_from(["replicate", "grow"])),
)


@given(KIND)
def test_plain_values_keep_a_kind(kind: BlockKind) -> None:
    assert from_values(to_values(kind)) == kind


def test_a_kernel_of_attention_is_odd() -> None:
    with pytest.raises(LayoutError, match="kernel is 4; an odd number is needed"):
        ConvAttention(heads=3, kernel=4)


def test_a_phrase_leaves_out_the_usual_settings() -> None:
    assert describe(Conv()) == "conv"
    assert describe(LocalAttention(heads=3, window=7, head_size=32)) == "msa(heads=3, window=7, head_size=32)"


def test_a_setting_that_is_no_count_is_refused_with_all_others() -> None:
    with pytest.raises(LayoutError, match=r"heads is 0.*\n.*window is True"):
        LocalAttention(heads=0, window=True)


@pytest.mark.parametrize("values", [{"kind": "Z"}, {}, {"kind": "M", "heads": 3, "window": 4, "colour": 1}])
def test_values_of_no_kind_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(LayoutError, match="known are"):
        from_values(values)
