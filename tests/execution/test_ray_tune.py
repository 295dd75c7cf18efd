"""Real Ray workers on trainings of a few milliseconds."""

import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import ray
from ray.cluster_utils import Cluster

from buildup.__main__ import run
from buildup.engine.loop import raise_if_infrastructure
from buildup.errors import DataError, ResourceError, SearchError
from buildup.execution import dispatcher
from buildup.execution.counters import COUNTED, counting, verdict_counter
from buildup.execution.dispatcher import Assignment, MakeJob
from buildup.execution.ray_tune import RayEvaluator, _TrainingWorker
from buildup.files import write_atomic
from buildup.graph.network import sketch
from buildup.trials.decision import Decision
from buildup.trials.event import Event, Started
from buildup.trials.outcome import Epoch, Failed, Failure, Reason, Record, Score
from buildup.trials.training import Candidate, Training

BASE = Candidate(network=sketch("CC|CC|CC|CC"))

# The workers can't import this file, so its functions travel whole.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # type: ignore[no-untyped-call]


def toy(job: dict[str, Any]) -> Generator[Epoch, None, Score]:
    """Counts epochs, keeps a checkpoint, and breaks where it is told to."""
    kept = [place / "checkpoint.pt" for place in job["earlier"]]
    first = next((int(path.read_text()) for path in kept if path.is_file()), 0)
    for number in range(1, job["epochs"] + 1):
        time.sleep(job["seconds"] if number > first else 0)
        if number == job.get("diverges"):
            raise Failed(Reason.DIVERGED, "the loss is not a number")
        if number == job.get("breaks"):
            raise ZeroDivisionError("a broken block")
        if number == job.get("refuses"):
            raise DataError("the images are not those of then.")
        if number == job.get("fills"):
            raise Failed(Reason.DISK_FULL, "the disk is full.")
        metrics = {"accuracy": float(number), "pid": float(os.getpid()), "remembered": float(number <= first)}
        yield Epoch(number=number, metrics=metrics)
        write_atomic(Path(job["folder"]) / "checkpoint.pt", str(number).encode())
    return Score(accuracy=50.0 + job["epochs"])


def jobs(**settings: Any) -> MakeJob:
    def make(training: Training, folder: Path, earlier: Sequence[Path]) -> dict[str, Any]:
        return {"epochs": 3, "seconds": 0.01, **settings, "folder": str(folder), "earlier": earlier}

    return make


def trainings(count: int, first: int = 0) -> list[Training]:
    return [Training(candidate=BASE, seed=seed) for seed in range(first, first + count)]


