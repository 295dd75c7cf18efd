"""The search on a table of scores: the published trace, and what a bad table is told."""

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from buildup.engine.loop import run_loop
from buildup.engine.replay import View, make_replay
from buildup.errors import TableError
from buildup.execution.simulated import InMemoryWriter, ScoreRow, SimulatedEvaluator, read_scores
from buildup.graph.network import sketch
from buildup.space.load import load
from buildup.space.schema import SearchSpace, Tuning
from buildup.strategies.moves import steered
from buildup.strategies.registered import STRATEGIES
from buildup.trials.event import Event
from buildup.trials.history import History
from buildup.trials.objective import OBJECTIVES
from buildup.trials.outcome import Failure, Reason, Record
from buildup.trials.training import Training

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
"""The published scores."""


def search(
    scores: dict[str, float], space: SearchSpace, *, workers: int = 1, seeds: int = 1, guess: bool = False
) -> tuple[View, History, SimulatedEvaluator]:
    replay = make_replay(sketch(CONTROL), space, judge="point", seeds=seeds)
    evaluator = SimulatedEvaluator(
        table={layout: ScoreRow(score=score) for layout, score in scores.items()},
        workers=workers,
        default=ScoreRow(score=80.0) if guess else None,
    )
    view, history = run_loop(replay, evaluator, InMemoryWriter(), History())
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
    view, history, _ = search(PUBLISHED, steered(load("paper"), look_ahead=True))
    assert view.best.layout == "CCC|CCCM|CCCCCM|CMCM"
    assert len(history.outcomes) == 9


def any_scores(seed: int, jitter: float = 1.0) -> Callable[[Training], ScoreRow]:
    """A table that knows every layout, and trainings of 1/jitter to jitter seconds."""

    def look(training: Training) -> ScoreRow:
        seconds = random.Random(f"0/{training.id}/seconds").uniform(1 / jitter, jitter)
        return ScoreRow(score=80 + random.Random(f"{seed}/{training.candidate.layout}").random(), seconds=seconds)

    return look


@dataclass(kw_only=True)
class Failing(SimulatedEvaluator):
    """Some trainings of candidates diverge, the same ones for any number of workers."""

    share: float

    def next_event(self, timeout: float | None = None) -> Event | None:
        event = super().next_event(timeout)
        if event is None or not isinstance(event.update, Record) or isinstance(event.update.outcome, Failure):
            return event
        training = event.training
        if training.candidate.parent is None or random.Random(f"fails/{training.id}").random() >= self.share:
            return event
        diverged = Failure(reason=Reason.DIVERGED, message=f"the loss of {training.id} became inf")
        return Event(training=training, update=Record(outcome=diverged, curve=()))


@pytest.mark.parametrize(
    ("judge", "look_ahead", "expected"),
    [
        ("likely", 0, "21ddd9d59745"),
        ("likely", 1, "6fdb19fb5c7c"),
        ("proven", 0, "713f5097b9d3"),
        ("proven", 1, "e9c9d2ccb35b"),
        ("point", 0, "5575fffff970"),
        ("point", 1, "986b281e92dd"),
    ],
)
def test_a_space_that_asks_for_nothing_new_decides_as_it_always_did(judge: str, look_ahead: int, expected: str) -> None:
    said = []
    for table in range(4):
        space = replace(load("paper"), look_ahead=look_ahead)
        replay = make_replay(sketch(CONTROL), space, judge=judge, seeds=3)
        evaluator = SimulatedEvaluator(table=any_scores(table), noise=0.3)
        view, _ = run_loop(replay, evaluator, InMemoryWriter(), History())
        said += [(done.layout, done.verdict, done.seeds) for done in view.decisions]
    assert hashlib.sha256(repr(said).encode()).hexdigest()[:12] == expected


