"""What people type when they meet buildup for the first time, and what they are told."""

import logging
import re
import shlex
from io import StringIO
from pathlib import Path

import pytest
from PIL import Image

from buildup.cli.main import FIRST_SEARCH, main
from buildup.cli.output import coloured, folded, for_terminal
from buildup.graph.network import sketch
from buildup.report.text_table import decisions_table
from buildup.report.words import duration
from buildup.space.schema import SearchSpace, StageSpace
from buildup.strategies.moves import added_blocks, start
from wrong_request import refused

ROOT = Path(__file__).parents[2]
SHORT = ["--max-macs", "2G", "--seeds", "1", "--epochs", "1", "--workers", "1", "--no-base-checks"]
PLAN = ["plan", "--base", "resnet18", "--dataset"]


def pictures(folder: Path, *, size: int = 8, count: int = 10) -> None:
    """Classes cat and dog, by colour."""
    for name, colour in (("cat", 40), ("dog", 200)):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (size, size), (colour, number, number)).save(folder / name / f"{number}.png")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BUILDUP_DATA", str(tmp_path / "no-data"))
    pictures(Path("my pets"))
    pictures(Path("deep/pets/train"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([*PLAN, "CIFAR100"], "did you mean 'cifar100'"),
        ([*PLAN, "imagenet"], "Unpack it, and say --dataset folder:DIR"),
        ([*PLAN, "my pets"], "say --dataset 'folder:my pets'"),
        ([*PLAN, "./none"], "there is no such folder. For a folder of images, say --dataset folder:./none"),
        ([*PLAN, "labels.csv"], "say --dataset csv:labels.csv"),
        ([*PLAN, "folder:~/none"], "no-home/none is not a folder"),
        ([*PLAN, "folder:deep"], "deep/pets?"),
        (["plan", "--base", "resnet81", "--dataset", "digits"], "'resnet61q' or 'resnet51q'? See `buildup models`."),
        (["plan", "--base", "ResNet18", "--dataset", "digits"], "did you mean 'resnet18'"),
        ([*PLAN, "digits", "--max-params", "1k"], "no candidate would be trained"),
        ([*PLAN, "digits", "--max-params", "1.5x"], "--max-params 1.5x: a whole number"),
        (["analyze", "nosuch"], "unknown model 'nosuch'"),
        (["analyze", "nosuch"], "`buildup ls` lists them"),
        (["models", "resnet81*"], "See `buildup models`"),
    ],
)
def test_a_first_mistake_is_told_the_way_on(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "~" in arguments[-1]:
        monkeypatch.setenv("HOME", str(Path("no-home").absolute()))
    said = refused(capsys, *arguments)
    assert expected in said
    assert "aimv2" not in said
    assert len(said) < 600


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["plan", "--base", "test_resnet", "--dataset", "digits", *SHORT], ", 1 epoch each."),
        (["models", "test_resnet"], "3 blocks can be replaced"),
        (["models", "resnet6"], "2 stages, 2 blocks can be replaced"),
        ([], FIRST_SEARCH),
    ],
)
def test_an_answer_says_what_a_newcomer_looks_for(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 0
    said = capsys.readouterr().out.replace(" \\\n    ", " ")
    assert expected in said
    assert not re.search(r"\b1 (trainings|epochs|workers|seeds|stages|blocks|threads|networks)\b", said)


def test_the_first_search_of_the_help_is_the_main_job_of_the_readme() -> None:
    assert FIRST_SEARCH in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", ["train resnet18 --dataset none", "analyze nosuch", "graph resnet99"])
def test_a_command_that_takes_seconds_speaks_first(command: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "buildup"):
        main(shlex.split(command))
    assert re.match(r"(Reading|Checking) .* \.\.\.", caplog.messages[0])


def test_tables_fit_into_80_columns_and_show_all_with_verbose(capsys: pytest.CaptureFixture[str]) -> None:
    simulate = ["simulate", "--layout", "CCC|CCCC|CCCCCC|CCCC", "--space", "paper", "--judge", "point"]
    simulate += ["--scores", str(ROOT / "docs" / "published.csv")]
    assert main(simulate) == 0
    short = capsys.readouterr().out
    assert "c4.3 C->M  CCC|CCCC|CCCCCC|CCCM  +0.97" in short
    assert max(map(len, short.splitlines()[:-1])) <= 80
    assert main([*simulate, "-v"]) == 0
    assert "c4.3: conv -> msa(heads=24, window=4)" in capsys.readouterr().out
    assert decisions_table(()) == "No decisions yet."


def test_colours_are_for_terminals_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert coloured("1  layer4.1 C->M  keep", StringIO()) == "1  layer4.1 C->M  keep"
    assert coloured("1  layer4.1 C->M  keep", Terminal()).endswith("\x1b[34;1mkeep\x1b[0m")
    blue = "\x1b[34;1m{}\x1b[0m"
    assert coloured("now CC|CM on a GPU, 90 % CI", Terminal()) == f"now CC|C{blue.format('M')} on a GPU, 90 % CI"
    assert coloured("  c1  C[M]CM", Terminal()) == f"  c1  C{blue.format('[M]')}C{blue.format('M')}"
    monkeypatch.setenv("NO_COLOR", "1")
    assert coloured("keep", Terminal()) == "keep"


def test_sentences_fit_into_a_terminal_but_commands_and_rows_stay_whole() -> None:
    sentence, row = f"warning: {'one two ' * 20}end.", f"1  {'C' * 90}  keep"
    next_command = f"Go on with: buildup resume {'x' * 90}"
    text = f"{sentence}\n  {sentence}\n{row}\n{next_command}\n{'y' * 100}"
    lines = folded(text, 80).split("\n")
    assert lines[-3:] == [row, next_command, "y" * 100]
    assert max(map(len, lines[:-3])) <= 80
    assert [line.startswith("  ") for line in lines[:-3]] == [False] * 3 + [True] * 3
    assert " ".join(line.strip() for line in lines[:3]) == sentence
    assert for_terminal(sentence, StringIO()) == sentence


def test_a_space_that_changes_the_base_says_so() -> None:
    space = SearchSpace(name="mine", description="", stages=(StageSpace(), StageSpace(blocks=4)))
    said = added_blocks(start(sketch("CC|CC"), space), space)
    assert said is not None
    assert "Space mine changes the base before the search: 2 more blocks (c2.2, c2.3)" in said
    assert added_blocks(sketch("CC|CC"), space) is None


def test_long_searches_are_told_in_days() -> None:
    assert duration(213 * 3600) == "8 d 21 h"
