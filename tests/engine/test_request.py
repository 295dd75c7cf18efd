"""What a request becomes on the machine where it is made."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from buildup.engine.request import cluster_address, resolve
from buildup.engine.setup import job_maker
from buildup.errors import RequestError
from buildup.graph.network import sketch
from buildup.settings import SearchSettings
from buildup.store.run_record import RunRecord
from buildup.trials.training import Candidate, Training


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
