"""What the pages say to type is what the commands take."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildup.cli.main import parse
from buildup.errors import RequestError

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "ARCHITECTURE.md",
    ROOT / "bench" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]


def commands(page: str) -> Iterator[list[str]]:
    """The words of each `buildup` command of a page, in lines of code and in code inside of sentences."""
    page = page.replace("\\\n", " ")
    fenced = "\n".join(re.findall(r"^```\w*\n(.*?)^```", page, re.MULTILINE | re.DOTALL)).splitlines()
    lines = [*fenced, *re.findall(r"^ {4}(.*)$", page, re.MULTILINE)]
    inside = [code.replace("\n", " ") for code in re.findall(r"`(buildup\s[^`]+)`", page)]
    for code in (*lines, *inside):
        for part in re.split(r" && | \| ", code):
            words = shlex.split(part, comments=True) if "buildup " in part else [""]
            if words[0].rpartition("/")[2] == "buildup" and words[1:2] != ["COMMAND"]:
                yield words


def test_commands_are_found_in_lines_and_sentences() -> None:
    page = (
        "    a && .venv/bin/buildup plan \\\n  --base x | tail  # why\nText `buildup ls` and\n`buildup\nstatus demo`.\n"
    )
    assert [*commands(page)] == [
        [".venv/bin/buildup", "plan", "--base", "x"],
        ["buildup", "ls"],
        ["buildup", "status", "demo"],
    ]
    assert len([*commands((ROOT / "README.md").read_text())]) > 5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_is_taken(page: Path) -> None:
    for words in commands(page.read_text()):
        try:
            parse(words[1:])
        except RequestError as error:
            # A sentence may name a command without its run.
            if not (re.search(r"[A-Z]+ is missing", str(error)) and len(words) < 5):
                pytest.fail(f"{' '.join(words)}: {error}")
