"""The command line: which commands there are, and how what was typed becomes a call.

Commands are named by import string, so that `--help` loads none of them.
"""

import glob
import inspect
import logging
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_type_hints

from cyclopts import App, CoercionError, CycloptsError, Group, MissingArgumentError, Parameter, UnknownCommandError
from cyclopts import convert as to_type

from buildup import __version__
from buildup.cli.output import for_terminal
from buildup.errors import BuildupError, RequestError, unknown

_SEARCHING = Group("Search", sort_key=1)
_RESULTS = Group("Results", sort_key=2)
_NETWORKS = Group("Networks and machines", sort_key=3)

FIRST_SEARCH = (
    "buildup search --base resnet6 --dataset cued-digits --recipe quick-plain --epochs 4 --seeds 2 --run demo"
)
"""The search that the README begins with."""

COMMANDS: dict[str, tuple[str, Group, str]] = {
    "search": ("search:search", _SEARCHING, "Find out where attention helps, and export the network."),
    "resume": ("search:resume", _SEARCHING, "Go on with a run after any stop, kill or crash, or take it further."),
    "plan": ("plan:plan", _SEARCHING, "What a search would train and cost; trains nothing."),
    "simulate": ("simulate:simulate", _SEARCHING, "The same rule on a table of scores."),
    "status": ("status:status", _SEARCHING, "What runs, what was decided, what is left."),
    "ls": ("ls:ls", _RESULTS, "The runs in a folder with status, verdicts, size and age."),
    "final": ("final:final", _RESULTS, "Train base and winner anew, open the test set once, and say what is proven."),
    "report": ("report:report", _RESULTS, "Write report.html of a run anew, or compare several runs."),
    "export": ("export:export", _RESULTS, "Write the discovered network as a timm model."),
    "reproduce": ("reproduce:reproduce", _RESULTS, "Repeat a search or one training, and say what comes out alike."),
    "dashboard": ("dashboard:dashboard", _RESULTS, "Show a run in optuna-dashboard, for this machine only."),
    "clean": ("clean:clean", _RESULTS, "Remove the weights of networks that lost, and what ended processes left."),
    "analyze": ("analyze:analyze", _RESULTS, "The paper's measurements on a run's network or any model of timm."),
    "graph": ("graph:graph", _NETWORKS, "The staged graph of a base or a layout."),
    "places": ("places:places", _NETWORKS, "Where attention comes nearest to what a trained network has there."),
    "models": ("models:models", _NETWORKS, "Which timm names can be a base, and for the others why not."),
    "spaces": ("recipes:spaces", _NETWORKS, "The search spaces that ship, and what each allows."),
    "recipes": ("recipes:recipes", _NETWORKS, "The recipes that ship or are installed, or all settings of one."),
    "train": ("train:train", _NETWORKS, "Train any timm model or layout once; the same command goes on after a stop."),
    "doctor": ("doctor:doctor", _NETWORKS, "What works here, what does not, and what to do."),
}
"""The function of `buildup.cli` behind each command, its group and its help."""


VALUES = {
    "--judge": "buildup.statistics.judges:JUDGES",
    "--objective": "buildup.trials.objective:OBJECTIVES",
    "--recipe": "buildup.training.recipe:RECIPES",
    "--space": "buildup.space.load:shipped",
    "--strategy": "buildup.strategies.registered:STRATEGIES",
    "--track": "buildup.report.trackers:TRACKERS",
}
"""Where the names are by which a shell completes the value of a flag."""
RUNS = {"RUN", "RUNS", "--from"}
"""Arguments that a shell completes by the names of the runs in `runs/`."""
FILES = {"--corruptions", "--data-dir", "--from", "--out", "--pretrained", "--recipe", "--scores", "--space", "--to"}
"""Those that it completes by files, too."""

OWN = frozenset({"run", "pretrained_hash", "storage"})
"""Settings that belong to one run, so that `--from` leaves them out."""


