"""What a request becomes on the machine where it is made."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from buildup.engine.hardware import cluster_address
from buildup.engine.request import resolve
from buildup.engine.setup import job_maker
from buildup.errors import RequestError
from buildup.graph.network import Network, sketch
from buildup.settings import SearchSettings, problems_of
from buildup.store.run_record import RunRecord
from buildup.training.execution_words import Execution
from buildup.training.recipe import Recipe
from buildup.training.speed import Speed
from buildup.trials.objective import ACCURACY, OBJECTIVES
from buildup.trials.training import Candidate, Training
from fake_cuda import fake_cuda


@pytest.mark.parametrize(
    ("asked", "environment", "before", "expected"),
    [
        (None, None, None, None),
        (None, None, "10.0.0.1:6379", "10.0.0.1:6379"),
        (None, "10.0.0.2:6379", "10.0.0.1:6379", "10.0.0.2:6379"),
        ("10.0.0.3:6379", "10.0.0.2:6379", "10.0.0.1:6379", "10.0.0.3:6379"),
        ("local", "10.0.0.2:6379", "10.0.0.1:6379", None),
        (None, "local", "10.0.0.1:6379", None),
    ],
)
def test_a_cluster_is_the_one_asked_for_or_that_of_the_environment_or_the_former(
    asked: str | None,
    environment: str | None,
    before: str | None,
    expected: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if environment:
        monkeypatch.setenv("RAY_ADDRESS", environment)
    assert cluster_address(asked, before) == expected


def test_a_search_takes_the_cluster_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(RequestError, match="nothing answers there"):
        resolve(SearchSettings(base="resnet6", dataset="digits", run="never-made"))
    here = resolve(SearchSettings(base="resnet6", dataset="digits", run="never-made", ray="local"))
    assert here.settings.ray is None


def test_workers_read_the_data_where_the_driver_does(
    make_run: Callable[..., RunRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(candidate=Candidate(network=sketch("CC|CC")), seed=0)
    monkeypatch.setenv("BUILDUP_DATA", "sets")
    given = [
        job_maker(make_run(tmp_path, data_dir=data_dir))(training, tmp_path, ()).data_dir
        for data_dir in (None, "/elsewhere")
    ]
    assert given == [os.path.abspath("sets"), "/elsewhere"]


def test_a_recorded_run_gives_its_recipe_and_space_whatever_their_files_say_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_run: Callable[..., RunRecord]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("extends: quick\nlr: 0.3\n")
    Path("space.yaml").write_text("description: mine\nstep: 1\n")
    settings = SearchSettings(base="resnet6", dataset="digits", recipe="mine.yaml", space="./space.yaml")
    before = resolve(settings)
    assert (before.settings.recipe, before.settings.space) == (
        str(tmp_path / "mine.yaml"),
        str(tmp_path / "space.yaml"),
    )
    run = make_run(tmp_path / "run", recipe=before.recipe.resolved(train_images=1150), space=before.space)
    Path("mine.yaml").write_text("extends: quick\nlr: 0.001\n")
    Path("space.yaml").unlink()
    again = resolve(settings, recorded=run)
    assert (again.recipe.resolved(train_images=1150), again.space) == (run.recipe, run.space)


def test_cpus_may_be_reserved_apart_from_the_threads() -> None:
    settings = SearchSettings(base="resnet6", dataset="digits", run="never-made", ray="local")
    assert resolve(settings).settings.cpus_per_trial is None
    shared = SearchSettings(base="resnet6", dataset="digits", run="never-made", ray="local", cpus_per_trial=0.5)
    assert resolve(shared).settings.cpus_per_trial == 0.5


@pytest.mark.parametrize(
    ("asked", "kept", "folder"),
    [
        ("resnet10t(channels=[8,8,8,16])", "resnet10t(channels=[8, 8, 8, 16])", "resnet10t-channels-8-8-8-16-digits"),
        ("resnet6(stem_chs=4)", "resnet6(stem_chs=4)", "resnet6-stem_chs-4-digits"),
    ],
)
def test_arguments_of_the_base_are_settings_of_the_run(asked: str, kept: str, folder: str) -> None:
    request = resolve(SearchSettings(base=asked, dataset="digits", ray="local"))
    assert request.settings.base == kept
    assert request.folder == Path("runs") / folder
    again = resolve(SearchSettings(base=kept, dataset="digits", ray="local"))
    assert again.network == request.network


def test_gpus_of_a_training_become_a_share_of_memory_or_processes(
    make_run: Callable[..., RunRecord], tmp_path: Path
) -> None:
    training = Training(candidate=Candidate(network=sketch("CC|CC")), seed=0)
    jobs = [
        job_maker(make_run(tmp_path, gpus_per_trial=gpus))(training, tmp_path, ()) for gpus in (0.0, 0.25, 1.0, 2.0)
    ]
    assert [(job.device_share, job.processes) for job in jobs] == [(1.0, 1), (0.25, 1), (1.0, 1), (1.0, 2)]


def test_compiling_is_weighed_over_all_trainings_of_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not over the one that is measured: compiled blocks stay in the worker."""
    given: list[dict[str, Any]] = []

    def measured(network: Network, recipe: Recipe, **asked: Any) -> tuple[Speed, ...]:
        given.append(asked)
        return (Speed(execution=Execution(), train=1.0, evaluate=0.5, preparation=0.0),)

    monkeypatch.setattr("buildup.engine.request.choose_execution", measured)
    asked = SearchSettings(base="resnet6", dataset="digits", run="never-made", ray="local", gpus_per_trial=0.5)
    with fake_cuda():
        for seeds in (1, 3):
            resolve(replace(asked, seeds=seeds))
    assert given[1]["steps"] == 3 * given[0]["steps"]
    assert given[0]["steps"] == 2 * 14 * 32  # base and candidate, by `quick`
    assert [one["share"] for one in given] == [0.5, 0.5]


