"""Signals that end a command, and what else goes to its output."""

import signal
from collections.abc import Callable
from typing import Any

import pytest

from buildup.cli.main import main
from buildup.cli.output import interruptible
from buildup.errors import DataError


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_becomes_an_interrupt_with_a_message_and_the_handlers_come_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt, match="go on so"), interruptible(lambda: "go on so"):
        signal.raise_signal(number)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(("before", "is_ignored"), [(signal.SIG_IGN, True), (signal.SIG_DFL, False)])
def test_a_command_that_was_started_by_nohup_outlives_its_terminal(
    before: "signal.Handlers | Callable[..., Any]", is_ignored: bool
) -> None:
    usual = signal.signal(signal.SIGHUP, before)
    try:
        with interruptible():
            assert (signal.getsignal(signal.SIGHUP) is signal.SIG_IGN) is is_ignored
    finally:
        signal.signal(signal.SIGHUP, usual)


@pytest.mark.parametrize(
    ("command", "where"),
    [
        (["doctor"], "buildup.engine.doctor.check_machine"),
        (["plan", "--base", "resnet6", "--dataset", "cued-digits"], "buildup.engine.plan.make_plan"),
    ],
)
def test_what_ray_prints_stays_out_of_an_answer_in_json(
    command: list[str], where: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ends(*arguments: object, **settings: object) -> None:
        print("what Ray prints")
        raise DataError("and that is all.")

    monkeypatch.setattr(where, ends)
    assert main([*command, "--json"]) == 2
    shown = capsys.readouterr()
    assert "what Ray prints" not in shown.out
    assert "what Ray prints" in shown.err
