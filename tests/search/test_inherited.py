"""A search with inherited weights as it is kept in a run: its study, its jobs, what is said of it."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from buildup.cli import main
from buildup.errors import RunError
from buildup.graph.network import sketch
from buildup.rules.procedure import Procedure, View
from buildup.rules.strategies import procedure_of
from buildup.search.assemble import job_maker
from buildup.search.evaluate import attempt_folder
from buildup.search.folder import Run
from buildup.search.journal import Journal
from buildup.search.loop import Silence, run
from buildup.search.settings import Settings, inheriting, settings_from_values, settings_to_values
from buildup.search.table import Row, TableEvaluator
from buildup.space.load import load
from buildup.space.schema import SearchSpace
from buildup.training.recipe import load_recipe, recipe_to_values
from buildup.trials.history import History
from buildup.trials.training import Training

NETWORK = sketch("CC|CC|CC")
SETTINGS = Settings(
    base="sketch",
    dataset="digits",
    image_size=16,
    space="alternet",
    recipe="quick",
    epochs=10,
    seeds=1,
    strategy="alternet",
    judge="point",
    workers=1,
    threads=1,
    device="cpu",
    fraction="1",
    seed=0,
    inherit=0.3,
)


def searching() -> Procedure:
    return procedure_of(NETWORK, SearchSpace(name="test", description=""), judge="point", seeds=2, inherits=True)


def row(training: Training) -> Row:
    return Row(score=70.0 + {"C": 1, "M": 2}[training.candidate.layout[-1]] - training.candidate.layout.count("M") / 4)


def followed(journal: Journal, limit: Callable[[History], str | None]) -> tuple[View, History]:
    evaluator = TableEvaluator(table=row, workers=2, noise=0.1)
    return run(searching(), evaluator, journal, Silence(), journal.history, lambda _: None, limit)


def test_a_search_that_is_stopped_and_read_back_decides_as_an_undisturbed_one(tmp_path: Path) -> None:
    with closing(
        Journal.create(folder=tmp_path / "whole", storage_url=None, study_name="whole", base=NETWORK)
    ) as journal:
        undisturbed, _ = followed(journal, lambda _: None)
    with closing(
        Journal.create(folder=tmp_path / "stopped", storage_url=None, study_name="stopped", base=NETWORK)
    ) as journal:
        followed(journal, lambda history: "enough" if len(history.outcomes) == 5 else None)
    with closing(
        Journal.open(folder=tmp_path / "stopped", storage_url=None, study_name="stopped", base=NETWORK)
    ) as journal:
        assert len(journal.history.outcomes) == 5
        resumed, history = followed(journal, lambda _: None)
    assert resumed.decisions == undisturbed.decisions
    assert [decision.kept for decision in resumed.decisions] == [True, False, False]
    assert searching().stood_on(resumed) <= history.outcomes.keys()


def test_a_job_begins_with_its_givers_weights_and_has_a_share_of_the_epochs(tmp_path: Path) -> None:
    made = Run(
        folder=tmp_path,
        settings=SETTINGS,
        space=load("alternet"),
        recipe=recipe_to_values(load_recipe("quick").with_epochs(10)),
        data={"hash": "", "split_seed": 0},
        network=NETWORK,
        environment={},
    )
    job, steps = job_maker(made), searching()
    assert steps.rule.first is not None
    base, heir = (Training(candidate=one, seed=4) for one in (steps.base, steps.rule.first.candidate))
    first = job(base, tmp_path / "own", None)
    assert (first.recipe.epochs, first.inherits) == (10, None)
    with pytest.raises(RunError, match="which another training begins with"):
        job(heir, tmp_path / "own", None)
    weights = attempt_folder(made.trainings / base.id, 2) / "weights.safetensors"
    weights.parent.mkdir(parents=True)
    weights.touch()
    second = job(heir, tmp_path / "own", None)
    assert second.recipe.epochs == 3
    assert second.inherits is not None
    assert second.inherits.weights == str(weights)
    assert second.inherits.network is steps.base.network


def test_the_share_is_kept_with_the_settings_and_said_in_words() -> None:
    assert settings_from_values(settings_to_values(SETTINGS)) == SETTINGS
    base = searching().base
    assert (SETTINGS.epochs_of(base), SETTINGS.epochs_of(base.continued)) == (10, 3)
    assert "trained for 10 epochs, candidates for 3 more" in inheriting(SETTINGS)


def test_what_has_no_trained_parent_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["plan", "--base", "resnet18", "--dataset", "digits", "--inherit", "0.3"]
    assert main([*asked, "--strategy", "random"]) == 2
    said = capsys.readouterr().err
    assert "--inherit with --strategy random" in said
    assert main([*asked[:-1], "1.5"]) == 2
    assert "--inherit 1.5: a number from 0.01 to 1" in capsys.readouterr().err
