"""A search without trainings: verdicts from a table of scores, and weights as they are drawn."""

from pathlib import Path

import pytest
from safetensors.torch import save_file

from buildup.engine.load_state import costs_of, replay_of
from buildup.engine.loop import NullObserver
from buildup.engine.loop import run as run_loop
from buildup.execution.simulated import Row, SimulatedEvaluator
from buildup.models.build import build
from buildup.models.read import read
from buildup.settings import RunSettings
from buildup.space.load import load
from buildup.store.run_record import DataRecord, Environment, RunRecord, create
from buildup.store.study_writer import StudyWriter
from buildup.training.data import load_data
from buildup.training.recipe import load_recipe
from buildup.trials.history import History

SEED = 3
"""Of the run, so that its validation images are not those of seed 0."""


class Scores(dict[str, Row]):
    """Each M gains half a point, but for the one that is tried second."""

    def get(self, layout: str, default: object = None) -> Row:
        return Row(score=80 + layout.count("M") / 2 - 3 * (layout == "CC|CC|CCCCCM|CM"))


def enough(history: History) -> str | None:
    """Stops after two verdicts."""
    return "enough" if len(history.decisions) == 2 else None


@pytest.fixture(scope="session")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search whose scores are from a table, and whose weights are as they are drawn."""
    folder = tmp_path_factory.mktemp("runs") / "tried"
    network = read("lcnet_035", input_shape=(1, 16, 16), num_classes=10, stem="small")
    data = load_data("digits")
    settings = RunSettings(
        base="lcnet_035",
        dataset="digits",
        image_size=16,
        space="alternet",
        recipe="quick",
        epochs=1,
        seeds=1,
        strategy="alternet",
        judge="point",
        workers=1,
        threads=1,
        device="cpu",
        fraction="1/4",
        seed=SEED,
    )
    run = RunRecord(
        folder=folder,
        settings=settings,
        space=load("alternet"),
        recipe=load_recipe("quick").resolved(train_images=287),
        data=DataRecord(
            name=data.name,
            hash=data.hash,
            train_images=287,
            val_images=len(data.labels) - 287,
            num_classes=10,
            mean=(0.5,),
            std=(0.5,),
            image_size=16,
            channels=1,
            split_seed=SEED,
        ),
        network=network,
        environment=Environment(created="", python="", system="", processor="", cores=1, device="cpu"),
        status="finished",
    )
    create(run)
    writer = StudyWriter.create(
        folder=folder, storage_url=None, study_name=run.study_name, base=network, costs=costs_of
    )
    steps, evaluator = replay_of(run), SimulatedEvaluator(table=Scores())
    view, _ = run_loop(steps, evaluator, writer, NullObserver(), writer.history, lambda _: None, enough)
    writer.close()
    for candidate in view.candidates[:3]:
        attempt = folder / "trainings" / f"{candidate.id}-s{SEED}" / "attempt-1"
        attempt.mkdir(parents=True)
        save_file(build(candidate.network, seed=SEED).state_dict(), attempt / "weights.safetensors")
    return folder
