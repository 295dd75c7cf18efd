"""The command line as a person types it: help, wrong requests, exit codes."""

import io
import json
import logging
import os
import resource
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from buildup.cli.main import COMMANDS, main
from wrong_request import refused

SEARCH = ["search", "--base", "resnet18", "--dataset", "digits"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BUILDUP_DATA", str(tmp_path / "no-data"))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    said = capsys.readouterr().out
    assert COMMANDS[command][2][:60] in said
    assert f"Example:\n  buildup {command}" in said


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_calls_what_exists(command: str) -> None:
    module, _, function = COMMANDS[command][0].partition(":")
    assert callable(getattr(import_module(f"buildup.cli.{module}"), function))


def test_help_shows_the_defaults_that_say_something(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "[default: quick]" in said
    assert "[default: 0]" in said
    assert "[default: False]" not in said
    assert '[default: ""]' not in said


def test_the_help_of_a_flag_is_one_paragraph(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    assert main(["search", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "readable:NAME, one of these without the images that can't be read. Required." in shown


def test_without_a_command_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    said = capsys.readouterr().out
    assert all(command in said for command in COMMANDS)
    assert "buildup search --base resnet6" in said


def test_messages_that_nobody_reads_any_more_stop_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    assert main(["--version"]) == 0
    monkeypatch.setattr(sys, "stderr", Gone())
    logging.getLogger("buildup").info("anything")


def test_help_answers_in_under_half_a_second() -> None:
    def seconds() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    times = []
    for _ in range(3):
        began = seconds()  # of the CPU: other work on this machine does not count
        subprocess.run([sys.executable, "-m", "buildup", "--help"], check=True, capture_output=True)
        times.append(seconds() - began)
    assert min(times) < 0.5


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["serch"], "did you mean 'search'"),
        (["search", "--bse", "x"], "did you mean '--base'"),
        (["search", "--epochs"], "--epochs needs a value"),
        (["status"], "RUN is missing"),
        (["search", "--epochs", "--seeds", "2"], "--epochs needs a value"),
        (["search", "--reuse=maybe"], "Invalid value for --reuse"),
        (["resume", "none", "--seed", "3"], "did you mean '--seeds'"),
        (["report"], "RUN is missing"),
        (["status", "a", "b"], "'b' is one word too many"),
        (["search"], "--base is missing"),
        (["search", "--base", "resnet18"], "--dataset is missing"),
        (["search", "--base", "resnet5", "--dataset", "digits"], "did you mean 'resnet50'"),
        (["search", "--base", "vit_tiny_patch16_224", "--dataset", "digits"], "has attention of its own"),
        (["search", "--base", "densenet121", "--dataset", "digits"], "no stage has, after its first block"),
        (["search", "--base", "resnet18", "--dataset", "digit"], "did you mean 'digits'"),
        ([*SEARCH, "--space", "alternt"], "did you mean 'alternet'"),
        ([*SEARCH, "--space", "none.yaml"], "can't be read"),
        ([*SEARCH, "--recipe", "quik"], "did you mean 'quick'"),
        ([*SEARCH, "--strategy", "tp"], "unknown strategy 'tp'"),
        ([*SEARCH, "--judge", "liked"], "did you mean 'likely'"),
        ([*SEARCH, "--judge", "likely", "--seeds", "1"], "use at least 2 seeds"),
        ([*SEARCH, "--device", "gpu"], "unknown --device 'gpu'"),
        ([*SEARCH, "--epochs", "0"], "--epochs 0: a whole number from 1"),
        ([*SEARCH, "--epochs", "-3"], "--epochs -3"),
        ([*SEARCH, "--epochs", "1e99"], "--epochs 1e99"),
        ([*SEARCH, "--seeds", "many"], "--seeds many"),
        ([*SEARCH, "--workers", "0"], "--workers 0"),
        ([*SEARCH, "--fraction", "1/0"], "fraction is '1/0'"),
        ([*SEARCH, "--time-budget", "soon"], "write it like 90m"),
        ([*SEARCH, "--time-budget", "-5m"], "'-5m' is not a duration"),
        ([*SEARCH, "--max-trials", "-3"], "--max-trials -3: a whole number from 1"),
        ([*SEARCH, "--max-params", "-1"], "--max-params -1: a whole number from 1"),
        ([*SEARCH, "--max-params", "1000"], "no candidate would be trained"),
        ([*SEARCH, "--disk-budget", "2X"], "--disk-budget 2X: a number of bytes is needed"),
        ([*SEARCH, "--disk-budget", "1MB"], "--disk-budget 1.00 MB: one training of resnet18 alone writes"),
        ([*SEARCH, "--disk-budget", "1T", "--storage-path", "there"], "--disk-budget: with --storage-path"),
        ([*SEARCH, "--objective", "loss"], "unknown objective 'loss'"),
        ([*SEARCH, "--gpus-per-trial", "nan"], "--gpus-per-trial nan"),
        ([*SEARCH, "--storage", "postgresql+x://nobody"], "storage"),
        ([*SEARCH, "--storage", "nonsense"], "storage"),
        (["search", "--base", "resnet18", "--dataset", "folder:none"], "is not a folder"),
        (["resume", "none"], "no such folder"),
        (["status", "none"], "not a run folder"),
        (["export", "none"], "not a run folder"),
        (["dashboard", "none"], "not a run folder"),
        (["report", "none"], "not a run folder"),
        (["graph", "resnet18", "--format", "gif"], "unknown format 'gif'"),
        (["graph", "resnet18", "--layout", "CC|CC"], "has 2 stages, resnet18 has 4"),
        (["graph", "resnet18", "--layout", "CC|MC|CC|CC"], "only C can stand there"),
        (["graph", "resnet18", "--layout", "CX|CC|CC|CC"], "letter 'X' at layer1.1 is not known"),
        (["graph", "resnet18", "--size", "4"], "--size 4"),
        (["models", "resnet999*"], "resnet999"),
        (["simulate"], "--scores is missing"),
        (["simulate", "--layout", "CC|CM", "--scores", "none.csv"], "only C may stand in it"),
        (["simulate", "--layout", "CC|CC", "--scores", "none.csv"], "can't be read"),
        (["simulate", "--layout", "CC|CC", "--workers", "0"], "--workers 0"),
        (["simulate", "--layout", "CC|CC", "--strategy", "nsga2"], "weighs MACs, which letters do not have"),
    ],
)
def test_a_wrong_request_is_told_what_would_be_right(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in refused(capsys, *arguments)


def test_all_problems_of_a_request_are_named_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(
        capsys,
        *["search", "--base", "resnet5", "--dataset", "digit", "--space", "x", "--recipe", "y", "--epochs", "0"],
        *["--seeds", "0", "--fraction", "2", "--device", "gpu", "--judge", "z"],
    )
    for what in ("resnet5", "'digit'", "'x'", "'y'", "--epochs 0", "--seeds 0", "fraction is '2'", "'gpu'", "'z'"):
        assert what in said


def test_values_of_a_wrong_type_are_named_with_all_else(capsys: pytest.CaptureFixture[str]) -> None:
    """Also where pydantic is loaded, as it is by Ray: cyclopts would check types with it."""
    import_module("pydantic")
    wrong = {"--epochs": "many", "--seeds": "1.5", "--gpus-per-trial": "nan", "--time-budget": "-5m"}
    wrong |= {"--max-trials": "-3", "--workers": "x", "--seed": "-1", "--max-macs": "1e9", "--judge": "z"}
    said = refused(capsys, *SEARCH, *(word for flag in wrong.items() for word in flag))
    problems = [line.removeprefix("buildup:").strip() for line in said.splitlines()[1:]]
    assert len(problems) == len(wrong)
    for flag, value in wrong.items():
        assert any(flag.strip("-") in problem and value in problem for problem in problems)


def test_every_unknown_flag_and_every_word_too_many_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, *SEARCH, "--epoch", "3", "--sedes", "2")
    assert "'--epoch': did you mean '--epochs'" in said
    assert "'--sedes': did you mean '--seeds'" in said
    said = refused(capsys, *SEARCH, "one", "two")
    assert "'one' is one word too many" in said
    assert "'two' is one word too many" in said


def test_a_flag_that_is_given_twice_counts_as_it_was_given_last(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, *SEARCH, "--epochs", "0", "--epochs", "3", "--seeds", "3", "--seeds", "0")
    assert "--epochs" not in said
    assert "--seeds 0" in said


def test_a_window_larger_than_a_map_is_refused_with_the_stage(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text("window: 7\n")
    assert "larger than the 4x4 map of layer3" in refused(capsys, *SEARCH, "--space", "mine.yaml")


def test_a_run_folder_that_is_something_else_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs/demo").mkdir(parents=True)
    Path("runs/demo/thesis.txt").write_text("do not touch")
    assert "is there already and is no run" in refused(capsys, *SEARCH, "--run", "demo")
    assert "it has no run.yaml" in refused(capsys, "resume", "demo")


def test_a_damaged_run_file_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs/demo").mkdir(parents=True)
    Path("runs/demo/run.yaml").write_text("settings: [")
    assert "damaged" in refused(capsys, "status", "demo")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("locked").mkdir(mode=0o500)
    assert "no permission to write" in refused(capsys, *SEARCH, "--run", "locked/demo")


def test_a_cluster_that_does_not_answer_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "nothing answers there" in refused(capsys, *SEARCH, "--ray", "127.0.0.1:1")


def test_the_graph_of_a_base_comes_in_four_forms(capsys: pytest.CaptureFixture[str]) -> None:
    starts = {"text": "base", "json": "{", "dot": "digraph", "svg": "<svg"}
    for form, start in starts.items():
        assert main(["graph", "resnet18", "--size", "32", "--format", form]) == 0
        assert capsys.readouterr().out.startswith(start)


def test_spaces_and_models_answer_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["spaces", "--json"]) == 0
    assert {space["name"] for space in json.loads(capsys.readouterr().out)} >= {"alternet", "paper"}
    assert main(["models", "resnet18", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == "resnet18"


def test_simulate_follows_a_space_that_adds_blocks(capsys: pytest.CaptureFixture[str]) -> None:
    Path("table.csv").write_text("layout,score\nCC|CC,80\nCC|CCS,79\nCCS|CC,81\n")
    assert main(["simulate", "--layout", "CC|CC", "--space", "smoothing", "--scores", "table.csv", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert [verdict["verdict"] for verdict in values["verdicts"]] == ["drop", "keep"]
    assert values["layout"] == "CCS|CC"


def test_simulate_follows_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    Path("table.csv").write_text("layout,score\nCC|CC,80\nCC|CM,81\nCM|CM,80.5\n")
    assert main(["simulate", "--layout", "CC|CC", "--scores", "table.csv", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["layout"] == "CC|CM"
    assert values["trainings"] == 3
    assert [verdict["verdict"] for verdict in values["verdicts"]] == ["keep", "drop"]
    assert {"makespan", "busy", "wasted"} <= values.keys()


def test_plan_lists_what_the_rule_could_visit_without_writing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *SEARCH[1:], "--json", "--epochs", "2", "--seeds", "2"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert len(values["candidates"]) == 1 + 1 + 2 + 4 + 8  # each stage's one try, on either verdict of those before
    assert values["trainings"] == {"least": 10, "most": 40}  # looks after 2, 4 and 8 seeds
    assert not list(Path.cwd().iterdir())


def test_shell_completion_is_installed_when_asked_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["--help"]) == 0
    assert "--install-completion" in capsys.readouterr().out
    assert main(["--install-completion", "--help"]) == 0
    assert not list(tmp_path.iterdir())
    assert main(["--install-completion", "--shell", "bash"]) == 0
    (script,) = (path for path in tmp_path.rglob("buildup") if path.is_file())
    text = script.read_text(encoding="utf-8")
    assert all(command in text for command in COMMANDS)
    program = Path(sys.executable).parent / "buildup"
    completed = f"""source {script}
    complete_line() {{ COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _buildup; echo "${{COMPREPLY[@]}}"; }}
    complete_line buildup se
    complete_line buildup search --jud
    complete_line {program} search --judge pr
    complete_line {program} resume de
    complete_line {program} search --space pa"""
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    (tmp_path / "runs" / "demo" / "run.yaml").touch()
    (tmp_path / "pairs.yaml").touch()
    done = subprocess.run(["bash", "-c", completed], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines() == ["search", "--judge", "proven", "demo", "paper pairs.yaml"]
