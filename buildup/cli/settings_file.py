"""The settings of `--from`: those of a run, of its `run.yaml`, or of a file with the same keys, as flags."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from cyclopts import Parameter

from buildup.errors import RequestError
from buildup.settings import asked_weights
from buildup.store.run_dir import folder_of

From = Annotated[
    str | None, Parameter(name="--from", help="Take the settings of a run or a YAML file; other flags change them.")
]
OWN = frozenset({"run", "pretrained_hash", "storage"})
"""Settings that belong to one run."""


def flags_of(name: str) -> list[str]:
    """The settings of a run or a file as flags."""
    path = Path(name) if Path(name).is_file() else folder_of(name) / "run.yaml"
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RequestError(
            f"--from {name}: there is no such file and no such run. `buildup ls` lists the runs."
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as problem:
        raise RequestError(f"--from {path}: can't be read: {' '.join(str(problem).split())}.") from None
    is_run = isinstance(values, Mapping) and isinstance(values.get("settings"), Mapping)
    settings = _of_run(values["settings"]) if is_run else values
    if not isinstance(settings, Mapping):
        raise RequestError(f"--from {path}: lines like `epochs: 4` are needed.")
    return [flag for key, value in settings.items() for flag in _flags(str(key), value)]


def _of_run(kept: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run that another one can have."""
    settings = {key: value for key, value in kept.items() if key not in OWN}
    if any(str(change).startswith("epochs=") for change in settings.get("set") or ()):
        del settings["epochs"]
    return settings | asked_weights(settings.get("base"), settings.get("pretrained"))


def _flags(key: str, value: Any) -> Iterator[str]:
    flag = f"--{key.replace('_', '-')}"
    if value is True:
        yield flag
    elif isinstance(value, list | tuple):
        yield from (f"{flag}={one}" for one in value)
    elif value is not None and value is not False:
        yield f"{flag}={value}"