def main(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    logger = logging.getLogger("buildup")
    if not any(isinstance(handler, _Stderr) for handler in logger.handlers):
        logger.addHandler(_Stderr())
        logger.setLevel(logging.INFO)
    try:
        return int(parse(arguments)() or 0)
    except BuildupError as error:
        problems = error.problems if isinstance(error, RequestError) else str(error).split("\n")
        print(for_terminal("buildup: " + "\n         ".join(problems), sys.stderr), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as error:
        print(str(error) or "Interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader left, as `head` does. Python would complain once more when it flushes stdout.
        sys.stderr.close()
        return 0
    except OSError as error:
        print(f"buildup: {error}", file=sys.stderr)
        return 1


def make_app() -> App:
    """The commands as a cyclopts app."""
    app = App(
        name="buildup",
        version=f"buildup {__version__}",
        help="Finds where self-attention belongs in a timm CNN, and says how sure that is.",
        help_epilogue=f"A first search, on bundled images:\n{_lines(FIRST_SEARCH)}",
        help_format="plaintext",
        help_formatter=_show_help,
        help_flags=["--help", "-h"],
        default_parameter=Parameter(
            negative=(),
            converter=_convert,
            allow_repeating=True,
            show_default=_shown_default,
            completer=_complete,
        ),
        exit_on_error=False,
        print_error=False,
    )
    for name, (target, group, help_text) in COMMANDS.items():
        app.command(f"buildup.cli.{target}", name=name, group=group, help=help_text)
    app.register_install_completion_command(help="Install shell completion for bash, zsh, fish or PowerShell.")
    return app


def give_examples(app: App, name: str) -> None:
    """Let the help of a command end with the paragraphs of its docstring that begin with `Example:`."""
    paragraphs = (inspect.getdoc(app[name].default_command) or "").split("\n\n")
    examples = [text.removeprefix("Example:") for text in paragraphs if text.startswith("Example:")]
    app[name].help_epilogue = "\n".join(f"Example:\n  {_lines(text)}" for text in examples)


def parse(arguments: Sequence[str]) -> Callable[[], Any]:
    """The call of a command, with its settings. What does not fit the command raises a `RequestError`."""
    app = make_app()
    name = arguments[0] if arguments else "--help"
    if name in ("search", "plan"):
        arguments = _with_file(arguments)
    if name in COMMANDS:
        give_examples(app, name)
    # Where pydantic is loaded, as by Ray, cyclopts checks values with it, and would name the first wrong one alone.
    pydantic = sys.modules.pop("pydantic", None)
    try:
        command, bound, unused, _ = app.parse_known_args(_joined(arguments))
    except UnknownCommandError:
        raise RequestError(unknown("command", name, COMMANDS, shown=20)) from None
    except MissingArgumentError as error:
        missing = error.argument.name if error.argument else "an argument"
        how = "needs a value" if missing.startswith("--") else "is missing"
        raise RequestError(f"{name}: {missing} {how}. See buildup {name} --help.") from None
    except CycloptsError as error:
        error.verbose = False
        raise RequestError(f"{name}: {error} See buildup {name} --help.") from None
    finally:
        if pydantic is not None:
            sys.modules["pydantic"] = pydantic
    if stray := [word.partition("=")[0] for word in unused if word.startswith("-")]:
        known = [flag for one in app[name].assemble_argument_collection() for flag in one.positives]
        flags = [flag for flag in known if flag.startswith("--")]
        raise RequestError(*(unknown(f"flag of {name}", word, flags, shown=40) for word in stray))
    if unused:
        raise RequestError(*(f"{name}: {word!r} is one word too many. See buildup {name} --help." for word in unused))
    return partial(command, *bound.args, **bound.kwargs)


def _with_file(arguments: Sequence[str]) -> Sequence[str]:
    """The arguments with the flags of the file that `--from` names before all others, so that typed ones count."""
    joined = _joined(arguments)
    for index, word in enumerate(joined):
        if word == "--from" or word.startswith("--from="):
            name = word.partition("=")[2] or next(iter(joined[index + 1 :]), "")
            if name and not name.startswith("-"):
                return [joined[0], *flags_of(name), *joined[1:]]
    return arguments


def flags_of(name: str) -> list[str]:
    """The settings of `--from` as flags: those of a run, of its `run.yaml`, or of a file with the same keys."""
    from buildup.space.load import read_mapping
    from buildup.store.run_dir import folder_of

    path = Path(name) if Path(name).is_file() else folder_of(name) / "run.yaml"
    if not path.is_file():
        raise RequestError(f"--from {name}: there is no such file and no such run. `buildup ls` lists the runs.")
    values = read_mapping(path, RequestError, "file of settings, such as `epochs: 4`,")
    if isinstance(values.get("settings"), Mapping):
        settings = _of_run(values["settings"])
    elif "from" in values:
        raise RequestError(f"{path}: from: a file of settings can't name another one.")
    else:
        settings = values
    return [flag for key, value in settings.items() for flag in _flag(key, value)]


def _of_run(kept: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run that another one can have."""
    from buildup.settings import asked_weights

    settings = {key: value for key, value in kept.items() if key not in OWN}
    if any(str(change).startswith("epochs=") for change in settings.get("set") or ()):
        del settings["epochs"]
    return settings | asked_weights(settings.get("base"), settings.get("pretrained"))


@cache
def switches() -> frozenset[str]:
    """The settings of a search that may be false, which as flags are left out."""
    from buildup.settings import SearchSettings

    hints = get_type_hints(SearchSettings)
    return frozenset(name for name, hint in hints.items() if bool in (get_args(hint) or (hint,)))


def _flag(key: str, value: Any) -> Iterator[str]:
    flag = f"--{key.replace('_', '-')}"
    if value is True:
        yield flag
    elif isinstance(value, list | tuple):
        yield from (f"{flag}={one}" for one in value)
    elif value is not None and not (value is False and key in switches()):
        yield f"{flag}={value}"


def _show_help(console: Any, options: Any, panel: Any) -> None:
    """Show a panel of the help. A text that takes several lines in the source is one paragraph."""
    from cyclopts.help import DefaultFormatter

    for entry in panel.entries:
        if text := getattr(entry.description, "primary_renderable", None):
            text.plain = " ".join(text.plain.split())
    DefaultFormatter()(console, options, panel)


def _lines(command: str) -> str:
    """A command on lines of 80 columns that a shell takes as one."""
    return " \\\n    ".join(textwrap.wrap(command.strip(), 74, break_on_hyphens=False, break_long_words=False))


def _joined(arguments: Sequence[str]) -> list[str]:
    """Flags with the negative values that follow them in one word; `-5m` alone would be taken for a flag.

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


def _convert(type_: Any, tokens: Sequence[Any]) -> Any:
    """The value of a flag; as it was typed where it does not fit, so that a request names all its problems at once."""
    try:
        # Cyclopts would round 1.5 seeds to 2.
        return int(tokens[0].value) if type_ is int else to_type(type_, tokens)
    except (CoercionError, ValueError):
        return tokens[0].value


def _complete(context: Any) -> list[str]:
    """What the value of an argument may be, as a shell shows it."""
    name, found = context.argument.name, list[str]()
    if name in RUNS:
        found += sorted(path.parent.name for path in Path("runs").glob("*/run.yaml"))
    if name in VALUES:
        module, _, names = VALUES[name].partition(":")
        members = getattr(import_module(module), names)
        found += members() if callable(members) else members
    if name in FILES:
        found += sorted(glob.glob(f"{glob.escape(context.incomplete)}*"))
    return found


def _shown_default(value: object) -> str | None:
    """A default as the help shows it; a switch that is off and a text that is empty are none."""
    return None if value is None or value is False or value in ("", ()) else str(value)


class _Stderr(logging.StreamHandler[Any]):
    """Messages on whatever stderr is at the moment, in a terminal on lines of its width."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr  # not setStream, which flushes a stream that may be closed by now
        super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        return for_terminal(super().format(record), sys.stderr)
