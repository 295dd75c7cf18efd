"""Hooks of MkDocs: the pages that are made from the program when the site is built, and the links between files.

The reference of all commands and settings is generated from the typed settings, so it can't differ from them. README,
architecture and changelog stand outside of this folder, where people look for them in a repository, and are pages too.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from docstring_parser import parse_from_object
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from buildup.cli.main import COMMANDS, give_examples, make_app
from buildup.diagnostics.measurements import MEASUREMENTS
from buildup.space.schema import SearchSpace, StageSpace, Tuning
from buildup.training.recipe import RandAugment, Recipe

ROOT = Path(__file__).parents[1]
PAGES = {
    "index.md": "README.md",
    "architecture.md": "ARCHITECTURE.md",
    "changelog.md": "CHANGELOG.md",
    "benchmarks.md": "bench/README.md",
}
"""Pages from files outside of this folder."""


STYLE = ".md-typeset td code { overflow-wrap: normal; word-break: normal }\n"
"""Names of settings and flags stay on one line."""
INTRODUCTION = """\
# Commands

A flag of `search`, such as `--look-ahead`, is also a keyword argument of `buildup.search` (`look_ahead=True`), a key of
a file for `--from` (`look_ahead: true`) and of `run.yaml`.
"""


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that are made here, and the files for clusters."""
    made = {page: linked((ROOT / source).read_text(encoding="utf-8")) for page, source in PAGES.items()}
    made |= {
        "reference/commands.md": commands(),
        "reference/settings.md": settings(),
        "reference/measurements.md": measurements(),
    }
    made["site.css"] = STYLE
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    for path in sorted((ROOT / "deploy").iterdir()):
        files.append(File.generated(config, f"deploy/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links between files of the repository, as links between pages of the site."""
    return linked(markdown)


def linked(text: str) -> str:
    """A text of the repository with the links that its page of the site has.

    >>> linked("[a](docs/rule.md), [b](../README.md#try-it), [c](../deploy/slurm.sh)")
    '[a](rule.md), [b](index.md#try-it), [c](deploy/slurm.sh)'
    """
    # In code in a table, GitHub's Markdown needs a backslash before `|`, and Python's shows it.
    text = re.sub(r"^\|.*`.*$", lambda row: re.sub(r"`[^`]*`", _bare, row[0]), text, flags=re.MULTILINE)
    text = re.sub(r"\]\((?:\.\./)?(?:docs/)?", "](", text)
    for page, source in PAGES.items():
        text = text.replace(f"]({source}", f"]({page}")
    return text


def _bare(code: re.Match[str]) -> str:
    return code[0].replace("\\|", "|")


def commands() -> str:
    """The page of all commands with their flags, as their help has them."""
    app = make_app()
    # The table of contents is that of the site.
    _, _, text = app.generate_docs(output_format="markdown").partition("\n## buildup ")
    # A help text of several lines is one paragraph here, and the escapes of rich are none of Markdown's.
    text = re.sub(r"\n {4,}(?=\S)", " ", f"## buildup {text}").replace("\\[", "[")
    # A list needs an empty line before it.
    text = re.sub(r"^(\*\*.*\*\*):\n", r"\1\n", text, flags=re.MULTILINE)
    for name in COMMANDS:
        give_examples(app, name)
        example = str(app[name].help_epilogue).partition("\n")[2]
        usage = re.compile(rf"(## buildup {name}\n\n```console\n.*\n)(```\n)")
        text = usage.sub(lambda found, shown=example: f"{found[1]}\n{shown}\n{found[2]}" if shown else found[0], text)
    return f"{INTRODUCTION}\n{text}"


def settings() -> str:
    """The page of the settings that stand in YAML files."""
    parts = (
        ("Recipes", "A file for `--recipe`. `extends: NAME` takes over the rest.", Recipe),
        ("RandAugment", "What stands below `randaugment` of a recipe.", RandAugment),
        ("Search spaces", "A file for `--space`.", SearchSpace),
        ("StageSpace", "Each entry of `stages` of a search space.", StageSpace),
        ("Tuning", "What stands below `tune` of a search space.", Tuning),
    )
    return "\n".join(["# Settings in files", *(line for part in parts for line in _table(*part))])


def measurements() -> str:
    """The page of what `analyze` measures."""
    lines = ["# Measurements", "", "What `buildup analyze --what` takes.", ""]
    for one in MEASUREMENTS.values():
        usual = "" if one.is_usual else " Not among those of `--what all`."
        lines += [f"## {one.name}", "", f"**{one.title}.** {one.caption}{usual}", ""]
        for claim in one.claims:
            said = claim.words if claim.of_each else f"with more attention, {claim.words.strip()} "
            said += "" if claim.of_each else f"{'rises' if claim.sign > 0 else 'falls'}"
            lines += [f"- The paper: {said} (column `{claim.column}`)"]
        lines.append("")
    return "\n".join(lines)


def _table(title: str, text: str, kind: type) -> Iterator[str]:
    yield from (f"\n## {title}\n", text, "", "| setting | value | default | what |", "| --- | --- | --- | --- |")
    said = {found.args[1]: found.description for found in parse_from_object(kind).params}
    hints = get_type_hints(kind, vars(import_module(kind.__module__)) | {"Augmentation": Any})
    for field in fields(kind):
        if field.name in NOT_IN_FILES:
            continue
        default = field.default if field.default_factory is MISSING else field.default_factory()
        shown = REQUIRED.get(title, "required") if default is MISSING else _yaml(default)
        words = " ".join((said.get(field.name) or "").split()).replace("|", "\\|")
        yield f"| `{field.name}` | {_values(hints[field.name])} | {shown} | {words} |"


NOT_IN_FILES = ("name", "settings")
"""A file has its name from its path, and settings of other packages' kinds stand beside the others."""
REQUIRED = {"Recipes": "required, or from `extends`", "Search spaces": ""}
"""What stands in place of a default that a field does not have; the description of a space may be left out."""


def _yaml(value: Any) -> str:
    """A default as a file has it: nothing for an empty one."""
    return "" if value in (None, (), {}, "") else f"`{json.dumps(value)}`".replace('"', "")


WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "null"}


def _values(hint: Any) -> str:
    """What a setting may hold, in words: `sgd` or `adamw`."""
    inner = get_args(hint)
    if get_origin(hint) is Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if get_origin(hint) in (tuple, list, Sequence):
        return f"list of {_values(inner[0])}"
    if get_origin(hint) in (dict, Mapping):
        return "names with values"
    return " or ".join(map(_values, inner)) or WORDS.get(hint) or f"[below](#{hint.__name__.lower()})"
