"""What a person reads while a search runs."""

import io

from buildup.cli.progress import PlainObserver

from buildup.engine.loop import run
from buildup.engine.progress import left, say
from buildup.engine.replay import View, make_replay
from buildup.execution.simulated import InMemoryWriter, ScoreRow, SimulatedEvaluator
from buildup.graph.network import sketch
from buildup.space.schema import SearchSpace
from buildup.trials.event import Event, Started
from buildup.trials.history import History
from buildup.trials.outcome import Record, Score

STEPS = make_replay(sketch("CC|CC"), SearchSpace(name="test", description=""), judge="point", seeds=2)


def followed() -> list[str]:
    stream = io.StringIO()
    table = {"CC|CC": ScoreRow(score=80), "CC|CM": ScoreRow(score=81), "CM|CM": ScoreRow(score=79)}
    watcher = PlainObserver(replay=STEPS, epochs=1, workers=1, stream=stream)
    run(STEPS, SimulatedEvaluator(table=table), InMemoryWriter(), watcher, History(), lambda _: None, lambda _: None)
    return stream.getvalue().splitlines()


def test_each_training_and_each_decision_is_one_line() -> None:
    lines = followed()
    assert sum(line.startswith("training") for line in lines) == 6
    assert [line[:10] for line in lines if line.startswith("decision")] == ["decision 1", "decision 2"]
    assert "the base  seed 0  80.00 %" in lines[0]


def test_what_is_left_is_said_after_a_decision() -> None:
    assert any("2 trainings left, 2 expected: about 2.0 s" in line for line in followed())


def test_a_range_of_equal_ends_is_one_number() -> None:
    view = STEPS.view(History())
    assert left(STEPS, view, History(), workers=2, epochs=1) == "4 trainings left"
    history = History(outcomes={training.id: Score(accuracy=80.0, seconds=10.0) for training in view.needed})
    text = left(STEPS, STEPS.view(history), history, workers=2, epochs=1)
    assert text == "4 trainings left, 4 expected: about 20 s"


def test_waiting_for_a_worker_is_said_and_not_again_at_once() -> None:
    stream = io.StringIO()
    watcher = PlainObserver(replay=STEPS, epochs=1, workers=2, stream=stream, silent_since=-1e9)
    view = STEPS.view(History())
    watcher.see(view, History(), None)
    watcher.see(view, History(), None)
    assert stream.getvalue().count("no worker has started for 60 s") == 1


def test_nothing_is_said_while_a_worker_trains() -> None:
    stream = io.StringIO()
    watcher = PlainObserver(replay=STEPS, epochs=1, workers=2, stream=stream)
    view = STEPS.view(History())
    event = Event(training=view.needed[0], update=Started(attempt=1, host="here", pid=1))
    watcher.see(view, History(), event)
    watcher.silent_since = -1e9
    watcher.see(view, History(), None)
    assert stream.getvalue() == ""


def test_a_search_goes_on_when_nobody_reads_any_more() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    say("anything", Gone())


def test_the_views_of_a_finished_search_wait_for_nothing() -> None:
    seen: list[View] = []

    class Collector:
        def see(self, view: View, history: History, event: Event | None) -> None:
            seen.append(view)
            assert event is None or isinstance(event.update, Record)

    table = SimulatedEvaluator(table={}, default=ScoreRow(score=80))
    run(STEPS, table, InMemoryWriter(), Collector(), History(), lambda _: None, lambda _: None)
    assert seen[-1].finished
    assert seen[-1].needed == ()
