"""The writer against real storages: what is written is read back, whatever happened in between."""

import json
import os
import random
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState
from optuna_dashboard import get_note

from buildup.errors import RemoteError, ResourceError, RunError, SearchError
from buildup.files import write_atomic
from buildup.graph.kinds import LocalAttention
from buildup.graph.network import Edit, apply, replacement, sketch
from buildup.store.run_dir import driver_of
from buildup.store.storage import check_storage, hide_password, opened_storage
from buildup.store.study_reader import read_history
from buildup.store.study_writer import StudyWriter
from buildup.trials.decision import Decision
from buildup.trials.event import Event, Started, Update
from buildup.trials.history import History
from buildup.trials.outcome import Epoch, Failure, Outcome, Reason, Record, Score, record_to_values
from buildup.trials.training import Candidate, Training

NETWORK = sketch("CC|CC|CC|CC")
BASE = Candidate(network=NETWORK)
EDIT = replacement(NETWORK, "c4.1", LocalAttention(heads=24, window=4))
CHILD = Candidate(network=apply(NETWORK, EDIT), parent=BASE, edits=(EDIT,))
IMAGES = 40


def score(accuracy: float, seed: int) -> Score:
    random_bytes = random.Random(seed).randbytes
    return Score(
        accuracy=accuracy,
        correct=random_bytes(IMAGES // 8),
        losses=random_bytes(2 * IMAGES),
        images=IMAGES,
        seconds=1.5,
        metrics={"nll": 0.1 + seed, "throughput": 9.0},
    )


def epoch(number: int) -> Epoch:
    return Epoch(number=number, metrics={"accuracy": 10.0 * number + 0.1, "train_loss": 1 / number})


def lived(training: Training, outcome: Outcome, epochs: int = 3) -> list[Event]:
    """The events of a whole training."""
    curve = tuple(epoch(number) for number in range(1, epochs + 1))
    started = Started(attempt=1, host="node1", pid=4711)
    updates: list[Update] = [started, *curve, Record(outcome=outcome, curve=curve)]
    return [Event(training=training, update=update) for update in updates]


def decision(step: int) -> Decision:
    return Decision(
        step=step,
        candidate=CHILD.id,
        parent=BASE.id,
        edit=CHILD.edit,
        layout=CHILD.layout,
        scores=(61.1, 60.2),
        parent_scores=(60.0, 60.1),
        gain=0.1 + 0.2,
        ci=(0.1, 1 / 3),
        verdict="keep",
        reason="kept: <b>+0.97</b> points | over its parent",
        judge="likely",
        level=0.95,
        looks=1,
        seeds=2,
    )


FAILURE = Failure(reason=Reason.BROKEN, message="Traceback\n" + "line\n" * 2000 + "ValueError: 'ä'", seconds=2.0)
UNNEEDED = Failure(reason=Reason.UNNEEDED, message="a verdict fell without it")
STORY: list[Event | Decision] = [
    *lived(Training(candidate=BASE, seed=0), score(60.0, 0)),
    *lived(Training(candidate=BASE, seed=1), score(60.1, 1)),
    *lived(Training(candidate=CHILD, seed=0), score(61.1, 2)),
    decision(1),
    *lived(Training(candidate=CHILD, seed=2), UNNEEDED, epochs=1),
    *lived(Training(candidate=CHILD, seed=1), FAILURE, epochs=0),
    decision(2),
    *lived(Training(candidate=CHILD, seed=2), score(60.2, 3)),
]


@pytest.fixture(params=["sqlite", "journal file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    return None if request.param == "sqlite" else f"journal:///{tmp_path / 'study.log'}"


def begin(folder: Path, url: str | None = None) -> StudyWriter:
    return StudyWriter.create(folder=folder, storage_url=url, study_name="run", base=NETWORK, costs=lambda _: (7, 11))


def reopen(folder: Path, url: str | None = None) -> StudyWriter:
    return StudyWriter.open(folder=folder, storage_url=url, study_name="run", base=NETWORK, costs=lambda _: (7, 11))


def tell(writer: StudyWriter, history: History, story: Sequence[Event | Decision]) -> History:
    for item in story:
        history = writer.decide(history, item) if isinstance(item, Decision) else writer.record(history, item)
    return history


OPENED = ExitStack()
"""The storages through which a test looks at a study."""


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    OPENED.close()


def trials(folder: Path, url: str | None = None) -> list[optuna.trial.FrozenTrial]:
    return study(folder, url).get_trials()


def study(folder: Path, url: str | None = None) -> optuna.Study:
    return optuna.load_study(study_name="run", storage=OPENED.enter_context(opened_storage(url, folder)))


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, History]:
    """A run that lived through the whole story without a break."""
    folder = tmp_path_factory.mktemp("told")
    writer = begin(folder)
    history = tell(writer, writer.history, STORY)
    writer.close()
    return folder, history


@pytest.fixture
def run(told: tuple[Path, History], tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(told[0], tmp_path / "run"))


def test_a_run_that_is_reopened_after_every_event_reads_back_equal(
    tmp_path: Path, url: str | None, told: tuple[Path, History]
) -> None:
    writer = begin(tmp_path, url)
    history = writer.history
    for item in STORY:
        history = tell(writer, history, [item])
        writer.close()
        writer = reopen(tmp_path, url)
        assert writer.history == history
    writer.close()
    assert history == told[1]
    assert read_history(tmp_path, url, "run") == history
    assert len(history.outcomes) == 5
    assert len(history.decisions) == 2

    def content(folder: Path, url: str | None) -> list[object]:
        # Who trained it is remembered only until the driver stops.
        return [
            (
                trial.state,
                trial.values,
                trial.params,
                trial.intermediate_values,
                {key: value for key, value in trial.user_attrs.items() if key not in {"worker", "attempt"}},
            )
            for trial in trials(folder, url)
        ]

    assert content(tmp_path, url) == content(told[0], None)
    assert (tmp_path / "decisions.jsonl").read_text() == (told[0] / "decisions.jsonl").read_text()


PARAMS = ("msa", "window", "heads", "others")


def test_a_trial_says_what_was_trained_and_how_it_ended(run: Path) -> None:
    [first, _, child, unneeded, failed, again] = trials(run)
    assert first.state is TrialState.COMPLETE
    assert first.value == 60.0
    assert first.params == {f"c{stage}.{name}": 0 for stage in range(1, 5) for name in PARAMS}
    assert {name: value for name, value in child.params.items() if value} == {
        "c4.msa": 1,
        "c4.window": 4,
        "c4.heads": 24,
    }
    assert first.intermediate_values == {1: 10.1, 2: 20.1, 3: 30.1}
    attributes = child.user_attrs
    assert attributes["layout"] == "CC|CC|CC|CM"
    assert attributes["edit"] == "c4.1: conv -> msa(heads=24, window=4)"
    assert (attributes["params"], attributes["macs"]) == (7, 11)
    assert (attributes["seed"], attributes["parent"]) == (0, BASE.id)
    assert (attributes["outcome"], attributes["worker"], attributes["attempt"]) == ("score", "node1:4711", 1)
    assert attributes["throughput"] == 9.0
    assert unneeded.state is failed.state is TrialState.FAIL
    assert (unneeded.user_attrs["outcome"], failed.user_attrs["outcome"]) == ("unneeded", "broken")
    assert failed.user_attrs["message"].endswith("ValueError: 'ä'")
    assert again.intermediate_values == first.intermediate_values


def test_the_attributes_of_a_trial_stay_within_4_kb(tmp_path: Path) -> None:
    blocks = sketch("|".join("C" + "C" * 200 for _ in range(4)))
    network = blocks
    edits: list[Edit] = []
    for path in [f"c{stage}.{block}" for stage in (3, 4) for block in range(2, 200)][:60]:
        edit = replacement(network, path, LocalAttention(heads=24, window=4))
        network, edits = apply(network, edit), [*edits, edit]
    child = Candidate(network=network, parent=Candidate(network=blocks), edits=tuple(edits))
    metrics = {f"metric_{number}": number / 7 for number in range(500)}
    failure = Failure(reason=Reason.BROKEN, message="ß\x00" * 5000)
    writer = StudyWriter.create(folder=tmp_path, storage_url=None, study_name="run", base=blocks)
    full = Score(accuracy=1.0, metrics=metrics, correct=bytes(6250), losses=bytes(100_000), images=50_000)
    history = tell(writer, writer.history, lived(Training(candidate=child, seed=0), full))
    tell(writer, history, lived(Training(candidate=child, seed=1), failure))
    writer.close()
    sizes = [len(json.dumps(trial.user_attrs)) for trial in trials(tmp_path)]
    assert max(sizes) <= 4096
    assert (tmp_path / "trainings" / Training(candidate=child, seed=0).id / "correct.bits").stat().st_size == 6250


def test_a_decision_is_an_attribute_a_line_and_two_notes(run: Path) -> None:
    one = study(run)
    line = json.loads((run / "decisions.jsonl").read_text().splitlines()[0])
    assert line == one.user_attrs["decision:0001"]
    assert (line["step"], line["verdict"], line["gain"]) == (1, "keep", 0.1 + 0.2)
    first = optuna.Trial(one, one.get_trials()[2]._trial_id)
    assert get_note(first).startswith("**keep** at step 2: kept: <b>+0.97</b> points")
    assert "| 1 | `CC\\|CC\\|CC\\|CM` |" in get_note(one)
    assert one.metric_names == ["accuracy"]


@pytest.mark.parametrize("damage", ["torn", "missing", "older", "foreign"])
def test_decisions_are_repaired_from_the_study(run: Path, told: tuple[Path, History], damage: str) -> None:
    path = run / "decisions.jsonl"
    whole = path.read_bytes()
    damaged = {"torn": whole[:-20], "older": whole.splitlines(keepends=True)[0], "foreign": b"\xff\x00"}
    path.unlink()
    if damage in damaged:
        path.write_bytes(damaged[damage])
    writer = reopen(run)
    writer.close()
    assert writer.history == told[1]
    assert path.read_bytes() == whole


def test_an_epoch_is_written_once_even_when_an_attempt_goes_through_it_again(tmp_path: Path) -> None:
    training = Training(candidate=BASE, seed=0)
    writer = begin(tmp_path)
    history = tell(writer, writer.history, lived(training, UNNEEDED)[:3])
    writer.close()
    metrics = tmp_path / "trainings" / training.id / "metrics.jsonl"
    with metrics.open("a") as file:
        file.write('{"number": 3, "metr')
    writer = reopen(tmp_path)
    assert writer.history == history
    history = tell(writer, history, lived(training, score(60.0, 0)))
    writer.close()
    assert [json.loads(line)["number"] for line in metrics.read_text().splitlines()] == [1, 2, 3]
    [trial] = trials(tmp_path)
    assert sorted(trial.intermediate_values) == [1, 2, 3]
    assert [one.number for one in history.curves[training.id]] == [1, 2, 3]


def test_a_training_that_ended_while_nobody_looked_is_told_at_opening(tmp_path: Path) -> None:
    training = Training(candidate=BASE, seed=0)
    writer = begin(tmp_path)
    tell(writer, writer.history, lived(training, UNNEEDED)[:2])
    writer.close()
    attempt = tmp_path / "trainings" / training.id / "attempt-2"
    attempt.mkdir()
    record = Record(outcome=score(60.0, 0), curve=tuple(epoch(number) for number in (1, 2, 3)))
    write_atomic(attempt / "final.json", json.dumps(record_to_values(record)).encode())
    writer = reopen(tmp_path)
    writer.close()
    assert writer.history == History(outcomes={training.id: record.outcome}, curves={training.id: record.curve})
    [trial] = trials(tmp_path)
    assert trial.state is TrialState.COMPLETE
    assert trial.user_attrs["attempt"] == 2
    assert sorted(trial.intermediate_values) == [1, 2, 3]


def test_a_trial_that_a_database_made_twice_does_not_run_for_ever(tmp_path: Path) -> None:
    writer = begin(tmp_path)
    history = tell(writer, writer.history, lived(Training(candidate=BASE, seed=0), score(60.0, 0)))
    study(tmp_path).ask()  # as if the answer to a first request had been lost
    writer.finish(history)
    writer.close()
    assert [trial.state for trial in trials(tmp_path)] == [TrialState.COMPLETE, TrialState.FAIL]


@pytest.mark.parametrize("kept", [0, 40])
def test_epochs_that_a_power_cut_took_come_back_from_the_final_record(tmp_path: Path, kept: int) -> None:
    training = Training(candidate=BASE, seed=0)
    writer = begin(tmp_path)
    history = tell(writer, writer.history, lived(training, score(60.0, 0)))
    writer.close()
    metrics = tmp_path / "trainings" / training.id / "metrics.jsonl"
    whole = metrics.read_bytes()
    metrics.write_bytes(whole[:kept])
    attempt = metrics.parent / "attempt-1"
    attempt.mkdir()
    record = Record(outcome=history.outcomes[training.id], curve=history.curves[training.id])
    write_atomic(attempt / "final.json", json.dumps(record_to_values(record)).encode())
    writer = reopen(tmp_path)
    writer.close()
    assert writer.history == history
    assert metrics.read_bytes() == whole


def test_a_storage_of_weights_that_is_away_is_waited_for_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    training = Training(candidate=BASE, seed=0)
    writer = begin(tmp_path)
    tell(writer, writer.history, lived(training, UNNEEDED)[:2])
    writer.close()
    asked: list[Path] = []

    def away(folder: Path) -> None:
        asked.append(folder)
        if len(asked) != 2:
            raise RemoteError(f"{folder}: the bucket does not answer.")

    monkeypatch.setattr("buildup.store.study_writer.final_record", away)
    monkeypatch.setattr("buildup.store.outage.FIRST_PAUSE", 0.0)
    reopen(tmp_path).close()
    assert len(asked) == 2
    assert "does not answer" in caplog.text
    monkeypatch.setattr("buildup.store.outage.LIMIT", 0.0)
    with pytest.raises(RemoteError, match="the bucket does not answer"):
        reopen(tmp_path)


def test_a_training_that_was_interrupted_goes_on_in_its_trial(tmp_path: Path) -> None:
    training = Training(candidate=BASE, seed=0)
    writer = begin(tmp_path)
    tell(writer, writer.history, lived(training, UNNEEDED)[:2])
    writer.close()
    [before] = trials(tmp_path)
    assert before.state is TrialState.RUNNING
    writer = reopen(tmp_path)
    tell(writer, writer.history, lived(training, score(60.0, 0))[2:])
    writer.close()
    [after] = trials(tmp_path)
    assert after.state is TrialState.COMPLETE
    assert after.datetime_start == before.datetime_start


def test_a_trial_that_was_only_announced_is_asked_for_again(tmp_path: Path) -> None:
    training = Training(candidate=BASE, seed=0)
    writer = begin(tmp_path)
    tell(writer, writer.history, lived(training, UNNEEDED)[:1])
    writer.close()
    [trial] = trials(tmp_path)
    waiting = Training(candidate=BASE, seed=1)
    study(tmp_path).add_trial(
        optuna.create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs={**trial.user_attrs, "training": waiting.id, "seed": 1},
        )
    )
    writer = reopen(tmp_path)
    tell(writer, writer.history, lived(waiting, score(60.0, 0)))
    writer.close()
    [first, second] = trials(tmp_path)
    assert (first.state, second.state) == (TrialState.RUNNING, TrialState.COMPLETE)
    assert second.datetime_start is not None
    assert second.user_attrs["seed"] == 1


def test_nothing_is_left_running_when_a_search_is_over(tmp_path: Path) -> None:
    writer = begin(tmp_path)
    history = tell(writer, writer.history, lived(Training(candidate=BASE, seed=0), score(60.0, 0)))
    history = tell(writer, history, lived(Training(candidate=BASE, seed=1), UNNEEDED)[:2])
    writer.finish(history)
    writer.close()
    [_, left] = trials(tmp_path)
    assert (left.state, left.user_attrs["outcome"]) == (TrialState.FAIL, "unneeded")
    assert read_history(tmp_path, None, "run") == history


def test_events_after_the_end_of_a_training_are_ignored(tmp_path: Path) -> None:
    training = Training(candidate=BASE, seed=0)
    writer = begin(tmp_path)
    events = lived(training, score(60.0, 0))
    history = tell(writer, writer.history, events)
    assert tell(writer, history, events) == history
    writer.close()
    assert len(trials(tmp_path)) == 1


def test_a_run_is_written_by_one_process_at_a_time(tmp_path: Path) -> None:
    writer = begin(tmp_path)
    assert driver_of(tmp_path) == f"{os.getpid()} on {socket.gethostname()}"
    with pytest.raises(RunError, match=f"being written by process {os.getpid()} on"):
        reopen(tmp_path)
    writer.close()
    assert driver_of(tmp_path) is None
    reopen(tmp_path).close()


def test_a_lock_goes_with_its_process(tmp_path: Path, start: Callable[..., "subprocess.Popen[bytes]"]) -> None:
    begin(tmp_path).close()
    code = (
        "import sys, time; from pathlib import Path; from buildup.graph.network import sketch;"
        "from buildup.store.study_writer import StudyWriter;"
        "writer = StudyWriter.open(folder=Path(sys.argv[1]), storage_url=None, study_name='run', "
        "base=sketch('CC|CC|CC|CC')); print('open', flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = start([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline() == b"open\n"
    with pytest.raises(RunError, match=f"process {process.pid} on"):
        reopen(tmp_path)
    process.kill()
    process.wait()
    reopen(tmp_path).close()


def test_a_study_of_the_same_name_is_not_overwritten(tmp_path: Path, url: str | None) -> None:
    begin(tmp_path, url).close()
    with pytest.raises(RunError, match="holds a study 'run' already"):
        begin(tmp_path, url)


def test_a_run_with_another_base_is_refused(tmp_path: Path) -> None:
    begin(tmp_path).close()
    with pytest.raises(RunError, match="another base"):
        StudyWriter.open(folder=tmp_path, storage_url=None, study_name="run", base=sketch("CC|CC"))


@pytest.mark.parametrize("content", [b"not a database at all, but long enough" * 50, None])
def test_a_foreign_database_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "study.db"
    if content is None:
        connection = sqlite3.connect(path)
        connection.execute("create table photos (name text)")
        connection.commit()
        connection.close()
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(RunError, match=r"study\.db"):
        begin(tmp_path)
    with pytest.raises(RunError, match=r"study\.db"):
        reopen(tmp_path)
    assert path.read_bytes() == before


def test_a_study_of_another_program_is_refused(tmp_path: Path) -> None:
    storage = OPENED.enter_context(opened_storage(None, tmp_path))
    optuna.create_study(storage=storage, study_name="run")
    with pytest.raises(RunError, match="not written by this program"):
        reopen(tmp_path)


def test_a_trial_of_someone_else_in_the_study_is_refused(tmp_path: Path) -> None:
    begin(tmp_path).close()
    study(tmp_path).add_trial(
        optuna.create_trial(state=TrialState.COMPLETE, value=1.0, user_attrs={"training": "../../home"})
    )
    with pytest.raises(RunError, match="someone else"):
        reopen(tmp_path)


def test_a_missing_run_or_study_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such run"):
        reopen(tmp_path / "nowhere")
    with pytest.raises(RunError, match=r"no study\.db"):
        reopen(tmp_path)
    begin(tmp_path).close()
    with pytest.raises(RunError, match="no study 'other'; it has run"):
        read_history(tmp_path, None, "other")


@pytest.mark.parametrize("name", ["correct.bits", "losses.f16"])
@pytest.mark.parametrize("damage", [b"", b"\x00" * 5, None])
def test_what_is_damaged_of_single_images_is_named(run: Path, name: str, damage: bytes | None) -> None:
    path = run / "trainings" / Training(candidate=BASE, seed=0).id / name
    path.unlink()
    if damage is not None:
        path.write_bytes(damage)
    with pytest.raises(RunError, match=rf"{name}: it is (damaged|missing)"):
        reopen(run)


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("postgresql://me:secret@127.0.0.1:1/study", "postgresql"),
        ("mysql://me:secret@127.0.0.1:1/study", "mysql"),
        ("oracle://me:secret@127.0.0.1/study", "'oracle' is not known"),
        ("no url", "is no URL"),
        ("sqlite:////nowhere/at/all/study.db", "does not exist"),
        ("sqlite://", "in memory"),
        ("journal:////nowhere/at/all/study.log", "nowhere"),
    ],
)
def test_a_storage_that_cannot_be_had_is_refused_without_its_password(tmp_path: Path, url: str, found: str) -> None:
    since = time.monotonic()
    with pytest.raises(ResourceError, match=found) as caught:
        begin(tmp_path, url)
    with pytest.raises(ResourceError, match=found):
        check_storage(url, "run")
    assert "secret" not in str(caught.value)
    assert time.monotonic() - since < 15


