"""What a report and a model card tell of a run, and what they keep to themselves."""

import random
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from buildup.engine.export import best_training
from buildup.engine.replay import View
from buildup.engine.reports import findings_of
from buildup.report.card import model_card
from buildup.report.page import markdown, page
from buildup.store.run_record import RunRecord, open_record, save_record
from buildup.trials.history import History
from buildup.trials.outcome import Score
from buildup.trials.training import Candidate, check_id, training_id

STORAGE = "postgresql://team:secret@db.local/studies"


def test_the_password_of_a_storage_stays_in_the_run_folder(make_run: Callable[..., RunRecord], tmp_path: Path) -> None:
    run = make_run(tmp_path / "demo", storage=STORAGE, storage_path="s3://key:secret@bucket/runs?region=here")
    base = Candidate(network=run.network)
    view = View(decisions=(), best=base, current=None, needed=(), candidates=(base,))
    findings = findings_of(run, view, History(), costs=lambda candidate: (1, 1))
    for text in (page(findings), markdown(findings), model_card(findings, base.network, Score(accuracy=50.0))):
        assert "secret" not in text
    assert "db.local" in page(findings)
    assert "s3://bucket/runs/demo/trainings" in page(findings)


def test_a_run_file_that_holds_a_password_is_for_its_owner_alone(
    make_run: Callable[..., RunRecord], tmp_path: Path
) -> None:
    run = make_run(tmp_path, storage=STORAGE)
    save_record(run)
    assert stat.S_IMODE((tmp_path / "run.yaml").stat().st_mode) == 0o600
    assert open_record(str(tmp_path)).settings == run.settings


@pytest.mark.parametrize("objective", ["accuracy", "nll"])
def test_the_exported_training_is_the_best_of_all_seeds_not_only_of_the_first_look(
    make_run: Callable[..., RunRecord], tmp_path: Path, objective: str
) -> None:
    run = make_run(tmp_path, seed=3, seeds=2, judge="likely", objective=objective)
    base, draw = Candidate(network=run.network), random.Random(0)
    for best in range(3, 3 + 8):
        seeds = list(range(3, 3 + 8))
        draw.shuffle(seeds)  # trainings end in any order
        history = History()
        for seed in seeds:
            value = 60.0 + 10 * (seed == best)
            score = Score(accuracy=value, metrics={"nll": 1 - value / 100})
            history = history.with_outcome(training_id(base.id, seed), score)
        # A longer training of the base is none of its seeds.
        history = history.with_outcome(
            training_id(check_id(base.id, "longer"), 3), Score(accuracy=99.0, metrics={"nll": 0.0})
        )
        key, score = best_training(run, history, base)
        assert (key, score.accuracy) == (training_id(base.id, best), 70.0)
