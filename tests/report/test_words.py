from collections.abc import Callable
from dataclasses import replace
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from buildup.report.findings import Findings
from buildup.report.words import (
    axis_title,
    clean,
    duration,
    edited_paths,
    gain_text,
    interval_heading,
    interval_text,
    outcome_text,
    points,
    short_number,
)
from buildup.report.words import escape as escaped
from buildup.trials.objective import Objective
from buildup.trials.outcome import Failure, Reason

TOP5 = Objective(name="top5", title="top-5 accuracy", unit="points", sign=1, largest=1.0, seed_deviation=0.2)
ANY_TEXT = st.text(st.characters(codec=None))


@given(ANY_TEXT)
def test_cleaned_text_is_one_printable_line(text: str) -> None:
    assert clean(text).isprintable()
    assert clean(clean(text)) == clean(text)


@given(ANY_TEXT)
def test_escaped_text_is_read_back_from_an_element_and_from_an_attribute(text: str) -> None:
    element = ElementTree.fromstring(f'<a b="{escaped(text)}">{escaped(text)}</a>')
    assert (element.text or "") == element.get("b") == clean(text)


@given(st.floats(1, 9e14))
def test_a_large_number_keeps_three_digits(number: float) -> None:
    shown = short_number(number)
    value = float(shown.rstrip("kMGT")) * 1000 ** " kMGT".index(shown[-1] if shown[-1].isalpha() else " ")
    assert abs(value - number) <= max(0.5, 0.0051 * number)
    assert len(shown) <= 5


def test_no_difference_is_written_as_plus_zero() -> None:
    assert [points(value) for value in (-0.001, 0.0, 0.001)] == ["+0.00"] * 3


@given(st.floats(0, 59 * 3600))
def test_a_duration_never_shows_sixty_of_a_unit(seconds: float) -> None:
    assert not {"60", "60.0"} & set(duration(seconds).split())


def test_a_broken_training_shows_the_last_line_of_its_traceback() -> None:
    failure = Failure(reason=Reason.OUT_OF_MEMORY, message="Traceback\n  File x\nRuntimeError: no memory\n")
    assert outcome_text(failure) == "out of memory: RuntimeError: no memory"
    assert outcome_text(replace(failure, message="")) == "out of memory"


def test_a_decision_whose_training_failed_has_no_gain(published: Findings) -> None:
    failed = replace(published.decisions[0], scores=(), gain=0.0, ci=(0.0, 0.0), level=0.0)
    assert gain_text(failed) == "failed"
    assert interval_text(failed) == "none"


def test_a_decision_on_what_was_never_trained_says_so(published: Findings) -> None:
    untrained = replace(published.decisions[0], scores=(), seeds=0, gain=0.0, ci=(0.0, 0.0), level=0.0)
    assert gain_text(untrained) == "untrained"
    assert interval_text(untrained) == "none"


def test_a_column_of_equal_levels_names_the_level_once(published: Findings, one_seed: Findings) -> None:
    assert interval_heading(published.decisions) == ("60 % CI", False)
    assert interval_heading(one_seed.decisions) == ("CI", False)
    mixed = (published.decisions[0], replace(published.decisions[1], level=0.99))
    assert interval_heading(mixed) == ("CI", True)
    assert interval_text(mixed[1], with_level=True) == "+0.11 to +0.31 (99 %)"


def test_the_place_of_an_edit_without_a_path_is_the_edit_itself(with_text: Callable[[str], Findings]) -> None:
    assert edited_paths("something else") == "something else"
    assert edited_paths(with_text("<i>").decisions[0].edit) == "c4.3"


def test_less_is_better_on_an_axis_only_where_it_is() -> None:
    assert axis_title(TOP5) == "top-5 accuracy, %"
    assert axis_title(replace(TOP5, sign=-1)) == "top-5 accuracy, %; less is better"