def test_a_storage_is_shown_without_its_password() -> None:
    assert hide_password("postgresql://me:secret@host/study") == "postgresql://me:***@host/study"


def test_checking_a_storage_writes_nothing_and_finds_a_study_of_that_name(tmp_path: Path) -> None:
    for url in (f"sqlite:///{tmp_path / 'study.db'}", f"journal:///{tmp_path / 'study.log'}"):
        check_storage(url, "run")
        assert not (tmp_path / url.rpartition("/")[2]).exists()
        begin(tmp_path / url[:7], url).close()
        check_storage(url, "another")
        with pytest.raises(RunError, match="holds a study 'run' already"):
            check_storage(url, "run")


@pytest.mark.parametrize("left", [1, 20, -1])
def test_a_journal_goes_on_after_an_append_that_was_cut_off(tmp_path: Path, left: int) -> None:
    file = tmp_path / "study.log"
    url = f"journal:///{file}"
    writer = begin(tmp_path / "run", url)
    history = tell(writer, writer.history, STORY[:-1])
    writer.close()
    whole = file.read_bytes()
    with file.open("ab") as torn:  # by a full disk, or a power cut
        torn.write(whole.splitlines()[-1][:left])
    writer = reopen(tmp_path / "run", url)
    assert writer.history == history
    history = tell(writer, history, STORY[-1:])
    writer.close()
    assert file.read_bytes().startswith(whole)
    writer = reopen(tmp_path / "run", url)
    assert writer.history == history
    writer.close()


def test_a_run_in_postgresql_reads_back_equal(tmp_path: Path, postgres: str) -> None:
    writer = begin(tmp_path / "run", postgres)
    history = writer.history
    for item in STORY:
        history = tell(writer, history, [item])
        writer.close()
        writer = reopen(tmp_path / "run", postgres)
        assert writer.history == history
    writer.close()


@pytest.mark.slow
def test_a_server_that_breaks_ends_the_search_and_says_so(tmp_path: Path, postgres: str) -> None:
    writer = begin(tmp_path / "run", postgres)
    history = tell(writer, writer.history, lived(Training(candidate=BASE, seed=0), score(60.0, 0)))
    engine = sqlalchemy.create_engine(postgres.replace("postgresql:", "postgresql+psycopg2:"))
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("drop table trial_user_attributes cascade"))
        connection.commit()
    engine.dispose()
    with pytest.raises(SearchError, match="can't be written any more"):
        tell(writer, history, lived(Training(candidate=BASE, seed=1), score(60.0, 1)))
    writer.close()
