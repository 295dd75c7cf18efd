"""What is refused when a run is read."""

from collections.abc import Callable
from pathlib import Path

import pytest

from buildup.engine.load_state import check_splits
from buildup.errors import RunError
from buildup.store.run_record import RunRecord
from buildup.trials.history import History
from buildup.trials.outcome import Score
from buildup.trials.training import training_id


def test_seeds_of_an_old_run_that_validated_on_other_images_are_refused_by_name(
    make_run: Callable[..., RunRecord], tmp_path: Path
) -> None:
    shared, own = Score(accuracy=80.0), Score(accuracy=81.0, validated=b"\x0f")
    history = History().with_outcome(training_id("ab", 0), shared).with_outcome(training_id("ab", 1), own)
    with pytest.raises(RunError, match=r"split by seed 3\), but those of ab-s1 have .* start a new search"):
        check_splits(make_run(tmp_path, data={"split_seed": 3}), history)
    check_splits(make_run(tmp_path, data={"split_seed": None}), history)
    check_splits(make_run(tmp_path, data={"split_seed": 3}), History().with_outcome(training_id("ab", 0), shared))
