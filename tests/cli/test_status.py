"""`status`: where a run stands, read from its study."""

import fcntl
import json
import os
import re
import shutil
import struct
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from buildup.cli import status
from buildup.cli.main import main
from buildup.engine.graph_cache import costs_of
from buildup.engine.load_state import FINAL_RESULT, state_of
from buildup.engine.status import progress, running_table, status_text, status_values
from buildup.report.words import short_edit
from buildup.store.run_record import open_record
from buildup.store.study_writer import StudyWriter
from buildup.trials.event import Event, Started
from buildup.trials.final_result import Claim, Final, final_to_values
from buildup.trials.objective import ACCURACY
from buildup.trials.outcome import Epoch
from buildup.trials.training import Training


def test_trainings_that_run_ahead_of_the_verdicts_are_shown_apart(tried: Path, tmp_path: Path) -> None:
    run = open_record(str(shutil.copytree(tried, tmp_path / "tried")))
    view, history = state_of(run)
    assert view.step is not None
    later = view.step.successor(True)
    assert later is not None
    seed = run.settings.seed
    writer = StudyWriter.open(
        folder=run.folder, storage_url=None, study_name=run.study_name, base=run.network, costs=costs_of
    )
    for candidate in (view.step.candidate, later.candidate):
        training = Training(candidate=candidate, seed=seed)
        for update in (Started(attempt=1, host="node1", pid=4711), Epoch(number=1, metrics={"accuracy": 71})):
            history = writer.record(history, Event(training=training, update=update))
    writer.close()
    after, history = state_of(run)
    values = status_values(run, after, history)
    text = status_text(run, after, values)
    waiting, ahead = values["waiting_for"], values["ahead"]
    assert [one["training"] for one in waiting] == [f"{view.step.candidate.id}-s{seed}"]
    assert [one["training"] for one in ahead] == [f"{later.candidate.id}-s{seed}"]
    assert (ahead[0]["epoch"], ahead[0]["epochs"], ahead[0]["seed"]) == (1, 1, seed)
    edit = short_edit(later.candidate.edit)
    assert re.search(rf"\nbegun ahead of the verdicts .*\n{re.escape(edit)} seed {seed} +1/1 +71\.00 %", text)
    narrow = status_text(run, after, values, width=80)
    assert max(len(line) for line in narrow.splitlines() if str(run.folder) not in line) <= 80
    # The network as it grows, with what is tried.
    assert re.search(r"^  blocks\.\d +[CM]*\[M\][CM]*$", narrow, re.MULTILINE)


def test_a_final_stands_before_the_decisions_of_the_search(tried: Path, tmp_path: Path) -> None:
    run = open_record(str(shutil.copytree(tried, tmp_path / "tried")))
    claim = Claim(against="base", gain=0.6, ci=(0.2, 1.0), level=0.95, claimed=True, sentence="Proven: a gain.")
    final = Final(
        contenders=(),
        claims=(claim,),
        seeds=(10_000,),
        recipe="quick",
        epochs=1,
        train_images=100,
        test_images=10,
        opened="then",
    )
    (run.folder / FINAL_RESULT).write_text(json.dumps(final_to_values(final)))
    view, history = state_of(run)
    text = status_text(run, view, status_values(run, view, history))
    assert -1 < text.index("Proven: a gain.") < text.index("test accuracy, %") < text.index("verdict")


def test_watching_says_what_is_new_until_the_run_is_over(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looks = iter(
        [
            ("a run\n\nepoch 1", {"status": "running", "left": "2 trainings left"}),
            ("a run\n\nepoch 1", {"status": "running", "left": "2 trainings left"}),
            ("a run\n\nepoch 2", {"status": "running", "left": "1 training left"}),
            ("the whole result", {"status": "finished", "left": None}),
        ]
    )
    monkeypatch.setattr(status, "_look", lambda run, *, verbose: next(looks))
    monkeypatch.setattr(status, "PAUSE", 0.0)
    assert main(["status", "demo", "--watch"]) == 0
    assert capsys.readouterr().out.splitlines() == ["a run", "epoch 1", "epoch 2", "the whole result"]
    assert main(["status", "demo", "--watch", "--json"]) == 2
    assert "Leave one of them out" in capsys.readouterr().err


def test_watching_in_a_terminal_draws_in_place_and_ends_with_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    running = "  c1  C[M]\n  c2  CM\n\nwaiting for  epoch\nc1.1  seed 0   1/4"
    looks = iter(
        [
            (running, {"status": "running", "left": "2 trainings left"}),
            (running.replace("1/4", "2/4"), {"status": "running", "left": "1 training left"}),
            ("the whole result", {"status": "finished", "left": None}),
        ]
    )
    monkeypatch.setattr(status, "_look", lambda run, *, verbose: next(looks))
    monkeypatch.setattr(status, "PAUSE", 0.0)
    with terminal(monkeypatch) as read:
        assert main(["status", "demo", "--watch"]) == 0
        said = read()
    assert "\x1b[1A" in said  # up again over the lines of the first look
    assert "C\x1b[1;34m[M]" in said
    assert said.rstrip().endswith("the whole result")


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], str]]:
    """Makes stdout a terminal of 80 columns. What is given reads what was written to it, up to now and once."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    for name in ("CI", "NO_COLOR", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")

    def read() -> str:
        # A terminal hands on what it gets when it likes, so one read may end before the last line.
        stream.write("\0")
        stream.flush()
        said = b""
        while not said.endswith(b"\0"):
            said += os.read(ours, 4096)
        return said[:-1].decode()

    with os.fdopen(theirs, "w", encoding="utf-8") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        yield read
    os.close(ours)


def test_a_training_is_shown_with_its_curve_and_without_it_where_there_is_no_room() -> None:
    curve = [Epoch(number=number, metrics={"accuracy": 40.0 + 10 * number, "seconds": 2.0}) for number in (1, 2, 3)]
    row = progress("layer4.1: conv -> msa(heads=24)", 0, curve, 9, ACCURACY)
    heading, shown = running_table([row], ACCURACY, "waiting for").splitlines()
    assert heading.split() == ["waiting", "for", "epoch", "accuracy", "curve", "left"]
    assert shown == "layer4.1 C->M seed 0    3/9   70.00 %  ▁▅█    12 s"
    assert "▁▅█" not in running_table([row], ACCURACY, "waiting for", width=45)
