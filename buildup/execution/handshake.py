"""Compares a node of a cluster with the driver, because other code or a folder of its own would give wrong scores."""

import socket
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path

FOLDER_PATIENCE = 10.0
"""Seconds until a folder that was just made must be there on other nodes: shared file systems keep old listings."""


def software() -> dict[str, str]:
    """The versions in this process, and a hash of the code of buildup; names are left out where nothing is installed.

    It is sent to other nodes as it is, where buildup may be missing, so it imports all that it needs.
    """
    import hashlib
    import importlib.metadata
    import importlib.util
    import pathlib
    import platform

    found = {"python": platform.python_version()}
    for name in ("buildup", "torch", "timm"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    spec = importlib.util.find_spec("buildup")
    for folder in (spec and spec.submodule_search_locations) or ():
        digest = hashlib.sha256()
        for path in sorted(pathlib.Path(folder).rglob("*.py")):
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
        found["code of buildup"] = digest.hexdigest()[:12]
    return found


def differences(driver: Mapping[str, str], node: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """How a node differs from the driver: what makes its scores another experiment's, and what only may.

    >>> differences({"torch": "2.10.0", "timm": "1.0.30"}, {"torch": "2.10.1", "timm": "1.0.31"})
    (['timm 1.0.31, and the driver 1.0.30'], ['torch 2.10.1, and the driver 2.10.0'])
    >>> differences({"code of buildup": "ab"}, {})
    (['no code of buildup, and the driver ab'], [])
    """
    serious: list[str] = []
    slight: list[str] = []
    for name, ours in driver.items():
        theirs = node.get(name)
        if ours == theirs:
            continue
        minor = name in {"python", "torch"} and theirs and ours.split(".")[:2] == theirs.split(".")[:2]
        told = f"{f'{name} {theirs}' if theirs else f'no {name}'}, and the driver {ours}"
        (slight if minor else serious).append(told)
    return serious, slight


def answer(probe: str) -> tuple[dict[str, str], str]:
    """The software of a node, and why it does not see a file. Like `software`, it is sent as it is."""
    if "://" in probe:
        import pyarrow.fs

        try:
            filesystem, path = pyarrow.fs.FileSystem.from_uri(probe)
            return software(), "" if filesystem.get_file_info(path).is_file else "what the driver wrote is not there"
        except (OSError, ValueError) as problem:
            return software(), str(problem).partition(" Detail:")[0]
    end = time.monotonic() + FOLDER_PATIENCE
    while not Path(probe).exists() and time.monotonic() < end:
        time.sleep(0.1)
    return software(), "" if Path(probe).exists() else "it is not there"


def refusal(expected: Mapping[str, str]) -> str | None:
    """Why this process must not train; None if it has the software of the driver."""
    serious, _ = differences(expected, _own_software())
    return f"{socket.gethostname()} has {'; '.join(serious)}. Install there what the driver has." if serious else None


_own_software = cache(software)


def unseen(folder: Path) -> str:
    return (
        f"does not see {folder}, where the trainings of this run are kept. All nodes must share the folder of a run: "
        "share it, or search again with --run on a path that is shared."
    )