@pytest.fixture(scope="module", autouse=True)
def one_ray() -> Iterator[None]:
    """One Ray for all tests; evaluators that find it there leave it running."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    ray.init(
        address="local",
        num_cpus=2,
        num_gpus=0,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100 * 2**20,
        _system_config={"metrics_report_interval_ms": 200},
    )
    yield
    ray.shutdown()


@pytest.fixture
def evaluator(tmp_path: Path) -> Iterator[Callable[..., RayEvaluator]]:
    made = []

    def make(job: MakeJob, workers: int = 2, cpus: float = 1, gpus: float = 0, name: str = "") -> RayEvaluator:
        one = RayEvaluator(
            folder=tmp_path,
            train=toy,
            job=job,
            workers=workers,
            cpus_per_worker=cpus,
            gpus_per_worker=gpus,
            address=None,
            verbose=False,
            name=name,
        )
        made.append(one)
        return one

    yield make
    for one in made:
        one.close()


def until_ended(evaluator: RayEvaluator, requested: list[Training]) -> list[Event]:
    """Want these until they have all ended."""
    events: list[Event] = []
    left = list(requested)
    while left:
        evaluator.request(left)
        event = evaluator.next_event(timeout=120)
        assert event is not None, "nothing happened for two minutes"
        events.append(raise_if_infrastructure(event))
        if isinstance(event.update, Record):
            left = [training for training in left if training.id != event.training.id]
    return events


def wait_for(evaluator: RayEvaluator, kind: type[Started | Epoch | Record]) -> Any:
    """The next update of a kind."""
    return wait_for_event(evaluator, kind).update


def wait_for_event(evaluator: RayEvaluator, kind: type[Started | Epoch | Record]) -> Event:
    while True:
        event = evaluator.next_event(timeout=120)
        assert event is not None, "nothing happened for two minutes"
        if isinstance(raise_if_infrastructure(event).update, kind):
            return event


def test_a_training_starts_goes_through_its_epochs_and_ends(evaluator: Callable[..., RayEvaluator]) -> None:
    [training] = trainings(1)
    events = until_ended(evaluator(jobs()), [training])
    assert [type(event.update) for event in events] == [Started, Epoch, Epoch, Epoch, Record]
    assert all(event.training.id == training.id for event in events)
    started, ended = events[0].update, events[-1].update
    assert isinstance(started, Started)
    assert started.attempt == 1
    assert started.worker.startswith(f"{socket.gethostname()}:")
    assert isinstance(ended, Record)
    assert ended.outcome == Score(accuracy=53.0)
    assert [epoch.number for epoch in ended.curve] == [1, 2, 3]


def test_prometheus_reads_what_happened(evaluator: Callable[..., RayEvaluator]) -> None:
    port = ray.nodes()[0]["MetricsExportPort"]  # type: ignore[no-untyped-call]
    if port <= 0:
        pytest.skip("ray[default] is not installed")
    kept = Decision(
        **dict.fromkeys(("candidate", "parent", "edit", "layout", "reason", "judge"), ""),  # type: ignore[arg-type]
        scores=(),
        parent_scores=(),
        **dict.fromkeys(("step", "gain", "level", "looks", "seeds"), 1),  # type: ignore[arg-type]
        ci=(0, 2),
        verdict="keep",
    )
    one = evaluator(jobs(epochs=2), name="counted")
    until_ended(one, trainings(3))
    one.close()
    until_ended(evaluator(jobs(diverges=2), workers=1, name="counted"), trainings(1, first=3))
    verdict_counter("counted")(kept)
    for name in ("retries", "stalls"):  # that the dispatcher counts them is in test_dispatcher.py
        counting("counted")(name, "")
    expected = {"trainings_started": 4, "trainings_finished": 3, "trainings_failed diverged": 1, "epochs": 7}
    expected |= {"verdicts keep": 1, "retries": 1, "stalls": 1}
    deadline = time.monotonic() + 30
    while served(port) != expected and time.monotonic() < deadline:
        time.sleep(0.2)
    assert served(port) == expected
    assert {name.partition(" ")[0] for name in expected} == COUNTED.keys()


def test_a_run_of_any_name_is_counted() -> None:
    counting("mit leer \u00fc \u65e5")("retries", "")


def served(port: int) -> dict[str, float]:
    """What Ray serves of the run `counted`, by the names of counters and the values of their labels."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    found = {}
    for line in lines:
        if line.startswith("ray_buildup_") and 'run="counted"' in line:
            name = line.partition("{")[0].removeprefix("ray_buildup_").removesuffix("_total")
            label = re.search(r'(?:reason|verdict)="(\w+)"', line)
            found[f"{name} {label[1]}" if label else name] = float(line.rpartition(" ")[2])
    return found


def test_workers_outlive_their_trainings_and_gaps_in_which_nothing_is_wanted(
    evaluator: Callable[..., RayEvaluator],
) -> None:
    one = evaluator(jobs())
    events = until_ended(one, trainings(8))
    one.request([])
    assert one.next_event(timeout=1.0) is None
    events += until_ended(one, trainings(1, first=8))
    assert one.next_event(timeout=1.0) is None
    wanted_at = time.monotonic()
    one.request(trainings(11, first=9))
    wait_for(one, Started)
    assert time.monotonic() - wanted_at < 1.0
    events += until_ended(one, trainings(11, first=9))
    workers = {event.update.worker for event in events if isinstance(event.update, Started)}
    assert sum(isinstance(event.update, Record) for event in events) == 20
    assert len(workers) == 2