@settings(max_examples=20)
# A training of the base fails: at the last look, the judge has fewer pairs than seeds.
@example(2, "proven", 1, 0.0, 2.0, 1, 1, (2, 4, 1, 3), 0.2)
@given(
    seeds=st.integers(2, 3),
    judge=st.sampled_from(["likely", "proven", "point"]),
    table=st.integers(0, 1000),
    noise=st.floats(0, 1),
    jitter=st.sampled_from([1.0, 2.0]),
    look_ahead=st.integers(0, 1),
    failures=st.integers(1, 2),
    order=st.sampled_from(["last-first", "first-last", (2, 4, 1, 3)]),
    failing=st.sampled_from([0.0, 0.05, 0.2]),
)
def test_decisions_are_the_same_for_any_number_of_workers(
    seeds: int,
    judge: str,
    table: int,
    noise: float,
    jitter: float,
    look_ahead: int,
    failures: int,
    order: Literal["last-first", "first-last"] | tuple[int, ...],
    failing: float,
) -> None:
    decided, asked_for = [], []
    for workers in (1, 2, 8, 100):
        space = replace(load("paper"), look_ahead=look_ahead, failures=failures, order=order)
        replay = make_replay(sketch(CONTROL), space, judge=judge, seeds=seeds)
        evaluator = Failing(table=any_scores(table, jitter), workers=workers, noise=noise, share=failing)
        view, history = run_loop(replay, evaluator, InMemoryWriter(), History())
        decided.append(view.decisions)
        asked_for.append(replay.required_ids(view))
        assert asked_for[-1] <= history.outcomes.keys()
        assert workers > 1 or asked_for[-1] == history.outcomes.keys()
    assert decided == [decided[0]] * 4
    assert asked_for == [asked_for[0]] * 4


@pytest.mark.parametrize("tune", [Tuning(window=(2, 4), kind=("M", "G")), Tuning(heads=(1, 2, 3, 4), tries=2)])
def test_decisions_on_settings_are_the_same_for_any_number_of_workers(tune: Tuning) -> None:
    decided, spans = [], []
    for workers in (1, 12):
        space = SearchSpace(name="test", description="", tune=tune)
        replay = make_replay(
            sketch("CC|CC"), space, strategy=STRATEGIES["alternet"], judge="likely", seeds=2, first_seed=3
        )
        evaluator = SimulatedEvaluator(table=any_scores(1), workers=workers, noise=0.1)
        view, _ = run_loop(replay, evaluator, InMemoryWriter(), History())
        decided.append(view.decisions)
        spans.append(evaluator.clock)
    assert any(" -> " in done.edit and "conv ->" not in done.edit for done in decided[0])
    assert decided[0] == decided[1]
    assert spans[0] > 2 * spans[1]


@pytest.mark.parametrize(("workers", "seeds", "goal"), [(8, 3, 4.0), (16, 3, 7.0), (64, 3, 11.0), (8, 1, 2.5)])
def test_workers_that_look_ahead_shorten_the_published_search(workers: int, seeds: int, goal: float) -> None:
    _, _, alone = search(PUBLISHED, load("paper"), seeds=seeds, guess=True)
    _, _, together = search(PUBLISHED, load("paper"), seeds=seeds, workers=workers, guess=True)
    assert alone.clock >= goal * together.clock


@pytest.mark.parametrize("failing", [0.0, 0.1])
@pytest.mark.parametrize("strategy", ["random", "tpe"])
def test_the_decisions_of_a_control_are_the_same_for_any_number_of_workers(strategy: str, failing: float) -> None:
    decided, spans = [], []
    for workers in (1, 24):
        replay = make_replay(
            sketch(CONTROL), load("paper"), strategy=STRATEGIES[strategy], judge="likely", seeds=3, first_seed=1
        )
        evaluator = Failing(table=any_scores(3, 2.0), workers=workers, noise=0.5, share=failing)
        view, _ = run_loop(replay, evaluator, InMemoryWriter(), History())
        decided.append(view.decisions)
        spans.append(evaluator.clock)
    assert decided[0] == decided[1]
    assert any(not decision.scores for decision in decided[0]) == bool(failing)
    assert spans[0] > (8 if strategy == "random" else 2) * spans[1]


