"""`dashboard` serves a run until it is asked to end."""

import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

import pytest

from browser import CHROMIUM, browser
from buildup.engine.dashboard import serve_dashboard
from buildup.errors import BuildupError


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


def test_a_server_that_others_can_reach_is_warned_of(tried: Path, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for host, warned in (("0.0.0.0", True), ("127.0.0.1", False)):
            caplog.clear()
            with pytest.raises(BuildupError, match=f"{port} can't be served"):
                serve_dashboard(str(tried), host=host, port=port)
            assert ("lets others on the network read and change this study" in caplog.text) is warned


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
def test_a_person_finds_the_winner_and_writes_a_note(
    tried: Path, tmp_path: Path, start: Callable[..., "subprocess.Popen[str]"]
) -> None:
    run = shutil.copytree(tried, tmp_path / "tried")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "buildup", "dashboard", str(run), "--port", str(port)]
    process = start(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = next(line for line in process.stderr if "Ctrl-C ends it" in line)
    address = re.search(r"http://\S+", said)
    assert address
    with browser() as page:
        page.open(address[0])
        page.wait_for("Build-up: accuracy of each network")
        page.wait_for("Lineage")
        page.click("a, button", "Details")
        page.wait_for("keep at step 1")
        page.click("button:has(svg[data-testid=EditIcon])")
        page.click("textarea")
        page.type("Seen by a person. ")
        page.click("button", "Save")
        page.wait("![...document.querySelectorAll('button')].some(one => one.textContent.includes('Save'))")
        page.wait_for("Seen by a person.")
        assert page.errors == []
    done = subprocess.run(
        [sys.executable, "-m", "buildup", "report", str(run), "--format", "md"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Seen by a person." in done.stdout
