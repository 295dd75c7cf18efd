"""Place and score of networks whose blocks were changed anywhere in a stage."""

from dataclasses import replace

import pytest

from buildup.report.compare import comparison_page, comparison_table, comparison_text
from buildup.report.comparison import MAY_DIFFER, MUST_MATCH, Compared, ScoredNetwork, compared, find_places, place_of
from buildup.report.findings import Findings
from buildup.statistics.kendall import kendall

FACTS = {name: f"a {name}" for name in (*MUST_MATCH, *MAY_DIFFER)}
ALONE = tuple(f"CCC|{'C' * place}M{'C' * (6 - place)}" for place in range(1, 7))
LAYOUTS = ("CCC|CCCCCCC", "MCC|CCCCCCC", *ALONE, "CCM|CCCCCCM")


@pytest.fixture(scope="session")
def run(published: Findings) -> Compared:
    """A run that was free to change blocks anywhere, in which the place of a block is its score."""
    points = tuple(
        ScoredNetwork(layout=one, role="dropped", params=1, macs=1, score=70 + (place_of(one) or 0)) for one in LAYOUTS
    )
    return replace(compared(published, {**FACTS, "places": "any"}), run="free", points=points)


def test_a_place_is_counted_from_the_beginning_of_its_stage() -> None:
    places = [place_of(layout) for layout in LAYOUTS]
    assert places == [None, 0, *(pytest.approx(step / 5) for step in range(6)), 1]
    assert place_of("CM|CM") is None  # each has one place


@pytest.mark.parametrize(("sign", "says"), [(1, "Later places"), (-1, "Earlier places")])
def test_the_answer_is_that_of_the_scores(run: Compared, sign: int, says: str) -> None:
    points = tuple(replace(one, score=70 + sign * (one.score - 70)) for one in run.points)
    found = find_places([replace(run, points=points)])
    assert found is not None
    assert found.words.startswith(says)
    places = [one.place for one in found.networks]
    assert found.agreement == kendall(places, [sign * place for place in places])


def test_the_answer_turns_where_less_is_better(run: Compared) -> None:
    found = find_places([replace(run, objective="nll")])
    assert found is not None
    assert found.words.startswith("Earlier places")


def test_few_networks_tell_nothing(run: Compared) -> None:
    few = find_places([replace(run, points=run.points[:4])])
    one = find_places([replace(run, points=run.points[:2])])
    assert few is not None
    assert one is not None
    assert few.words.startswith("These runs do not tell")
    assert "two networks" in one.words
    assert find_places([replace(run, facts={**FACTS, "places": "rule"})]) is None


def test_every_form_of_the_comparison_has_the_answer(run: Compared) -> None:
    for text in (comparison_page([run]), comparison_text([run]), comparison_table([run])):
        assert "Later places in a stage are better" in text
