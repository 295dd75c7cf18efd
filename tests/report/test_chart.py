from dataclasses import replace
from itertools import pairwise
from math import inf, nan
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildup.report.chart import Curve, Dot, Series, curves_svg, gains_svg, plot_svg, rounded
from buildup.report.findings import Findings, Role

SVG = "{http://www.w3.org/2000/svg}"


def _count(svg: str, tag: str, kind: str) -> int:
    return sum(element.get("class") == kind for element in ElementTree.fromstring(svg).iter(f"{SVG}{tag}"))


def _curve(*accuracy: float, role: Role = "other") -> Curve:
    return Curve(name="0f3a-s0: <b>", role=role, values=accuracy)


def test_kept_and_dropped_steps_differ_in_shape(published: Findings) -> None:
    svg = gains_svg(published.decisions)
    assert _count(svg, "circle", "kept") == 4
    # An interval and an open diamond for each of the dropped, an interval for each of the kept.
    assert _count(svg, "path", "dropped") == 8
    assert _count(svg, "path", "kept") == 4


def test_a_step_without_an_interval_is_a_point(one_seed: Findings) -> None:
    svg = gains_svg(one_seed.decisions)
    assert _count(svg, "circle", "kept") == 4
    assert _count(svg, "path", "kept") == 0
    assert _count(svg, "path", "dropped") == 4
    assert "none" not in svg


def test_a_failed_training_is_not_drawn_as_a_gain_of_zero(published: Findings) -> None:
    failed = replace(published.decisions[3], scores=(), gain=0.0, ci=(0.0, 0.0), level=0.0)
    svg = gains_svg([failed])
    assert "no score" in svg
    assert "+0.00" not in svg


@pytest.mark.parametrize("gain", [nan, inf])
def test_a_gain_that_is_no_number_is_not_drawn(published: Findings, gain: float) -> None:
    assert "no score" in gains_svg([replace(published.decisions[0], gain=gain)])


def test_all_marks_lie_inside_the_chart(published: Findings) -> None:
    far = replace(published.decisions[0], gain=40.0, ci=(-80.0, 160.0))
    circles = ElementTree.fromstring(gains_svg([far, *published.decisions])).iter(f"{SVG}circle")
    assert all(300 <= float(circle.get("cx", "")) <= 720 for circle in circles)


@given(st.floats(-1e3, 1e3), st.floats(0, 1e3), st.integers(2, 9))
def test_ticks_reach_around_all_values_and_are_few(low: float, span: float, most: int) -> None:
    ticks = rounded(low, low + span, most)
    assert ticks[0] <= low + 1e-6 * (1 + abs(low))
    assert ticks[-1] >= low + span - 1e-6 * (1 + abs(low) + span)
    assert 2 <= len(ticks) <= most + 2


@given(st.lists(st.lists(st.floats(0, 100) | st.just(nan), max_size=30), min_size=1, max_size=8))
def test_any_curves_give_a_well_formed_chart(values: list[list[float]]) -> None:
    svg = curves_svg([_curve(*accuracies) for accuracies in values], "Score")
    ElementTree.fromstring(svg)
    assert "nan" not in svg


def test_long_trainings_show_their_end_enlarged() -> None:
    assert "enlarged" in curves_svg([_curve(*range(30))], "Score")
    assert "enlarged" not in curves_svg([_curve(1.0, 2.0)], "Score")


def test_labels_at_the_end_never_cover_each_other() -> None:
    svg = curves_svg([_curve(1.0, 50.0, role="base"), _curve(1.0, 50.0, role="winner"), _curve(2.0, 50.0)], "Score")
    labels = [text for text in ElementTree.fromstring(svg).iter(f"{SVG}text") if text.get("class") != "axis"]
    heights = sorted(float(label.get("y", "")) for label in labels)
    assert len(heights) == 3
    assert all(below - above >= 17 for above, below in pairwise(heights))


def test_base_and_winner_are_drawn_over_the_others() -> None:
    svg = curves_svg([_curve(1.0, 2.0, role="winner"), _curve(1.0, 2.0), _curve(1.0, 2.0, role="base")], "Score")
    paths = [path.get("class") for path in ElementTree.fromstring(svg).iter(f"{SVG}path")]
    assert paths == ["curve other", "curve base", "curve winner"]


def test_a_training_of_one_epoch_is_seen() -> None:
    assert "h0.01" in curves_svg([_curve(50.0)], "Score")


@pytest.mark.parametrize("place", [0.0, 1.0, 7.0])
def test_counts_that_are_all_equal_are_drawn(place: float) -> None:
    series = [Series(name="one", dots=tuple(Dot(x=place, y=y, title="") for y in (80.0, 81.0)))]
    drawn = plot_svg(series, label="scores", across="blocks", up="%")
    assert f">{place:g}</text>" in drawn
