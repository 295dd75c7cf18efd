"""What tests of many parts use. Fixtures import what they need themselves: most tests need neither a run nor torch."""

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from buildup.store.run_record import RunRecord

# Workers of Ray have a niceness of 15, so tests on Ray would wait for those of the other processes.
os.environ.setdefault("RAY_worker_niceness", "0")
# A machine that does other work may pause any example, which says nothing about the code.
settings.register_profile("buildup", deadline=None)
settings.load_profile("buildup")

MakeRun = Callable[..., "RunRecord"]
ON_RAY = ("execution/test_ray_tune.py", "execution/test_ray_cluster.py", "engine/test_search.py")
"""Files with a Ray cluster of their own. One process runs them one after the other: several clusters that start at once
on two cores keep each other waiting for half a minute."""
LONG = (
    "test_ray_tune.py",
    "test_ray_cluster.py",
    "test_search.py",
    "test_api.py",
    "test_final.py",
    "test_simulated_cluster.py",
    "test_simulated.py",
    "test_old_run.py",
    "test_extending.py",
)
"""Files that take longest. They begin first, so that no worker is left with one of them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path.name, len(LONG)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler.loadfile import LoadFileScheduling

    class ByFile(LoadFileScheduling):  # type: ignore[misc]
        """A process gets the tests of a file, or all those on Ray."""

        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "on Ray" if file.endswith(ON_RAY) else file

    return ByFile(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(scope="session")
def make_run() -> MakeRun:
    """Makes the record of a run.

    It takes the run's folder, settings that are not the usual ones by their names, other parts as a whole by theirs,
    and in `data` what is unusual of the dataset.
    """
    from buildup.graph.network import sketch
    from buildup.settings import RunSettings
    from buildup.space.load import load
    from buildup.store.run_record import DataRecord, RunRecord, environment
    from buildup.training.recipe import load_recipe

    def make_run(folder: Path, **changes: Any) -> RunRecord:
        parts: dict[str, Any] = {
            "space": load("alternet"),
            "recipe": load_recipe("quick"),
            "network": sketch("CC|CC"),
            "environment": environment("cpu"),
            "status": "running",
        }
        data: dict[str, Any] = {"name": "digits", "hash": "ab" * 32, "train_images": 1150, "val_images": 287}
        data |= {"num_classes": 10, "mean": (0.5,), "std": (0.5,), "image_size": 16, "channels": 1}
        settings: dict[str, Any] = {"base": "resnet18", "dataset": "digits", "image_size": 16, "epochs": 2, "seeds": 1}
        settings |= {"judge": "point", "workers": 1, "threads": 1, "device": "cpu"}
        return RunRecord(
            folder=folder,
            data=DataRecord(**data | changes.pop("data", {})),
            **{name: changes.pop(name, usual) for name, usual in parts.items()},
            settings=RunSettings(**settings | changes),
        )

    return make_run


@pytest.fixture(scope="session")
def tried(make_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that stopped after two verdicts, with scores from a table and weights as they are drawn.

    Each M gains half a point, but for the one that is tried second. The first seed is 3, so that the validation images
    are not those of seed 0.
    """
    from safetensors.torch import save_file

    from buildup.engine.graph_cache import costs_of
    from buildup.engine.load_state import replay_of
    from buildup.engine.loop import run_loop as run_loop
    from buildup.execution.simulated import ScoreRow, SimulatedEvaluator
    from buildup.models.build import build
    from buildup.models.read import read_network
    from buildup.store.run_record import create_run_dir
    from buildup.store.study_writer import StudyWriter
    from buildup.training.data import load_data
    from buildup.training.recipe import load_recipe
    from buildup.trials.history import History

    class Scores(dict[str, ScoreRow]):
        def get(self, layout: str, default: object = None) -> ScoreRow:
            return ScoreRow(score=80 + layout.count("M") / 2 - 3 * (layout == "CC|CC|CCCCCM|CM"))

    def enough(history: History) -> str | None:
        return "enough" if len(history.decisions) == 2 else None

    folder = tmp_path_factory.mktemp("runs") / "tried"
    network = read_network("lcnet_035", input_shape=(1, 16, 16), num_classes=10, stem="small")
    data = load_data("digits")
    run = make_run(
        folder,
        base="lcnet_035",
        epochs=1,
        fraction="1/4",
        seed=3,
        recipe=load_recipe("quick").resolved(train_images=287),
        data={"hash": data.hash},
        network=network,
        status="finished",
    )
    create_run_dir(run)
    writer = StudyWriter.create(
        folder=folder, storage_url=None, study_name=run.study_name, base=network, costs=costs_of
    )
    steps, evaluator = replay_of(run), SimulatedEvaluator(table=Scores())
    view, _ = run_loop(steps, evaluator, writer, writer.history, limit=enough)
    writer.close()
    for candidate in view.candidates[:3]:
        attempt = folder / "trainings" / f"{candidate.id}-s3" / "attempt-1"
        attempt.mkdir(parents=True)
        save_file(build(candidate.network, seed=3).state_dict(), attempt / "weights.safetensors")
    return folder


@pytest.fixture
def unchecked_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports are not loaded in a process of their own, which takes seconds; tests/models/test_export.py is on that."""
    monkeypatch.setattr("buildup.models.export._check", lambda *_: None)


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[Any]]]:
    """Starts processes; what still runs when the test ends, passed or failed, is killed."""
    processes: list[subprocess.Popen[Any]] = []

    def start(command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        processes.append(subprocess.Popen(command, **options))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