def test_trainings_start_in_the_order_in_which_they_are_wanted(evaluator: Callable[..., RayEvaluator]) -> None:
    requested = trainings(6)[::-1]
    events = until_ended(evaluator(jobs(), workers=1), requested)
    assert [event.training.seed for event in events if isinstance(event.update, Started)] == [5, 4, 3, 2, 1, 0]


def test_an_unneeded_training_ends_with_its_epoch_and_can_be_wanted_again(
    evaluator: Callable[..., RayEvaluator],
) -> None:
    one = evaluator(jobs(epochs=12, seconds=0.1), workers=1)
    [first, second] = trainings(2)
    one.request([first])
    wait_for(one, Epoch)
    one.request([second])
    event = wait_for_event(one, Record)
    assert event.training.id == first.id
    assert isinstance(event.update, Record)
    assert isinstance(event.update.outcome, Failure)
    assert event.update.outcome.reason is Reason.UNNEEDED
    assert wait_for_event(one, Started).training.id == second.id
    one.request([first])
    assert wait_for_event(one, Record).training.id == second.id
    event = wait_for_event(one, Started)
    assert isinstance(event.update, Started)
    assert (event.training.id, event.update.attempt) == (first.id, 2)
    ended = wait_for(one, Record)
    assert ended.outcome == Score(accuracy=62.0)
    assert [epoch.number for epoch in ended.curve] == list(range(1, 13))


