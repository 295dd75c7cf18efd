"""`calibrate`: candidates of a run trained the cheap ways, through the real training loop in this process."""

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from buildup.cli import main
from buildup.commands import calibrate as command
from buildup.models.read import read
from buildup.search.assemble import MakeJob, create_journal, job_maker
from buildup.search.calibration import WAYS, choose, inherited, part_of, read_rankings
from buildup.search.evaluate import Ended, Event, attempt
from buildup.search.folder import Run, create, environment, open_run
from buildup.search.loop import Silence
from buildup.search.loop import run as run_loop
from buildup.search.settings import Settings
from buildup.search.state import procedure, state_of
from buildup.space.load import load
from buildup.training.data import describe_data, load_data
from buildup.training.fit import fit
from buildup.training.recipe import load_recipe, recipe_to_values
from buildup.trials.training import Training

SIZE = 12
SETTINGS = Settings(
    base="test_resnet",
    dataset="digits",
    image_size=SIZE,
    space="alternet",
    recipe="quick",
    epochs=4,
    seeds=1,
    strategy="alternet",
    judge="point",
    workers=1,
    threads=1,
    device="cpu",
    fraction="1/4",
    seed=0,
)

TRAINED: list[str] = []
"""The folders in which anything was trained, in order."""


class Local:
    """Trains in this process what Ray's workers would."""

    workers = 1

    def __init__(self, run: Run, job: MakeJob, *, verbose: bool) -> None:
        self._run, self._job = run, job
        self._wanted: Sequence[Training] = ()

    def want(self, wanted: Sequence[Training]) -> None:
        self._wanted = wanted

    def next_event(self, timeout: float | None = None) -> Event | None:
        training = self._wanted[0]
        folder = self._run.trainings / training.id / "attempt-1"
        folder.mkdir(parents=True)
        TRAINED.append(str(folder))
        steps = attempt(fit, self._job(training, folder, None), folder)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return Ended(training=training, record=end.value)

    def close(self) -> None:
        """Nothing is held."""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A whole small search, really trained."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "start_workers", Local)
    TRAINED.clear()
    data, info = load_data("digits", None, SIZE), describe_data("digits", None, SIZE, fraction=0.25)
    made = Run(
        folder=Path("runs") / "small",
        settings=SETTINGS,
        space=load("alternet"),
        recipe=recipe_to_values(replace(load_recipe("quick").with_epochs(4), min_steps=1)),
        data={
            "hash": data.hash,
            "train_images": info.train_images,
            "val_images": info.val_images,
            "num_classes": 10,
            "split_seed": 0,
            "test_set": "not opened",
        },
        network=read("test_resnet", input_shape=(1, SIZE, SIZE), num_classes=10),
        environment=environment("cpu"),
    )
    create(made)
    with closing(create_journal(made)) as journal:
        evaluator = Local(made, job_maker(made), verbose=False)
        run_loop(procedure(made), evaluator, journal, Silence(), journal.history, lambda _: None, lambda _: None)
    return made


@pytest.mark.slow
def test_candidates_are_trained_the_cheap_ways_and_ranked(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "small", "--candidates", "3", "--share", "0.5", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["epochs"] == 2
    assert len(values["candidates"]) == 3
    assert [one["cheap"] for one in values["rankings"]] == ["2 epochs anew", "2 epochs from the parent's weights"]
    assert all(
        one["candidates"] == 3 and -1 <= one["low"] <= one["tau"] <= one["high"] <= 1 for one in values["rankings"]
    )
    assert len(read_rankings(run.folder)) == 2
    for way in WAYS:
        logs = [path.read_text() for path in (run.folder / "calibration" / f"{way}-2").rglob("log.txt")]
        assert logs
        assert all(("begins with the weights of" in log) == (way != "anew") for log in logs)

    trained = len(TRAINED)
    assert main(["calibrate", "small", "--candidates", "3", "--share", "0.5"]) == 0
    assert "2 epochs from the parent's weights" in capsys.readouterr().out
    assert len(TRAINED) == trained, "nothing is trained twice"
    assert main(["report", "small", "--format", "md"]) == 0
    told = capsys.readouterr().out
    assert "2 epochs anew" in told
    assert "epoch 3 of 4" in told


@pytest.mark.slow
def test_an_interrupted_inheriting_training_goes_on_from_its_checkpoint(run: Run) -> None:
    view, history = state_of(run)
    asked = choose(run, view, history, count=3, share=0.5)
    part = part_of(run, "inherited", asked.epochs)
    training = asked.trainings("inherited")[0]
    job = job_maker(part, inherits=lambda one: inherited(run, "inherited", one))
    whole, begun, rest = (part.trainings / name for name in ("whole", "begun", "rest"))
    expected = list(fit(job(training, whole, None)))
    first = fit(job(training, begun, None))
    next(first)
    first.close()
    found = list(fit(job(training, rest, begun)))
    numbers = [[{**one.metrics, "seconds": 0, "throughput": 0} for one in row] for row in (expected, found)]
    assert numbers[0] == numbers[1]


@pytest.mark.slow
def test_runs_that_cannot_be_calibrated_are_refused(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (open_run("small").folder / "trainings").rglob("weights.safetensors"):
        path.unlink()
    assert main(["calibrate", "small", "--candidates", "3", "--share", "0.25"]) == 2
    assert "which another training begins with" in capsys.readouterr().err
    assert main(["calibrate", "small", "--candidates", "2", "--share", "2"]) == 2
    said = capsys.readouterr().err
    assert "--candidates 2" in said
    assert "--share 2" in said
