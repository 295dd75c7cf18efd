"""`dashboard` serves a run until it is asked to end."""

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen


def test_a_run_is_served_until_it_is_terminated(tried: Path, start: Callable[..., "subprocess.Popen[str]"]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    asked = ["dashboard", str(tried), "--port", str(port)]
    process = start([sys.executable, "-m", "buildup", *asked], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = next(line for line in process.stderr if "Ctrl-C ends it" in line)
    with urlopen(f"http://127.0.0.1:{port}/dashboard") as page:
        assert page.status == 200
    assert f"http://127.0.0.1:{port}/dashboard" in said
    process.terminate()
    assert process.wait(timeout=60) == 0
