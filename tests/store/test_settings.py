from pathlib import Path

import pytest
import yaml

from buildup.errors import RunError
from buildup.graph.network import sketch
from buildup.settings import RunSettings
from buildup.space.load import load
from buildup.store.run_record import (
    REMOVED,
    RunRecord,
    create_run_dir,
    open_record,
    settings_from_values,
    settings_to_values,
)
from buildup.training.recipe import load_recipe, recipe_to_values

SETTINGS = RunSettings(
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
)


def test_settings_that_were_written_down_are_read_back() -> None:
    assert settings_from_values(settings_to_values(SETTINGS)) == SETTINGS


def test_a_removed_setting_that_a_run_did_not_use_is_left_out() -> None:
    assert settings_from_values({**settings_to_values(SETTINGS), **REMOVED, "prior": "lesion"}) == SETTINGS


def test_a_run_that_used_a_removed_setting_is_refused_by_name(tmp_path: Path) -> None:
    create_run_dir(
        RunRecord(
            folder=tmp_path / "old",
            settings=SETTINGS,
            space=load("alternet"),
            recipe=recipe_to_values(load_recipe("quick")),
            data={},
            network=sketch("CC|CC"),
            environment={},
        )
    )
    path = tmp_path / "old" / "run.yaml"
    values = yaml.safe_load(path.read_text())
    values["settings"]["inherit"] = 0.3
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(RunError, match="this run used inherit, which was removed") as refused:
        open_record(str(tmp_path / "old"))
    assert str(path) in str(refused.value)
    assert "damaged" not in str(refused.value)
