"""The search on a table of scores: the published trace, and what a bad table is told."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildup.errors import TableError
from buildup.graph.network import sketch
from buildup.rules.base import Procedure, View
from buildup.rules.moves import with_look_ahead
from buildup.rules.strategies import procedure_of
from buildup.search.loop import Silence, run
from buildup.search.table import Memory, Row, TableEvaluator, read_table
from buildup.space.load import load
from buildup.space.schema import SearchSpace
from buildup.trials.history import History

CONTROL = "CCC|CCCC|CCCCCC|CCCC"
PUBLISHED = {
    CONTROL: 82.48,
    "CCC|CCCC|CCCCCC|CCCM": 83.45,
    "CCC|CCCC|CCCCCC|CMCM": 83.66,
    "CCC|CCCC|CCCCCM|CMCM": 83.77,
    "CCC|CCCC|CCCMCM|CMCM": 83.52,
    "CCC|CCCC|CMCMCM|CMCM": 83.19,
    "CCC|CCCM|CCCCCM|CMCM": 84.02,
    "CCC|CMCM|CCCCCM|CMCM": 83.39,
    "CCM|CCCM|CCCCCM|CMCM": 83.80,
}
"""paper.md 3.1."""


def search(
    scores: dict[str, float] | None, space: SearchSpace, *, workers: int = 1, seeds: int = 1, noise: float = 0.0
) -> tuple[View, History, TableEvaluator]:
    procedure = procedure_of(sketch(CONTROL), space, judge="point", seeds=seeds)
    evaluator = TableEvaluator(
        table={layout: Row(score=score) for layout, score in (scores or {}).items()},
        workers=workers,
        noise=noise,
        default=None if scores else Row(score=80.0),
    )
    view, history = run(procedure, evaluator, Memory(), Silence(), History(), lambda _: None, lambda _: None)
    return view, history, evaluator


def test_the_strict_rule_takes_eight_trainings_to_the_network_of_the_paper() -> None:
    view, history, _ = search(PUBLISHED, load("paper"))
    assert view.best.layout == "CCC|CCCM|CCCCCM|CMCM"
    assert [decision.edit.split(":")[0] for decision in view.decisions if decision.kept] == [
        "c4.3",
        "c4.1",
        "c3.5",
        "c2.3",
    ]
    assert len(history.outcomes) == 8


def test_one_look_ahead_takes_nine_trainings_to_the_same_network() -> None:
    view, history, _ = search(PUBLISHED, with_look_ahead(load("paper")))
    assert view.best.layout == "CCC|CCCM|CCCCCM|CMCM"
    assert len(history.outcomes) == 9


@settings(deadline=None, max_examples=25)
@given(
    seeds=st.integers(1, 4), workers=st.sampled_from([2, 8, 100]), noise=st.floats(0, 1), look_ahead=st.integers(0, 1)
)
def test_decisions_are_the_same_for_any_number_of_workers(
    seeds: int, workers: int, noise: float, look_ahead: int
) -> None:
    space = replace(load("paper"), look_ahead=look_ahead)
    alone, _, _ = search(None, space, seeds=seeds, noise=noise)
    together, _, _ = search(None, space, seeds=seeds, noise=noise, workers=workers)
    assert alone.decisions == together.decisions


@settings(deadline=None, max_examples=15)
@given(cut=st.integers(0, 20), noise=st.floats(0.1, 1))
def test_a_history_cut_anywhere_leads_to_the_same_decisions(cut: int, noise: float) -> None:
    whole, history, _ = search(None, load("paper"), seeds=2, noise=noise)
    kept = dict(list(history.outcomes.items())[:cut])
    procedure = procedure_of(sketch(CONTROL), load("paper"), judge="point", seeds=2)
    part = _follow(procedure, History(outcomes=kept), noise)
    assert part == whole.decisions


def _follow(procedure: Procedure, history: History, noise: float) -> Sequence[object]:
    evaluator = TableEvaluator(table={}, default=Row(score=80.0), noise=noise)
    view, _ = run(procedure, evaluator, Memory(), Silence(), history, lambda _: None, lambda _: None)
    return view.decisions


def test_more_workers_than_seeds_shorten_a_search_with_several_seeds() -> None:
    _, _, one = search(PUBLISHED, load("paper"), seeds=3)
    _, _, three = search(PUBLISHED, load("paper"), seeds=3, workers=3)
    assert one.clock == 24
    assert three.clock == 8


def test_a_layout_that_the_table_lacks_is_named() -> None:
    scores = {CONTROL: 82.0, "CCC|CCCC|CCCCCC|CCCM": 83.0}
    with pytest.raises(TableError, match=r"CCC\|CCCC\|CCCCCC\|CMCM"):
        search(scores, load("paper"))


def test_every_bad_line_of_a_table_is_named_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(
        "layout,score\n"
        f"{CONTROL},82.48\n"
        f"{CONTROL},82.5\n"
        "CCC|CCCC|CCCCCC|CCCX,1\n"
        "CCC|CCCC,1\n"
        "MCC|CCCC|CCCCCC|CCCC,1\n"
        "CCM|CCCC|CCCCCC|CCCC,high\n"
        "CCC|CCCM|CCCCCC|CCCC,nan\n"
        "CCC|CCCC|CCCCCC|CCCM\n"
    )
    with pytest.raises(TableError) as error:
        read_table(path, sketch(CONTROL))
    assert [problem.split(":")[0].rpartition(" ")[2] for problem in error.value.problems] == list("3456789")


def test_a_table_without_its_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("network,accuracy\nCC,1\n")
    with pytest.raises(TableError, match=r"needed are layout,score"):
        read_table(path, sketch(CONTROL))
