"""What a report and a model card tell of a run, and what they keep to themselves."""

import random
import shutil
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from huggingface_hub import HfApi, ModelCard
from safetensors.torch import load_file

from buildup.engine.export import best_training, export_candidate, find_candidate, keep_winner
from buildup.engine.load_state import state_of
from buildup.engine.replay import View
from buildup.engine.reports import findings_of
from buildup.errors import RequestError, ResourceError
from buildup.report.card import model_card
from buildup.report.page import markdown, page
from buildup.settings import ExportSettings
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


def test_a_layout_that_several_networks_have_names_none_of_them(
    make_run: Callable[..., RunRecord], tmp_path: Path
) -> None:
    run = make_run(tmp_path / "demo")
    base = Candidate(network=run.network)
    path = run.network.stages[1].blocks[1].path
    wide, narrow = (Candidate(network=run.network.replace(path, "M", window=window), parent=base) for window in (4, 8))
    view = View(decisions=(), best=wide, current=None, needed=(), candidates=(base, wide, narrow))
    assert wide.layout == narrow.layout
    with pytest.raises(RequestError, match=r"several networks have this layout.* 1 \(.*2 \("):
        find_candidate(run, view, wide.layout)
    assert find_candidate(run, view, 2) is narrow
    assert find_candidate(run, view, base.layout) is base


def test_an_export_is_not_removed_for_a_winner_without_weights(
    tried: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = open_record(str(shutil.copytree(tried, tmp_path / "tried")))
    view, history = state_of(run)
    (run.folder / "export").mkdir()
    (run.folder / "export" / "config.json").write_text("the former winner")
    shutil.rmtree(run.trainings / best_training(run, history, view.best)[0])
    assert not keep_winner(run, view, history)
    assert "it is not exported" in caplog.text
    assert (run.folder / "export-0" / "config.json").read_text() == "the former winner"


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, str]]:
    """What was uploaded, by repository: the text of each file that is one."""
    found: dict[str, dict[str, str]] = {}

    def upload(self: object, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
        files = {path.name: path.read_bytes() for path in folder_path.iterdir()}
        found[repo_id] = {name: content.decode("utf-8", errors="replace") for name, content in files.items()}

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda self, repository, exist_ok: None)
    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", upload)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    return found


def test_a_network_is_pushed_with_a_card_that_names_the_repository(
    tried: Path, uploads: dict[str, dict[str, str]], unchecked_export: None
) -> None:
    source = export_candidate(open_record(str(tried)), ExportSettings(candidate=1, push="hf-hub:me"))[1]
    ((repository, files),) = uploads.items()
    assert source == f"hf-hub:{repository}"
    assert repository.startswith("me/alternet-lcnet_035-CC-CC-CCCCCC-CM-")
    assert files.keys() == {
        *(".gitattributes", "README.md", "alternet.py", "config.json", "model.safetensors", "network.svg")
    }
    card: Any = ModelCard(files["README.md"])
    assert f'timm.create_model("{source}", pretrained=True)' in card.text
    assert "](network.svg)" in card.text
    (model,) = yaml.safe_load(files["README.md"].split("---")[1])["model-index"]
    assert model["results"][0]["metrics"][0]["type"] == "accuracy"
    assert "hf_secret" not in "".join(files.values())


def test_a_folder_is_laid_out_like_the_repository_and_loads_from_there(
    tried: Path, tmp_path: Path, uploads: dict[str, dict[str, str]], unchecked_export: None
) -> None:
    run = open_record(str(tried))
    for push in ("hf-hub:me/net", str(tmp_path / "net")):
        source = export_candidate(run, ExportSettings(candidate=1, push=push))[1]
    assert {path.name for path in (tmp_path / "net").iterdir()} == uploads["me/net"].keys()
    weights = timm.create_model(source, pretrained=True).state_dict()
    stored = load_file(tmp_path / "net" / "model.safetensors")
    assert weights.keys() == stored.keys()
    assert all(torch.equal(weights[name], stored[name]) for name in stored)


@pytest.mark.parametrize(
    ("push", "said"),
    [
        ("hf-hub:me/net", "no token"),
        ("hf-hub:a/b/c", "names no repository"),
        ("hf-hub:", "names no repository"),
        ("hf-hub:me/a b", "names no repository"),
        ("net/again", "Name two folders apart"),
        ("net", "Name two folders apart"),
    ],
)
def test_a_push_that_can_not_work_is_refused_before_anything_is_written(
    push: str, said: str, tried: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("buildup.models.publish.get_token", lambda: None)
    with pytest.raises(RequestError, match=said):
        export_candidate(open_record(str(tried)), ExportSettings(candidate=1, push=push, to="net"))
    assert not Path("net").exists()


def test_a_hub_that_does_not_answer_is_an_error_in_words(
    tried: Path, monkeypatch: pytest.MonkeyPatch, unchecked_export: None
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr("buildup.models.publish.HfApi", partial(HfApi, endpoint="http://127.0.0.1:9"))
    with pytest.raises(ResourceError, match="can't be reached"):
        export_candidate(open_record(str(tried)), ExportSettings(candidate=1, push="hf-hub:me/net"))
