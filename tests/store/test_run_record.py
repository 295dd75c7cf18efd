"""`run.yaml`: what is written down is read back, also what version 0.1.0 wrote."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml

from buildup.errors import RunError
from buildup.settings import RunSettings
from buildup.store.run_record import REMOVED, RunRecord, create_run_dir, open_record, settings_from_values

MakeRun = Callable[..., RunRecord]
SETTINGS = RunSettings(base="sketch", dataset="digits", image_size=16, epochs=10, judge="point", workers=1, threads=1)


def test_a_run_that_was_written_down_is_read_back(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", look_ahead=True, time_budget=90.0, pretrained="file", pretrained_hash="ab")
    create_run_dir(run)
    assert open_record(str(run.folder)) == run


def test_each_part_of_a_run_has_a_place_of_its_own_in_a_storage(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(tmp_path / "demo", storage_path="s3://KEY:SECRET@bucket/runs?region=eu-central-1")
    final = replace(run, folder=run.folder / "final", owner="demo")
    longer = replace(run, settings=replace(run.settings, epochs=9), earlier=({"epochs": 2},))
    places = [str(one.remote_trainings) for one in (run, final, longer)]
    assert places == [
        f"s3://bucket/runs/{end}" for end in ("demo/trainings", "demo-final/trainings", "demo/trainings-9")
    ]
    assert run.remote_trainings is not None
    assert run.remote_trainings.url == "s3://KEY:SECRET@bucket/runs/demo/trainings?region=eu-central-1"
    create_run_dir(run)
    assert (run.folder / "run.yaml").stat().st_mode & 0o77 == 0
    assert make_run(tmp_path / "other").remote_trainings is None


def test_settings_that_were_written_down_are_read_back() -> None:
    assert settings_from_values(asdict(SETTINGS)) == SETTINGS


def test_settings_that_version_0_1_0_wrote_are_read() -> None:
    execution = {"precision": "bf16", "channels_last": True, "steps": "eager", "deterministic": False}
    values = {**asdict(SETTINGS), "execution": execution, "pretrained": {"source": "file", "hash": "ab"}}
    del values["pretrained_hash"]
    settings = settings_from_values(values)
    assert settings.execution == "bf16,channels-last,eager"
    assert (settings.pretrained, settings.pretrained_hash) == ("file", "ab")


@pytest.mark.parametrize(
    ("name", "value", "needed"),
    [
        ("workers", -3, "a whole number from 1 to 100,000"),
        ("workers", 2.5, "a whole number from 1 to 100,000"),
        ("workers", True, "a whole number from 1 to 100,000"),
        ("workers", None, "a whole number from 1 to 100,000"),
        ("seeds", "three", "a whole number from 1 to 1,000"),
        ("gpus_per_trial", -0.5, "a number from 0 to 1,024"),
        ("time_budget", float("nan"), "a number from 0 to 1,000,000,000"),
        ("look_ahead", "no", "true or false"),
        ("base", 18, "a text"),
    ],
)
def test_a_wrong_value_is_named_with_its_file_and_what_would_be_right(
    make_run: MakeRun, tmp_path: Path, name: str, value: object, needed: str
) -> None:
    create_run_dir(make_run(tmp_path / "run"))
    path = tmp_path / "run" / "run.yaml"
    values = yaml.safe_load(path.read_text())
    values["settings"][name] = value
    values["settings"]["threads"] = 0
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(RunError) as refused:
        open_record(str(tmp_path / "run"))
    assert f"{path}: settings: {name} is {value!r}; {needed} is needed." in refused.value.problems
    assert f"{path}: settings: threads is 0; a whole number from 1 to 4,096 is needed." in refused.value.problems


def test_a_run_that_another_search_began_meanwhile_is_left_alone(make_run: MakeRun, tmp_path: Path) -> None:
    create_run_dir(make_run(tmp_path / "run", seed=1))
    with pytest.raises(RunError, match="exists already"):
        create_run_dir(make_run(tmp_path / "run", seed=2))
    assert open_record(str(tmp_path / "run")).settings.seed == 1


def test_a_removed_setting_that_a_run_did_not_use_is_left_out() -> None:
    assert settings_from_values({**asdict(SETTINGS), **REMOVED, "prior": "lesion"}) == SETTINGS


def test_a_run_that_used_a_removed_setting_is_refused_by_name(make_run: MakeRun, tmp_path: Path) -> None:
    create_run_dir(make_run(tmp_path / "old"))
    path = tmp_path / "old" / "run.yaml"
    values = yaml.safe_load(path.read_text())
    values["settings"]["inherit"] = 0.3
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(RunError, match="this run used inherit, which was removed") as refused:
        open_record(str(tmp_path / "old"))
    assert str(path) in str(refused.value)
    assert "damaged" not in str(refused.value)


def test_a_renamed_run_keeps_its_study_and_a_copy_never_writes_into_that_of_its_original(
    make_run: MakeRun, tmp_path: Path
) -> None:
    assert make_run(tmp_path / "other", run="demo").study_name == "demo"
    assert make_run(tmp_path / "other", run="runs/demo").study_name == "demo"
    assert make_run(tmp_path / "other").study_name == "other"
    assert make_run(tmp_path / "other", run="demo", storage="sqlite:///shared.db").study_name == "other"
    assert replace(make_run(tmp_path / "final", run="demo"), owner="demo").study_name == "demo-final"