def test_no_training_starts_twice() -> None:
    class Watched(SimulatedEvaluator):
        started: ClassVar[list[str]] = []

        def request(self, trainings: Sequence[Training]) -> None:
            before = set(self._running)
            super().request(trainings)
            self.started.extend(self._running.keys() - before)

    replay = make_replay(sketch(CONTROL), load("paper"), judge="point", seeds=3)
    evaluator = Watched(table=any_scores(1, 2.0), workers=8)
    _, history = run_loop(replay, evaluator, InMemoryWriter(), History())
    assert len([key for key in evaluator.started if key in history.outcomes]) == len(history.outcomes)


@settings(max_examples=15)
@given(cut=st.integers(0, 20), noise=st.floats(0.1, 1))
def test_a_history_cut_anywhere_leads_to_the_same_decisions(cut: int, noise: float) -> None:
    whole, history = follow(History(), noise)
    kept = dict(list(history.outcomes.items())[:cut])
    assert follow(History(outcomes=kept), noise)[0] == whole


def follow(history: History, noise: float) -> tuple[Sequence[object], History]:
    replay = make_replay(sketch(CONTROL), load("paper"), judge="likely", seeds=2)
    evaluator = SimulatedEvaluator(table={}, default=ScoreRow(score=80.0), noise=noise)
    view, history = run_loop(replay, evaluator, InMemoryWriter(), history)
    return view.decisions, history


def test_a_layout_that_the_table_lacks_is_named() -> None:
    scores = {CONTROL: 82.0, "CCC|CCCC|CCCCCC|CCCM": 83.0}
    with pytest.raises(TableError, match=r"CCC\|CCCC\|CCCCCC\|CMCM"):
        search(scores, load("paper"))


def test_a_layout_that_no_verdict_needs_may_be_lacking_however_many_workers_look_ahead() -> None:
    _, _, alone = search(PUBLISHED, load("paper"), seeds=3)
    view, _, together = search(PUBLISHED, load("paper"), seeds=3, workers=64)
    assert view.best.layout == "CCC|CCCM|CCCCCM|CMCM"
    assert alone.clock >= 11 * together.clock


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
        ",80\n"
        f"{CONTROL},eighty\n"
    )
    with pytest.raises(TableError) as error:
        read_scores(path, sketch(CONTROL))
    assert [problem.split(":")[0].rpartition(" ")[2] for problem in error.value.problems] == [*"3456789", "10", "11"]
    assert f"line 3: layout {CONTROL} stands in line 2 already." in error.value.problems[0]
    assert error.value.problems[-2].endswith("line 10: the layout is missing.")


def test_an_impossible_score_an_open_quote_and_an_endless_field_are_told_where_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    layouts = [f"{CONTROL[:-1]}M", f"{CONTROL[:-3]}MCM", CONTROL]
    scores = zip(layouts, ("170", "-71", "1e300"), strict=True)
    lines = ["layout,score", *map(",".join, scores), f'"{CONTROL},70', f"{'C' * 200_000},70", f"{CONTROL},70"]
    path.write_text("\n".join(lines))
    with pytest.raises(TableError) as error:
        read_scores(path, sketch(CONTROL))
    assert [problem.split(":")[0].rpartition(" ")[2] for problem in error.value.problems] == [*"23456"]
    assert error.value.problems[0].endswith("score is 170; the validation accuracy is a number from 0 to 100.")
    assert max(map(len, error.value.problems)) < 300
    path.write_text(f"layout,score\n{CONTROL},170\n")
    assert read_scores(path, sketch(CONTROL), objective=OBJECTIVES["nll"])[CONTROL].score == 170
    with pytest.raises(TableError, match="from 0 to 1"):
        read_scores(path, sketch(CONTROL), objective=OBJECTIVES["ece"])


@pytest.mark.parametrize("head", ["network,accuracy", "layout,score,score", '"layout,score'])
def test_a_table_without_its_columns_is_refused(tmp_path: Path, head: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(f"{head}\nCC,1,1\n")
    with pytest.raises(TableError, match=r"needed are layout,score|line 1: it can't be read"):
        read_scores(path, sketch(CONTROL))
