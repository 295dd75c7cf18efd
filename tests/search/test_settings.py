from dataclasses import asdict
from typing import Any

import pytest

from buildup.search.settings import Settings, settings_from_values, settings_to_values
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


@pytest.mark.parametrize("removed", [{"prior": "none"}, {"prior": "lesion"}])
def test_a_removed_setting_that_no_verdict_stood_on_is_left_out(removed: dict[str, Any]) -> None:
    values = {**settings_to_values(SETTINGS), **removed}
    assert settings_from_values(values) == SETTINGS


def test_a_setting_that_never_was_is_no_setting() -> None:
    with pytest.raises(TypeError, match="priors"):
        settings_from_values({**asdict(SETTINGS), "priors": "none"})
