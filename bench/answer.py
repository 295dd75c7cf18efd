"""What the scripts of this folder share: flags become one call, its answer text or JSON, results a file of lines."""

import json
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from buildup.errors import BuildupError
from buildup.settings import SimulateSettings

Answer = tuple[str, dict[str, Any]]


def answer(
    parser: ArgumentParser, bench: Callable[[Mapping[str, Any]], Answer], arguments: Sequence[str] | None = None
) -> int:
    """Run a bench and print what it found.

    Args:
        parser: Reads its flags; `--json` is added here.
        bench: Gets the flags by their names and returns the answer as text and as values.
        arguments: What was typed, if not on this process' command line.

    Returns:
        The exit code.
    """
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout; messages go to stderr")
    flags = vars(parser.parse_args(arguments))
    try:
        text, values = bench(flags)
    except BuildupError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(values, indent=2, ensure_ascii=False) if flags["json"] else text)
    return 0


def simulation(flags: Mapping[str, Any]) -> SimulateSettings:
    """The settings of a simulated search among the flags; those that were not given keep their defaults."""
    names = {field.name for field in fields(SimulateSettings)}
    return SimulateSettings(**{name: value for name, value in flags.items() if name in names and value is not None})


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file, without a last one that was not written to its end."""
    data = path.read_bytes() if path.exists() else b""
    return [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]


def append_line(path: Path, values: Mapping[str, Any]) -> None:
    """Append one line of JSON, in place of a last one that was not written to its end."""
    with path.open("ab+") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write(json.dumps(values).encode() + b"\n")
