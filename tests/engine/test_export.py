"""What a report and a model card tell of a run, and what they keep to themselves."""

import stat
from collections.abc import Callable
from pathlib import Path

from buildup.engine.replay import View
from buildup.engine.reports import findings_of
from buildup.report.card import model_card
from buildup.report.page import markdown, page
from buildup.store.run_record import RunRecord, open_record, save_record
from buildup.trials.history import History
from buildup.trials.outcome import Score
from buildup.trials.training import Candidate

STORAGE = "postgresql://team:secret@db.local/studies"


def test_the_password_of_a_storage_stays_in_the_run_folder(make_run: Callable[..., RunRecord], tmp_path: Path) -> None:
    run = make_run(tmp_path, storage=STORAGE)
    base = Candidate(network=run.network)
    view = View(decisions=(), best=base, current=None, needed=(), candidates=(base,))
    findings = findings_of(run, view, History(), costs=lambda candidate: (1, 1))
    for text in (page(findings), markdown(findings), model_card(findings, base.network, Score(accuracy=50.0))):
        assert "secret" not in text
    assert "db.local" in page(findings)


def test_a_run_file_that_holds_a_password_is_for_its_owner_alone(
    make_run: Callable[..., RunRecord], tmp_path: Path
) -> None:
    run = make_run(tmp_path, storage=STORAGE)
    save_record(run)
    assert stat.S_IMODE((tmp_path / "run.yaml").stat().st_mode) == 0o600
    assert open_record(str(tmp_path)).settings == run.settings
