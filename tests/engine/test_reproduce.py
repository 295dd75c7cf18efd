"""Repetitions: what is equal, what differs by rounding, and what differs."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from buildup.cli.main import main
from buildup.engine import reproduce as module
from buildup.engine.load_state import state_of
from buildup.engine.reproduce import (
    Repeated,
    Reproduction,
    changes,
    find_training,
    match_of,
    moved_to,
    reproduce,
    tolerance_of,
)
from buildup.errors import RequestError
from buildup.settings import ReproduceSettings
from buildup.store.run_record import environment, open_record
from buildup.trials.history import History
from buildup.trials.outcome import Epoch, Failure, Outcome, Reason, Record, Score

SCORE = Score(accuracy=75.0, correct=bytes([0b11100000]), images=4, seconds=3.0)
FAILED = Failure(reason=Reason.DIVERGED, message="the loss became infinite")


def curve(loss: float, seconds: float = 1.0) -> tuple[Epoch, ...]:
    return (Epoch(number=1, metrics={"train_loss": loss, "accuracy": 75.0, "seconds": seconds, "throughput": 5.0}),)


@pytest.mark.parametrize(
    ("after", "loss", "match"),
    [
        (replace(SCORE, seconds=9.0), 2.0, "equal"),
        (replace(SCORE, accuracy=50.0, correct=bytes([0b11000000])), 2.0 * (1 + 1e-5), "rounding"),
        (SCORE, 2.0 * (1 + 1e-5), "rounding"),
        (SCORE, 2.1, "different"),
        (FAILED, 2.0, "different"),
    ],
)
def test_a_training_that_begins_alike_differs_by_rounding_and_one_that_does_not_differs(
    after: Outcome, loss: float, match: str
) -> None:
    assert match_of(SCORE, after, (curve(2.0), curve(loss, seconds=7.0))) == match


def test_what_rounding_makes_of_the_base_of_a_run_is_the_measure_for_its_other_trainings() -> None:
    alone = History(curves={"b-s0": curve(2.0)})
    assert tolerance_of(alone) == 1e-4
    checked = History(curves={"b-s0": curve(2.0), "b-rounding-s0": curve(2.0 * (1 + 1e-3)), "c-s0": curve(9.0)})
    assert tolerance_of(checked) == pytest.approx(1e-2)
    pair = (curve(2.0), curve(2.0 * (1 + 5e-3)))
    matches = [match_of(SCORE, SCORE, pair, tolerance_of(history)) for history in (alone, checked)]
    assert matches == ["different", "rounding"]


def test_failures_are_equal_if_their_reasons_are() -> None:
    assert match_of(FAILED, replace(FAILED, message="again"), ((), ())) == "equal"
    assert match_of(FAILED, replace(FAILED, reason=Reason.OUT_OF_MEMORY), ((), ())) == "different"


def test_other_verdicts_are_no_reproduction_and_trainings_ahead_do_not_matter() -> None:
    ahead = Repeated(training="a-s1", layout="CM", match="missing", before=70.0, after=None)
    found = Reproduction(folder=Path(), trainings=(ahead,), verdicts=(("edit", "keep", "keep"),), changed={})
    assert found.succeeded
    assert not replace(found, verdicts=(("edit", "keep", "drop"),)).succeeded
    assert not replace(found, trainings=(replace(ahead, match="different"),)).succeeded


def test_other_versions_and_machines_are_named() -> None:
    now = environment("cpu")
    then = replace(now, device="cuda", versions={**now.versions, "torch": "2.0"})
    assert changes(now, now) == {}
    assert changes(then, now) == {"device": ("cuda", "cpu"), "torch": ("2.0", str(now.versions["torch"]))}


def test_settings_on_another_kind_of_device_leave_out_what_it_lacks(tried: Path) -> None:
    settings = open_record(str(tried)).settings
    gpu = replace(settings, device="cuda", gpus_per_trial=0.5, workers=16, execution="bf16,channels-last,captured")
    cpu = moved_to(gpu, "cpu")
    assert (cpu.device, cpu.gpus_per_trial, cpu.workers) == ("cpu", 0.0, 1)
    assert cpu.execution == "bf16,channels-last,eager"
    assert moved_to(settings, "cuda").gpus_per_trial == 1.0
    assert moved_to(gpu, "cuda:1") == replace(gpu, device="cuda:1")


@pytest.mark.parametrize(("gain", "code", "said"), [(0.0, 0, "equal to the bit"), (5.0, 1, "different")])
def test_one_training_is_repeated_in_a_new_folder_and_compared(
    gain: float,
    code: int,
    said: str,
    tried: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    record = open_record(str(tried))
    view, history = state_of(record)
    training = f"{view.best.id}-s3"
    before = history.outcomes[training]
    assert isinstance(before, Score)

    def attempt(fit: object, job: Any, folder: Path) -> Iterator[Record]:
        assert (job.seed, job.network, job.recipe) == (3, view.best.network, record.recipe)
        assert folder == tmp_path / "again" / "attempt-1"
        print("what Ray prints")
        yield Record(outcome=replace(before, accuracy=before.accuracy + gain), curve=())

    monkeypatch.setattr(module, "run_attempt", attempt)
    to = tmp_path / "again"
    assert main(["reproduce", str(tried), "--training", training[:12], "--to", str(to)]) == code
    shown = capsys.readouterr()
    assert said in shown.out
    assert ("what Ray prints" in shown.out, "what Ray prints" in shown.err) == (False, True)
    written = json.loads((to / "reproduced.json").read_text())
    assert [one["training"] for one in written["trainings"]] == [training]
    with pytest.raises(RequestError, match="there already"):
        reproduce(record, ReproduceSettings(training=training, to=str(to)))


def test_a_whole_id_names_one_training_though_others_begin_with_it(tried: Path) -> None:
    view, history = state_of(open_record(str(tried)))
    key = f"{view.best.id}-s3"
    more = replace(history, outcomes={**history.outcomes, f"{key}0": history.outcomes[key]})
    assert find_training(view, more, key).seed == 3
    with pytest.raises(RequestError, match="several trainings begin like this"):
        find_training(view, more, key[:-1])


def test_a_training_that_is_not_there_is_an_error_that_names_those_that_are(tried: Path, tmp_path: Path) -> None:
    record = open_record(str(tried))
    with pytest.raises(RequestError, match=r"no such training\. It has [0-9a-f]+-s3"):
        reproduce(record, ReproduceSettings(training="nosuch", to=str(tmp_path / "again")))
