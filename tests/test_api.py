"""The Python API: the examples of its documentation, and what it promises beside the command line."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import buildup
from buildup.engine import final, search
from buildup.settings import RunSettings, SearchSettings
from buildup.statistics.judges import PointJudge
from buildup.store.run_record import open_record, save_record, save_status
from buildup.training.recipe import shipped_recipes
from buildup.trials.decision import Decision, Verdict
from local_workers import LocalWorkers

QUICK: dict[str, Any] = {
    "fraction": "1/8",
    "epochs": 1,
    "image_size": 10,
    "seeds": 2,
    "judge": "point",
    "allow_weak_base": True,
    "execution": "float32,channels-first,eager",
}


@pytest.fixture(scope="module")
def told() -> list[object]:
    return []


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, told: list[object]) -> buildup.Run:
    """One small search, which all tests look at. The notebook of the documentation makes it with Ray's workers."""
    folder = tmp_path_factory.mktemp("runs") / "demo"
    recipe = folder.with_name("few-steps.yaml")
    recipe.write_text(shipped_recipes()["quick"].read_text().replace("min_steps: 32", "min_steps: 1"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(search, "start_workers", LocalWorkers)
        patched.setattr("buildup.models.export._check", lambda *_: None)
        return buildup.search(
            "test_resnet", "digits", run=str(folder), recipe=str(recipe), on_event=told.append, **QUICK
        )


def test_a_search_gives_its_run_back_when_it_is_done(run: buildup.Run) -> None:
    assert run.status == "finished"
    assert run.base.layout == "CC|CC|CC"
    assert run.decisions == run.history.decisions
    assert run.winner in run.candidates
    assert (run.gain is not None) == any(decision.kept and decision.level for decision in run.decisions)
    assert run.winner.network.graph.number_of_nodes() == 8
    assert (run.folder / "run.yaml").is_file()


def test_each_event_and_decision_is_handed_to_the_callback(run: buildup.Run, told: list[object]) -> None:
    assert [item for item in told if isinstance(item, Decision)] == list(run.decisions)
    assert len(told) > len(run.decisions) + 2 * len(run.history.outcomes)


def test_the_study_is_optunas(run: buildup.Run) -> None:
    assert run.study.study_name == run.folder.name
    # A training that was stopped because a verdict fell without it is a trial, too, but no outcome.
    ended = [trial for trial in run.study.trials if trial.user_attrs.get("outcome") != "unneeded"]
    assert len(ended) == len(run.history.outcomes)
    assert len(run.trials_dataframe()) == len(run.study.trials)


def test_a_trained_network_of_any_candidate_is_given_out(run: buildup.Run) -> None:
    base = run.model(candidate=0)
    assert not base.training
    with torch.no_grad():
        assert base(torch.zeros(1, 1, 10, 10)).shape == (1, 10)
    assert run.model().state_dict().keys() == run.model(candidate=run.winner.layout).state_dict().keys()


@pytest.mark.usefixtures("unchecked_export")
def test_a_run_is_exported_reported_and_shown(run: buildup.Run, tmp_path: Path) -> None:
    assert (run.export(tmp_path / "out") / "model.safetensors").is_file()
    page = run.report()
    assert isinstance(page, Path)
    assert run.winner.layout in page.read_text(encoding="utf-8")
    assert run.winner.layout in str(run.report("md")).replace("\\|", "|")
    assert "<svg" in run._repr_html_()
    assert "finished" in repr(run)


def test_a_finished_run_is_resumed_without_a_training(run: buildup.Run) -> None:
    before = len(run.study.trials)
    assert buildup.open_run(run.folder).resume().status == "finished"
    assert len(run.study.trials) == before


def test_what_another_process_does_to_a_run_is_seen(run: buildup.Run) -> None:
    known = open_record(str(run.folder))
    save_status(known, "failed", "a worker died")
    assert run.status == "failed"
    assert "failed" in repr(run)
    save_record(known)
    assert run.status == "finished"


def test_a_plan_trains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = buildup.plan("test_resnet", "digits", **QUICK)
    assert plan.candidates[0].layout == "CC|CC|CC"
    assert plan.expected.seconds > 0
    assert not any(tmp_path.iterdir())


def test_a_network_is_read_edited_and_built() -> None:
    network = buildup.read("resnet50", input_size=32)
    edited = network.replace("layer4.2", "M")
    model = buildup.build(edited)
    with torch.no_grad():
        assert model.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 1000)
    assert type(model.get_submodule("layer4.2")) is not type(buildup.build(network).get_submodule("layer4.2"))


PAGE = Path(buildup.__file__).parents[1] / "docs" / "python.md"
SMALLER = {
    '"resnet18", "digits", epochs=6, seeds=2, run="small"': '"test_resnet", "digits", run="small", **QUICK',
    '"resnet50", "cifar100"': '"test_resnet", "digits", **QUICK',
    "resume(seeds=4)": "resume(seeds=3)",
    "final(seeds=5)": "final(seeds=3)",
}
"""What the examples of the documentation say, and what a test can train in seconds."""


@pytest.mark.usefixtures("unchecked_export")
def test_the_examples_of_the_documentation_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for engine in (search, final):
        monkeypatch.setattr(engine, "start_workers", LocalWorkers)
    kept = Verdict(verdict="keep", gain=1.0, ci=(1.0, 1.0), level=0.0, reason="kept: so that there is a winner")
    monkeypatch.setattr(PointJudge, "judge", lambda *_, **__: kept)
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL))
    assert all(f"buildup.{name}" in PAGE.read_text(encoding="utf-8") for name in buildup.__all__ if name[0] != "_")
    for told, small in SMALLER.items():
        assert told in code
        code = code.replace(told, small)
    names: dict[str, Any] = {"QUICK": QUICK}
    exec(compile(code, PAGE.name, "exec"), names)
    claim = buildup.open_run("small").claim
    assert claim is not None
    assert {len(one.scores) for one in claim.contenders} == {3}
    assert (tmp_path / "alternet" / "model.safetensors").is_file()
    assert "resnet50" in capsys.readouterr().out  # a close name of resnet5


def test_wrong_settings_are_refused_all_at_once() -> None:
    with pytest.raises(buildup.RequestError) as refused:
        buildup.plan("resnet5", "digit", epochs=0, judge="liked")
    assert len(refused.value.problems) == 4
    with pytest.raises(buildup.RequestError, match="did you mean 'epochs'"):
        buildup.plan("resnet18", "digits", epoch=3)
    with pytest.raises(buildup.RequestError, match="--epochs many"):
        buildup.plan("resnet18", "digits", epochs="many")


def test_the_settings_are_the_keys_of_run_yaml(run: buildup.Run) -> None:
    asked = set(SearchSettings.__dataclass_fields__)
    assert asked < set(RunSettings.__dataclass_fields__)
    text = (run.folder / "run.yaml").read_text(encoding="utf-8")
    assert all(f"\n  {name}:" in text for name in asked)


def test_importing_it_is_light() -> None:
    code = (
        "import sys, time; began = time.process_time(); import buildup; taken = time.process_time() - began;"
        "import json; print(json.dumps([taken, [n for n in ('torch', 'ray', 'optuna', 'timm') if n in sys.modules]]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    taken, heavy = json.loads(done.stdout)
    assert heavy == []
    assert taken < 0.1


def test_all_promised_names_are_there() -> None:
    assert all(getattr(buildup, name) is not None for name in buildup.__all__)
    assert buildup.__all__ == sorted(buildup.__all__)
