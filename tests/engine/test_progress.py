"""What a person reads while a search runs."""

import io
import logging

import pytest
from rich.console import Console
from rich.live import Live

from buildup.engine.forecast import forecast, left
from buildup.engine.loop import run_loop
from buildup.engine.progress import SILENCE, LiveObserver, PlainObserver, shows_live
from buildup.engine.replay import View, make_replay
from buildup.execution.simulated import InMemoryWriter, ScoreRow, SimulatedEvaluator
from buildup.graph.network import sketch
from buildup.space.schema import SearchSpace
from buildup.trials.event import Event, Started
from buildup.trials.history import History
from buildup.trials.outcome import Epoch, Record, Score

STEPS = make_replay(sketch("CC|CC"), SearchSpace(name="test", description=""), judge="point", seeds=2)


@pytest.fixture(autouse=True)
def _told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="buildup")


@pytest.fixture
def followed(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What is said of a search of two verdicts, line by line."""
    table = {"CC|CC": ScoreRow(score=80), "CC|CM": ScoreRow(score=81), "CM|CM": ScoreRow(score=79)}
    watcher = PlainObserver(replay=STEPS, epochs=1, workers=1)
    run_loop(STEPS, SimulatedEvaluator(table=table), InMemoryWriter(), History(), [watcher])
    return caplog.messages


def test_each_training_and_each_decision_is_one_line(followed: list[str]) -> None:
    assert sum(line.startswith("training") for line in followed) == 6
    assert [line[:10] for line in followed if line.startswith("decision")] == ["decision 1", "decision 2"]
    assert "the base  seed 0  80.00 %" in followed[0]


def test_what_is_left_is_said_after_a_decision(followed: list[str]) -> None:
    assert any("2 trainings left, 2 expected: about 2.0 s" in line for line in followed)


def test_a_silent_search_says_after_a_while_how_far_its_trainings_are(caplog: pytest.LogCaptureFixture) -> None:
    now = iter([0.0, SILENCE - 1, SILENCE, SILENCE + 1, 3 * SILENCE])
    watcher = PlainObserver(replay=STEPS, epochs=5, workers=1, clock=lambda: next(now))
    view = STEPS.view(History())
    training, history = view.needed[0], History()
    watcher.see(view, history, Event(training=training, update=Started(attempt=1, host="node1", pid=4711)))
    for number in range(1, 5):
        epoch = Epoch(number=number, metrics={"accuracy": 70.0 + number, "seconds": 2.0})
        history = history.with_epoch(training.id, epoch)
        watcher.see(view, history, Event(training=training, update=epoch))
    assert caplog.messages == [
        "running    the base  seed 0  epoch 2 of 5, 72.00 %, 6.0 s left",
        "running    the base  seed 0  epoch 4 of 5, 74.00 %, 2.0 s left",
    ]


def test_a_range_of_equal_ends_is_one_number() -> None:
    view = STEPS.view(History())
    assert left(STEPS, view, None) == "4 trainings left"
    history = History(outcomes={training.id: Score(accuracy=80.0, seconds=10.0) for training in view.needed})
    view = STEPS.view(history)
    text = left(STEPS, view, forecast(STEPS, view, history, workers=2, epochs=1))
    assert text == "4 trainings left, 4 expected: about 20 s"


def test_the_views_of_a_finished_search_wait_for_nothing() -> None:
    seen: list[View] = []

    class Collector:
        def see(self, view: View, history: History, event: Event | None) -> None:
            seen.append(view)
            assert event is None or isinstance(event.update, Record)

    table = SimulatedEvaluator(table={}, default=ScoreRow(score=80))
    run_loop(STEPS, table, InMemoryWriter(), History(), [Collector()])
    assert seen[-1].finished
    assert seen[-1].needed == ()


def test_a_terminal_shows_the_network_as_it_grows_within_80_columns() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system="standard", _environ={})
    table = {"CC|CC": ScoreRow(score=80), "CC|CM": ScoreRow(score=81), "CM|CM": ScoreRow(score=79)}
    drawn: list[str] = []
    with Live(console=console, auto_refresh=False) as live:
        watcher = LiveObserver(lines=PlainObserver(replay=STEPS, epochs=3, workers=1), live=live)

        class Painter:
            def see(self, view: View, history: History, event: Event | None) -> None:
                if event is not None:  # as if it had begun and got to an epoch
                    began = Started(attempt=1, host="a-node-with-a-long-name", pid=4711)
                    watcher.see(view, history, Event(training=event.training, update=began))
                    picture = Console(file=io.StringIO(), width=80)
                    picture.print(live.renderable)
                    drawn.append(picture.file.getvalue())  # type: ignore[attr-defined]
                watcher.see(view, history, event)

        run_loop(STEPS, SimulatedEvaluator(table=table), InMemoryWriter(), History(), [Painter()])
    assert max(len(line) for picture in drawn for line in picture.splitlines()) <= 80
    assert "c2  C[M]" in "".join(drawn)
    assert "c1  C[M]\nc2  CM" in "".join(line.rstrip() + "\n" for line in "".join(drawn).splitlines())
    assert "decision 1" in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "value"), [("CI", "true"), ("TERM", "dumb")])
def test_nothing_moves_in_ci_and_in_a_pipe(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert shows_live(Terminal())
    assert not shows_live(io.StringIO())
    monkeypatch.setenv(name, value)
    assert not shows_live(Terminal())