def test_steps_on_several_gpus_are_eager_and_measured_with_the_part_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []

    def measured(network: Network, recipe: Recipe, *, settled: dict[str, Any], **given: Any) -> tuple[Speed, ...]:
        batches.append(recipe.batch_size)
        return (Speed(execution=Execution(**settled), train=1.0, evaluate=0.5, preparation=0.0),)

    monkeypatch.setattr("buildup.engine.request.choose_execution", measured)
    asked = SearchSettings(base="resnet6", dataset="digits", run="never-made", ray="local", gpus_per_trial=2.0)
    with fake_cuda(4):
        found = resolve(asked)
        assert (found.settings.workers, found.settings.device, batches) == (2, "cuda", [18])
        assert found.settings.execution.endswith("eager")
        assert (found.speeds[0].train, found.speeds[0].evaluate) == (0.5, 0.25)
        for changes, said in (
            ({"gpus_per_trial": 1.5}, "a share of one GPU, or a whole number of them"),
            ({"device": "cuda:1"}, "--device cuda:1: Ray chooses the GPU of each training. Use --device cuda, after"),
            ({"device": "cuda:1", "gpus_per_trial": 0.5}, "`export CUDA_VISIBLE_DEVICES=1`"),
            ({"gpus_per_trial": 0.0, "device": "cuda"}, "--gpus-per-trial 0: the device is cuda. Leave it out"),
            ({"execution": "captured"}, "steps on 2 GPUs are eager, not captured"),
            ({"gpus_per_trial": 64.0}, "64 GPUs a training: each needs 2 images of a batch, and the smallest"),
        ):
            with pytest.raises(RequestError, match=said):
                resolve(replace(asked, **changes))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"reuse": "no"}, "--reuse no: true or false is needed"),
        ({"look_ahead": 2}, "--look-ahead 2: true or false is needed"),
        ({"set": [3]}, r"--set \[3\]: a list of texts is needed"),
        ({"space": None, "base": sketch("CC")}, "(?s)--base Network: a text is needed.*--space None: a text is needed"),
        ({"time_budget": "20000d"}, "--time-budget 20000d: at most 1,000,000,000 seconds"),
        ({"set": ("epochs=200000",)}, "--epochs 200000: a whole number from 1 to 100,000 is needed"),
    ],
)
def test_what_a_script_may_not_give_is_refused_before_anything_is_written(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        resolve(SearchSettings(**({"base": "test_resnet", "dataset": "digits"} | wrong)))


def test_paths_and_numbers_of_numpy_are_what_they_stand_for(tmp_path: Path) -> None:
    given: dict[str, Any] = {"run": tmp_path / "one", "seeds": np.int64(3), "epochs": np.int32(2)}
    found = resolve(SearchSettings(base="test_resnet", dataset="digits", execution="float32,eager", **given))
    assert (found.folder, found.settings.run) == (tmp_path / "one", str(tmp_path / "one"))
    assert (found.settings.seeds, found.settings.epochs) == (3, 2)
    assert not list(problems_of(vars(found.settings)))


def test_an_objective_that_nothing_measures_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OBJECTIVES._members, "sharpness", replace(ACCURACY, name="sharpness"))
    with pytest.raises(RequestError, match="--objective sharpness: no metric has this name"):
        resolve(SearchSettings(base="test_resnet", dataset="digits", objective="sharpness"))
