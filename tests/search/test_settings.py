from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from buildup.errors import RunError
from buildup.graph.network import sketch
from buildup.search.folder import Run, create, open_run
from buildup.search.settings import Settings, settings_from_values, settings_to_values
from buildup.space.schema import SearchSpace
from buildup.training.execution import Execution

SETTINGS = Settings(
    base="resnet18",
    dataset="digits",
    image_size=16,
    space="alternet",
    recipe="quick",
    epochs=4,
    seeds=2,
    strategy="alternet",
    judge="likely",
    workers=1,
    threads=1,
    device="cpu",
    execution=Execution(),
    fraction="1",
    seed=0,
)


@pytest.mark.parametrize("removed", [{"prior": "none"}, {"prior": "lesion"}, {"early_drop": None}])
def test_a_removed_setting_that_no_verdict_stands_on_is_left_out(removed: dict[str, Any]) -> None:
    values = {**settings_to_values(SETTINGS), **removed}
    assert settings_from_values(values) == SETTINGS


def test_a_run_whose_verdicts_stand_on_a_removed_setting_is_refused_with_what_reads_it(tmp_path: Path) -> None:
    run = Run(
        folder=tmp_path / "run",
        settings=SETTINGS,
        space=SearchSpace(name="test", description=""),
        recipe={},
        data={},
        network=sketch("CC|CC"),
        environment={},
    )
    create(run)
    path = run.folder / "run.yaml"
    text = path.read_text()
    path.write_text(text.replace("settings:\n", "settings:\n  early_drop: null\n  prior: none\n"))
    assert open_run(str(run.folder)) == run
    path.write_text(text.replace("settings:\n", "settings:\n  early_drop: 0.05\n  prior: none\n"))
    with pytest.raises(
        RunError, match=r"run\.yaml: .* --early-drop 0\.05, which was removed.*Version 0\.1\.0 reads it"
    ):
        open_run(str(run.folder))


def test_a_setting_that_never_was_is_no_setting() -> None:
    with pytest.raises(TypeError, match="priors"):
        settings_from_values({**asdict(SETTINGS), "priors": "none"})
