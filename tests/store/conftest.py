"""A PostgreSQL server of our own, where its programs are installed."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
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
    initdb = shutil.which("initdb") or next(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")), None)
    if initdb is None:
        pytest.skip("needs PostgreSQL's own programs")
    with tempfile.TemporaryDirectory() as name, socket.socket() as free:
        if os.getuid() == 0:
            shutil.chown(name, "nobody")
        user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.getuid() == 0 else []
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


@pytest.fixture
def postgres(server: Server) -> str:
    """Its address."""
    return server.url
