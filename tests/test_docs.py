"""What the pages say to type is what the commands take, what they quote is said, and they are a site."""

import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from statistics import median

import pytest

from buildup.cli.main import COMMANDS, parse
from buildup.errors import RequestError
from buildup.settings import SearchSettings
from buildup.space.schema import SearchSpace
from buildup.training.recipe import Recipe

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
    assert len([*commands((ROOT / "README.md").read_text(encoding="utf-8"))]) > 5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_is_taken(page: Path) -> None:
    for words in commands(page.read_text(encoding="utf-8")):
        try:
            parse(words[1:])
        except RequestError as error:
            # A sentence may name a command without its run.
            if not (re.search(r"[A-Z]+ is missing", str(error)) and len(words) < 5):
                pytest.fail(f"{' '.join(words)}: {error}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_python_block_of_a_page_is_python(page: Path) -> None:
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        compile(block, page.name, "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_to_a_file_and_to_a_heading_there(page: Path) -> None:
    for path, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", page.read_text(encoding="utf-8")):
        target = page.parent / path if path else page
        assert target.exists(), f"{path} of {page.name}"
        headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
        assert not anchor or anchor in {slug(heading) for heading in headings}, f"{path}#{anchor} of {page.name}"


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and MkDocs make it."""
    return re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip())


def test_files_and_classes_that_the_architecture_names_are_there() -> None:
    named = re.findall(r"`([\w/.-]+)`", (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"))
    paths = {name for name in named if "/" in name or name.endswith((".py", ".md", ".yml"))}
    assert len(paths) > 15
    homes = (ROOT, ROOT / "buildup", ROOT / "buildup" / "diagnostics")
    assert [name for name in paths if not any((home / name).exists() for home in homes)] == []
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "buildup").rglob("*.py"))
    classes = {name for name in named if re.fullmatch(r"(?:[A-Z][a-z]+)+", name)}
    assert len(classes) > 5
    assert [name for name in classes if not re.search(rf"^class {name}\b", sources, re.MULTILINE)] == []


def sentences(page: str) -> list[list[str]]:
    """The words of each sentence of a page, without code, tables and headings."""
    page = re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL)
    page = re.sub(r"^(?: {4}|\||#|<).*$", "", page, flags=re.MULTILINE)
    return [words for one in re.split(r"(?<=[.:?])\s+|\n\n+|\n *[-*] ", page) if len(words := one.split()) > 2]


def test_sentences_of_the_documentation_are_short() -> None:
    lengths = {page.name: sorted(map(len, sentences(page.read_text(encoding="utf-8")))) for page in PAGES}
    assert median(length for own in lengths.values() for length in own) < 18
    assert {name: median(own) for name, own in lengths.items() if median(own) > 20} == {}


def test_the_messages_of_the_troubleshooting_page_are_those_of_the_program() -> None:
    sources = (path.read_text(encoding="utf-8") for path in (ROOT / "buildup").rglob("*.py"))
    said = re.sub(r'"\s*\n\s*f?"', "", "\n".join(sources))  # a message may stand on several lines
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = [quote for row in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE) for quote in re.findall("`(.*?)`", row)]
    parts = [part.strip(" .()") for quote in quoted for part in quote.split("…")]
    assert len(parts) > 25
    assert [part for part in parts if part not in said] == []


def test_the_animated_picture_is_that_of_the_tool() -> None:
    drawn = runpy.run_path(str(ROOT / "docs" / "build_up.py"))["build_up"]()
    kept = (ROOT / "docs" / "figures" / "build-up.svg").read_text(encoding="utf-8")
    assert kept == drawn, "python docs/build_up.py > docs/figures/build-up.svg"
    assert len(re.findall(r'class="keep"', kept)) == 4


def test_the_site_is_built_without_a_warning_and_has_each_command_and_setting(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed; it comes with the extra dev")
    # The theme of the site comes with the extra docs; pages, links and reference are the same with one of MkDocs.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--theme", "mkdocs", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "reference" / "commands.html").read_text(encoding="utf-8")
    flags = [f"--{field.name.replace('_', '-')}" for field in fields(SearchSettings)]
    assert [word for word in (*flags, *(f'id="buildup-{name}"' for name in COMMANDS)) if word not in page] == []
    page = (tmp_path / "reference" / "settings.html").read_text(encoding="utf-8")
    names = {field.name for field in (*fields(Recipe), *fields(SearchSpace))}
    assert {name for name in names if f"<code>{name}</code>" not in page} == {"name", "settings"}  # refused in files
