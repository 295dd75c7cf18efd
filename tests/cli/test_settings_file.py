"""`--from` and `--set`: settings of a run or a file, and what is typed beside them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from buildup.cli.main import COMMANDS, _with_file, flags_of
from buildup.errors import RecipeError, RequestError
from buildup.settings import problems_of
from buildup.store.run_record import RunRecord, create_run_dir, open_record
from buildup.training.recipe import load_recipe
from wrong_request import refused


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_settings_of_a_run_become_flags_without_what_is_its_own(make_run: Callable[..., RunRecord]) -> None:
    create_run_dir(make_run(Path("runs/old"), run="old", epochs=7, look_ahead=True, set=("lr=0.3", "mixup=0.1")))
    assert open_record("old").settings.set == ("lr=0.3", "mixup=0.1")
    for name in ("old", "runs/old", "runs/old/run.yaml"):
        flags = flags_of(name)
        assert {"--epochs=7", "--look-ahead", "--base=resnet18", "--set=lr=0.3", "--set=mixup=0.1"} <= {*flags}
        assert not [flag for flag in flags if flag.startswith(("--run", "--storage", "--reuse", "--fraction=None"))]


@pytest.mark.parametrize(
    ("kept", "flag"), [("resnet18.a1_in1k", "--pretrained"), ("/w/mine.pth", "--pretrained=/w/mine.pth")]
)
def test_timms_weights_are_asked_for_without_their_name(
    make_run: Callable[..., RunRecord], kept: str, flag: str
) -> None:
    create_run_dir(make_run(Path("runs/old"), run="old", pretrained=kept, pretrained_hash="0"))
    flags = flags_of("old")
    assert flag in flags
    # The tag says which of timm's weights: without it, others would be loaded.
    assert f"--base={kept if flag == '--pretrained' else 'resnet18'}" in flags


def test_epochs_that_were_set_are_asked_for_once(make_run: Callable[..., RunRecord]) -> None:
    create_run_dir(make_run(Path("runs/old"), run="old", epochs=24, set=("epochs=24",)))
    assert [flag for flag in flags_of("old") if "epochs" in flag] == ["--set=epochs=24"]


def test_what_is_typed_comes_after_the_file_and_counts() -> None:
    Path("mine.yaml").write_text("epochs: 4\nbase: resnet18\n")
    typed = ["search", "--epochs", "9", "--from", "mine.yaml"]
    assert _with_file(typed)[:3] == ["search", "--epochs=4", "--base=resnet18"]
    assert _with_file(typed)[3:] == typed[1:]
    assert _with_file(["search", "--epochs", "9"]) == ["search", "--epochs", "9"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("epohcs: 4\n", "did you mean '--epochs'"),
        ("- 4\n", "such as `epochs: 4`, is a mapping"),
        ("a: [", "mine.yaml: not valid YAML"),
        ("epochs: 1\nepochs: 2\n", "'epochs' stands twice"),
        ("seed: 2020-99-99\n", "mine.yaml: not valid YAML"),
        ("from: other.yaml\n", "can't name another one"),
        ("base: no\ndataset: digits\n", "unknown base 'False'"),
        ("epochs: many\n", "--epochs many"),
    ],
)
def test_a_wrong_file_is_told_what_would_be_right(text: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text(text)
    assert expected in refused(capsys, "search", "--from", "mine.yaml")


def test_a_file_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such file and no such run" in refused(capsys, "plan", "--from", "nosuch")
    with pytest.raises(RequestError):
        flags_of("nosuch")
    assert {"search", "plan"} <= COMMANDS.keys()


def test_values_of_a_recipe_are_changed_by_name() -> None:
    changed = load_recipe("quick-adamw", ("lr=1e-2", "betas=[0.8, 0.9]"))
    assert (changed.lr, changed.betas, changed.optimizer) == (0.01, (0.8, 0.9), "adamw")
    assert load_recipe("quick", ()) == load_recipe("quick")
    assert load_recipe("quick", ("snapshots=[warmup, 20]",), 24).snapshots == ("warmup", 20)
    with pytest.raises(RecipeError, match="--epochs 24 and --set epochs=12: leave one of them out"):
        load_recipe("quick", ("epochs=12",), 24)
    assert load_recipe("quick", epochs=28).warmup_epochs == 2 * load_recipe("quick").warmup_epochs


def test_all_wrong_changes_of_a_recipe_are_named_at_once() -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe("quick", ("lr", "rl=1", "momentum=high"))
    said = str(error.value)
    for part in ("--set lr: write it like lr=0.1", "--set: unknown key 'rl'", "--set: momentum is 'high'"):
        assert part in said


def test_changes_in_a_file_are_a_list_of_texts() -> None:
    assert list(problems_of({"set": ["lr=0.1"]})) == []
    assert list(problems_of({"set": "lr=0.1"})) == ["set is 'lr=0.1'; a list of texts is needed."]