class Slow:
    """Takes seconds to load in a process that has loaded none yet, as the libraries do from a slow disk."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __reduce__(self) -> Any:
        return load_slowly, (self.seconds,)


def load_slowly(seconds: float) -> None:
    if "LOADED" not in os.environ:
        os.environ["LOADED"] = "1"
        time.sleep(seconds)


def test_a_worker_that_comes_late_does_not_train_what_another_one_took_over(
    evaluator: Callable[..., RayEvaluator], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "WORKER_START_TIMEOUT", 1.0)
    plain = jobs(seconds=0.1)

    def job(training: Training, folder: Path, earlier: Sequence[Path]) -> dict[str, Any]:
        return {**plain(training, folder, earlier), "slow": Slow(5.0 if training.seed else 0.0)}

    def claims() -> list[str]:
        return sorted(f"{path.parent.parent.name} {path.read_text()}" for path in tmp_path.glob("*/*/worker"))

    one = evaluator(job)
    until_ended(one, trainings(1))
    since = time.monotonic()
    events = until_ended(one, trainings(2, first=1))
    assert time.monotonic() - since < 5
    assert len({event.update.pid for event in events if isinstance(event.update, Started)}) == 1
    known = claims()
    assert len(known) == 3
    while time.monotonic() - since < 7:
        assert one.next_event(timeout=0.5) is None
    assert claims() == known


def test_a_training_that_is_wanted_again_in_time_just_goes_on(evaluator: Callable[..., RayEvaluator]) -> None:
    one = evaluator(jobs(seconds=0.3), workers=1)
    one.request(trainings(1))
    wait_for(one, Epoch)
    one.request([])
    one.request(trainings(1))
    events = [one.next_event(timeout=60) for _ in range(3)]
    assert [type(event and event.update) for event in events] == [Epoch, Epoch, Record]


@pytest.mark.parametrize(
    ("settings", "reason", "message"),
    [
        ({"diverges": 2}, Reason.DIVERGED, "the loss is not a number"),
        ({"breaks": 2}, Reason.BROKEN, "ZeroDivisionError: a broken block"),
    ],
)
def test_a_failed_training_is_a_result_and_the_next_one_runs(
    evaluator: Callable[..., RayEvaluator], settings: dict[str, int], reason: Reason, message: str
) -> None:
    one = evaluator(jobs(**settings), workers=1)
    events = until_ended(one, trainings(2))
    outcomes = [event.update.outcome for event in events if isinstance(event.update, Record)]
    assert [isinstance(outcome, Failure) and outcome.reason for outcome in outcomes] == [reason, reason]
    assert all(isinstance(outcome, Failure) and message in outcome.message for outcome in outcomes)


@pytest.mark.parametrize("fault", ["refuses", "fills"])
def test_a_failure_of_the_place_ends_the_search_and_is_held_against_nobody(
    evaluator: Callable[..., RayEvaluator], tmp_path: Path, fault: str
) -> None:
    one = evaluator(jobs(**{fault: 3}))
    with pytest.raises(SearchError, match="No decision was made on it"):
        until_ended(one, trainings(1))
    one.close()
    assert not list(tmp_path.rglob("final.json"))
    events = until_ended(evaluator(jobs()), trainings(1))
    epochs = [event.update for event in events if isinstance(event.update, Epoch)]
    assert [epoch.metrics["remembered"] for epoch in epochs] == [1, 1, 0]


def test_a_training_whose_worker_is_killed_goes_on_at_its_checkpoint(evaluator: Callable[..., RayEvaluator]) -> None:
    one = evaluator(jobs(epochs=6, seconds=0.4), workers=1)
    one.request(trainings(1))
    pid = int(wait_for(one, Started).worker.split(":")[1])
    while wait_for(one, Epoch).number < 3:
        pass
    os.kill(pid, signal.SIGKILL)
    again = wait_for(one, Started)
    assert again.attempt == 2
    ended = wait_for(one, Record)
    assert ended.outcome == Score(accuracy=56.0)
    assert [epoch.number for epoch in ended.curve] == [1, 2, 3, 4, 5, 6]
    assert [epoch.metrics["remembered"] for epoch in ended.curve][:2] == [1.0, 1.0]


@pytest.mark.slow
def test_a_training_that_gets_further_between_the_deaths_of_its_workers_is_not_lost(
    evaluator: Callable[..., RayEvaluator],
) -> None:
    one = evaluator(jobs(epochs=6, seconds=0.3), workers=1)
    one.request(trainings(1))
    for number in (1, 2, 3, 4):
        pid = int(wait_for(one, Started).worker.split(":")[1])
        while wait_for(one, Epoch).number < number:
            pass
        time.sleep(0.1)  # it keeps its epoch after telling it
        os.kill(pid, signal.SIGKILL)
    assert wait_for(one, Record).outcome == Score(accuracy=56.0)


@pytest.mark.slow
def test_a_training_that_only_kills_its_workers_ends_the_search_and_can_be_tried_again(
    evaluator: Callable[..., RayEvaluator], tmp_path: Path
) -> None:
    one = evaluator(jobs(seconds=60), workers=1)
    one.request(trainings(1))
    for _ in range(3):
        os.kill(int(wait_for(one, Started).worker.split(":")[1]), signal.SIGKILL)
    with pytest.raises(SearchError, match="lost its worker 3 times, and got no further than epoch 0") as told:
        wait_for(one, Record)
    assert "The actor died" in str(told.value)
    one.close()
    assert not list(tmp_path.rglob("final.json"))
    ended = until_ended(evaluator(jobs(), workers=1), trainings(1))[-1].update
    assert isinstance(ended, Record)
    assert ended.outcome == Score(accuracy=53.0)


def test_a_worker_that_started_so_late_that_another_took_over_trains_nothing(tmp_path: Path) -> None:
    began = threading.Event()

    def train(job: object) -> Generator[Epoch, None, Score]:
        began.set()
        yield Epoch(number=1, metrics={})
        return Score(accuracy=1.0)

    worker = _TrainingWorker({"assignment": Assignment(train=train, job=None, folder=tmp_path, attempt=1)})
    assert not began.wait(0.2)
    worker.step()
    assert began.wait(10)
    worker.cleanup()


def test_a_final_record_is_adopted_and_nothing_is_started(evaluator: Callable[..., RayEvaluator]) -> None:
    job = jobs()
    until_ended(evaluator(job), trainings(1))
    another = evaluator(job)
    [event] = until_ended(another, trainings(1))
    assert isinstance(event.update, Record)
    assert event.update.outcome == Score(accuracy=53.0)
    assert len(event.update.curve) == 3


def test_a_worker_that_took_another_training_is_still_known_by_its_node_and_ended_with_the_search(
    evaluator: Callable[..., RayEvaluator],
) -> None:
    one = evaluator(jobs(epochs=2, seconds=0.3), workers=1)
    one.request(trainings(2))
    first, second = wait_for(one, Started), wait_for(one, Started)
    assert first.pid == second.pid
    assert first.node == second.node == ray.get_runtime_context().get_node_id()
    since = time.monotonic()
    one.close()
    assert time.monotonic() - since < 6


def test_closing_in_the_middle_of_an_epoch_is_quick_and_keeps_the_checkpoint(
    evaluator: Callable[..., RayEvaluator],
) -> None:
    one = evaluator(jobs(epochs=2, seconds=1.5), workers=1)
    one.request(trainings(1))
    wait_for(one, Epoch)
    time.sleep(0.2)
    since = time.monotonic()
    one.close()
    assert time.monotonic() - since < 6
    events = until_ended(evaluator(jobs(epochs=2, seconds=0.01), workers=1), trainings(1))
    epochs = [event.update for event in events if isinstance(event.update, Epoch)]
    assert [(epoch.number, epoch.metrics["remembered"]) for epoch in epochs] == [(1, 1.0), (2, 0.0)]


def test_a_job_that_cannot_be_made_stops_the_search_with_its_traceback(
    evaluator: Callable[..., RayEvaluator],
) -> None:
    def broken(training: Training, folder: Path, earlier: Sequence[Path]) -> None:
        raise LookupError("no such recipe")

    one = evaluator(broken)
    one.request(trainings(1))
    with pytest.raises(SearchError, match="no such recipe"):
        one.next_event(timeout=60)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"workers": 2, "gpus": 1}, "2 workers with 1 CPU and 1 GPU each do not fit.*2 CPU and 0 GPU"),
        ({"workers": 3}, "3 workers with 1 CPU each do not fit.*room for 2"),
        ({"workers": 1, "gpus": 1.5}, "1.5 GPUs per training"),
    ],
)
def test_resources_that_do_not_exist_are_refused(
    evaluator: Callable[..., RayEvaluator], asked: dict[str, Any], found: str
) -> None:
    with pytest.raises(ResourceError, match=found):
        evaluator(jobs(), **asked)


@pytest.mark.parametrize("address", ["10.0.0.1", "ray://head:10001", "http://head:1"])
def test_an_address_in_another_form_is_refused(tmp_path: Path, address: str) -> None:
    with pytest.raises(ResourceError, match="host:port"):
        connect(tmp_path, address)


def test_an_address_where_nothing_answers_is_refused_at_once(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ResourceError, match=f"127.0.0.1:{port}: nothing answers"):
        connect(tmp_path, f"127.0.0.1:{port}")


def connect(folder: Path, address: str) -> None:
    RayEvaluator(
        folder=folder,
        train=toy,
        job=jobs(),
        workers=1,
        cpus_per_worker=1,
        gpus_per_worker=0,
        address=address,
        verbose=False,
    )


SCRIPT = """
    import os, signal, sys, time
    from pathlib import Path
    from buildup.graph.network import sketch
    from buildup.execution.ray_tune import RayEvaluator
    from buildup.trials.training import Candidate, Training
    from buildup.trials.outcome import Epoch, Record, Score
    from buildup.trials.event import Started

    def train(job):
        for number in range(1, job + 1):
            time.sleep(0.05)
            print("a worker prints")
            yield Epoch(number=number, metrics={"accuracy": 1.0})
        return Score(accuracy=1.0)

    def main(epochs):
        evaluator = RayEvaluator(
            folder=Path(sys.argv[1]), train=train, job=lambda *_: epochs, workers=1, cpus_per_worker=1,
            gpus_per_worker=0, address=sys.argv[3] or None, verbose=False,
        )
        try:
            evaluator.request([Training(candidate=Candidate(network=sketch("CC|CC")), seed=0)])
            while not isinstance(update := evaluator.next_event().update, Record):
                if isinstance(update, Epoch) and update.number == 2:
                    print("two epochs", flush=True)
                if isinstance(update, Started) and update.attempt == 1 and "kill" in sys.argv:
                    os.kill(update.pid, signal.SIGKILL)
            print(update.outcome.accuracy, flush=True)
        except KeyboardInterrupt:
            print("interrupted", time.time(), flush=True)
        finally:
            evaluator.close()

    main(int(sys.argv[2]))
