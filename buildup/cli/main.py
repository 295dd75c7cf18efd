"""The command line: arguments in, one call, text out. It decides nothing, and it alone imports late."""

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NoReturn

from buildup import __version__
from buildup.cli.menu import COMMANDS, Command
from buildup.errors import BuildupError, RequestError, unknown

Flags = dict[str, Any]

RESUME_HINT = "Interrupted."


class _Parser(argparse.ArgumentParser):
    """argparse, whose errors are ours."""

    def error(self, message: str) -> NoReturn:
        raise RequestError(f"{self.prog}: {message}. See {self.prog} --help.")


def main(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    try:
        command, flags = _parse(arguments)
        return _run(command, flags)
    except BuildupError as error:
        print(_paragraph(error), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(RESUME_HINT, file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader left, as `head` does. Python would complain once more when it flushes stdout.
        sys.stderr.close()
        return 0
    except OSError as error:
        print(f"buildup: {error}", file=sys.stderr)
        return 1


def _parse(arguments: Sequence[str]) -> tuple[Command, Flags]:
    parser = _Parser(
        prog="buildup",
        description="Finds where self-attention belongs in a timm CNN, and says how sure that is.",
        epilog="A first search, on images that come along:\n  " + COMMANDS[0].example,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"buildup {__version__}")
    by_name = {command.name: command for command in COMMANDS}
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", parser_class=_Parser)
    for command in COMMANDS:
        _add(commands.add_parser, command)
    first = next((argument for argument in arguments if not argument.startswith("-")), None)
    if first is not None and first not in by_name:
        raise RequestError(unknown("command", first, by_name, shown=20))
    known, extra = parser.parse_known_args(_joined(arguments))
    if known.command is None:
        parser.print_help()
        raise SystemExit(2 if extra else 0)
    command = by_name[known.command]
    if extra:
        names = [f"--{flag.name}" for flag in command.flags]
        raise RequestError(
            *(
                _stray(argument, command, names)
                for argument in extra
                if argument.startswith("-") or not any(e.startswith("-") for e in extra)
            )
        )
    return command, vars(known)


def _joined(arguments: Sequence[str]) -> list[str]:
    """Flags with the negative values that follow them in one word; argparse takes such a value, `-5m`, for a flag.

    >>> _joined(["plan", "--time-budget", "-5m", "--json"])
    ['plan', '--time-budget=-5m', '--json']
    """
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1].startswith("--") and "=" not in joined[-1] and re.match(r"-\.?\d", argument):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _stray(argument: str, command: Command, names: Sequence[str]) -> str:
    if argument.startswith("-"):
        return unknown(f"flag of {command.name}", argument.partition("=")[0], names, shown=40)
    return f"{command.name}: {argument!r} is one word too many. See buildup {command.name} --help."


def _add(add_parser: Callable[..., argparse.ArgumentParser], command: Command) -> None:
    parser = add_parser(
        command.name,
        help=command.help,
        description=f"{command.help[0].upper()}{command.help[1:]}.",
        epilog=f"Example:\n  {command.example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for name, text in command.positional:
        nargs = "?" if name.startswith("[") else "+" if name.endswith("...") else None
        plain = name.strip("[].")
        parser.add_argument(plain, help=text, nargs=nargs, metavar=plain.upper())
    for flag in command.flags:
        text = flag.help.replace("%", "%%")  # argparse fills in what stands behind one
        if flag.metavar is None:
            parser.add_argument(f"--{flag.name}", help=text, action="store_true")
        elif flag.metavar.startswith("["):
            metavar = flag.metavar.strip("[]")
            parser.add_argument(f"--{flag.name}", help=text, metavar=metavar, nargs="?", const="")
        else:
            parser.add_argument(f"--{flag.name}", help=text, metavar=flag.metavar)


def _run(command: Command, flags: Flags) -> int:
    """A command answers with an exit code, with text and the same as values, or with all three."""
    function = _load(f"buildup.commands.{command.run}")
    answer = function(flags, *map(_when_called, command.late))
    if isinstance(answer, int):
        return answer
    text, values, *code = answer
    print(json.dumps(values, indent=2, ensure_ascii=False) if flags.get("json") else text)
    return code[0] if code else 0


def _load(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    loaded: Callable[..., Any] = getattr(import_module(module), function)
    return loaded


def _when_called(name: str) -> Callable[..., Any]:
    return lambda *arguments, **named: _load(name)(*arguments, **named)


def _paragraph(error: BuildupError) -> str:
    problems = str(error).split("\n") if not isinstance(error, RequestError) else error.problems
    return "\n".join(
        f"buildup: {problem}" if number == 0 else f"         {problem}" for number, problem in enumerate(problems)
    )
