"""What a report and a model card tell of a run, and what they keep to themselves."""

import stat
from pathlib import Path

from buildup.engine.export import findings_of
from buildup.engine.replay import View
from buildup.graph.network import sketch
from buildup.report.card import model_card
from buildup.report.page import markdown, page
from buildup.settings import RunSettings
from buildup.space.load import load
from buildup.store.run_record import RunRecord, environment, open_run, save
from buildup.trials.history import History
from buildup.trials.outcome import Score
from buildup.trials.training import Candidate

SETTINGS = RunSettings(
    base="resnet18",
    dataset="digits",
    image_size=16,
    space="alternet",
    recipe="quick",
    epochs=2,
    seeds=1,
    strategy="alternet",
    judge="point",
    workers=1,
    threads=1,
    device="cpu",
    fraction="1",
    seed=0,
    storage="postgresql://team:secret@db.local/studies",
)


def run_in(folder: Path) -> RunRecord:
    return RunRecord(
        folder=folder,
        settings=SETTINGS,
        space=load("alternet"),
        recipe={},
        data={},
        network=sketch("CC|CC"),
        environment=environment("cpu"),
    )


def test_the_password_of_a_storage_stays_in_the_run_folder(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    base = Candidate(network=run.network)
    view = View(decisions=(), best=base, current=None, needed=(), candidates=(base,))
    findings = findings_of(run, view, History(), costs=lambda candidate: (1, 1))
    for text in (page(findings), markdown(findings), model_card(findings, base.network, Score(accuracy=50.0))):
        assert "secret" not in text
    assert "db.local" in page(findings)


def test_a_run_file_that_holds_a_password_is_for_its_owner_alone(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    save(run)
    assert stat.S_IMODE((tmp_path / "run.yaml").stat().st_mode) == 0o600
    assert open_run(str(tmp_path)).settings == SETTINGS