"""


Start = Callable[..., "subprocess.Popen[str]"]


def script(start: Start, folder: Path, epochs: int, address: str = "", *more: str) -> "subprocess.Popen[str]":
    file = folder / "script.py"
    file.write_text(textwrap.dedent(SCRIPT))
    return start(
        [sys.executable, str(file), str(folder / "trainings"), str(epochs), address, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell that runs these tests in its background has Ctrl-C ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )


@pytest.mark.slow
def test_ray_prints_nothing(tmp_path: Path, start: Start) -> None:
    out, error = script(start, tmp_path, epochs=3).communicate(timeout=180)
    assert error == ""
    assert out.splitlines() == ["two epochs", "1.0"]


@pytest.mark.slow
def test_ray_does_not_report_a_killed_worker_if_its_messages_are_skipped_as_on_the_command_line(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["buildup", "search"])
    monkeypatch.setattr("buildup.__main__.main", lambda arguments: 0)
    monkeypatch.setenv("RAY_DEDUP_LOGS_SKIP_REGEX", "")  # so that it is restored afterwards
    monkeypatch.delenv("RAY_DEDUP_LOGS_SKIP_REGEX")
    with pytest.raises(SystemExit):
        run()
    out, error = script(start, tmp_path, 3, "", "kill").communicate(timeout=180)
    [line] = error.splitlines()
    assert re.match(
        r"worker     .* \(pid \d+\) died: Worker unexpectedly exits .*; the base  seed 0 goes on from", line
    )
    assert out.splitlines() == ["two epochs", "1.0"]


def test_ctrl_c_reaches_the_program_within_a_second(tmp_path: Path, start: Start) -> None:
    process = script(start, tmp_path, epochs=10_000)
    assert process.stdout is not None
    assert process.stdout.readline() == "two epochs\n"
    pressed = time.time()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: Ray's processes get it too
    out, error = process.communicate(timeout=120)
    assert out.startswith("interrupted ")
    assert float(out.split()[1]) - pressed < 1.0
    assert error == ""
    assert process.returncode == 0


@pytest.mark.slow
def test_a_given_cluster_is_used_and_left_running(tmp_path: Path, start: Start) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        for _ in range(2):
            out, error = script(start, tmp_path, epochs=3, address=cluster.address).communicate(timeout=180)
            assert error == ""
            assert out.splitlines()[-1] == "1.0"
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]


@pytest.mark.slow
def test_an_address_where_something_else_answers_is_refused(tmp_path: Path, start: Start) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        process = script(start, tmp_path, epochs=3, address=f"127.0.0.1:{other.getsockname()[1]}")
        _, error = process.communicate(timeout=90)
    assert "ResourceError" in error.splitlines()[-1]
