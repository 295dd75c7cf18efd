"""What a person sees after the search and the final of the README: the report, the dashboard, the terminal, the site.

Each page must fit its window and load without an error. `BUILDUP_SCREENSHOTS=docs/figures/screens pytest -m slow
tests/test_screenshots.py` keeps the pictures; without it they are thrown away.
"""

import html
import os
import pty
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from browser import CHROMIUM, Page, browser

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine"),
]
ROOT = Path(__file__).parent.parent
SEARCH = "--base resnet6 --dataset cued-digits --recipe quick-plain --epochs 4 --seeds 2 --run demo"
COLUMNS = 80
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    kept = os.environ.get("BUILDUP_SCREENSHOTS")
    return ROOT / kept if kept else tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of the runs, and what the search wrote on a terminal of 80 columns."""
    folder = tmp_path_factory.mktemp("work")
    text = on_terminal(["search", *SEARCH.split()], folder)
    command = [sys.executable, "-m", "buildup", "final", "demo", "--seeds", "3"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder, text


@pytest.fixture
def page() -> Iterator[Page]:
    with browser() as opened:
        yield opened


def on_terminal(arguments: list[str], folder: Path) -> str:
    """All that a command writes on a terminal of 80 columns and 24 lines."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(COLUMNS), "LINES": "24", "TERM": "xterm-256color"}
    process = subprocess.Popen(
        [sys.executable, "-m", "buildup", *arguments],
        cwd=folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
    )
    os.close(theirs)
    parts = []
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # Linux says so when the last writer has gone
            break
        if not part:
            break
        parts.append(part)
    os.close(ours)
    assert process.wait() == 0, b"".join(parts)[-2000:]
    return b"".join(parts).decode()


@pytest.mark.parametrize(("width", "dark"), [(390, False), (768, False), (1200, False), (1200, True)])
def test_the_report_fits_its_window(width: int, dark: bool, said: tuple[Path, str], page: Page, pictures: Path) -> None:
    page.look_like(width, 900, dark=dark)
    page.open((said[0] / "runs" / "demo" / "report.html").as_uri())
    page.wait_for("Final evaluation")
    assert page.overflow() == 0
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", colour)[:3])) < 384) is dark
    assert page.errors == []
    page.screenshot(pictures / f"report-{width}{'-dark' if dark else ''}.webp")


def test_the_dashboard_shows_the_winner_first(
    said: tuple[Path, str], page: Page, pictures: Path, start: Callable[..., "subprocess.Popen[Any]"]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "buildup", "dashboard", "demo", "--port", str(port)]
    process = start(command, cwd=said[0], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    address = re.search(r"http://\S+", next(line for line in process.stderr if "Ctrl-C ends it" in line))
    assert address
    page.look_like(1280, 900)
    page.open(address[0])
    page.wait_for("Build-up: accuracy of each network")
    page.wait("document.querySelectorAll('.plot-container svg').length > 3")
    title = "[...document.querySelectorAll('text')].find(one => one.textContent.startsWith('Build-up: accuracy'))"
    page.evaluate(f"{title}.scrollIntoView({{block: 'start'}}) ?? window.scrollBy(0, -120) ?? true")
    page.screenshot(pictures / "dashboard.webp")
    page.open(f"{address[0]}/trials?numbers=1")
    page.wait_for("keep at step 1")
    page.screenshot(pictures / "dashboard-network.webp")
    assert page.errors == []


def test_a_terminal_of_80_columns_is_not_left(said: tuple[Path, str], page: Page, pictures: Path) -> None:
    drawn = re.sub(r"\x1b\[\?[0-9]+[hl]", "", said[1])
    lines = [ESCAPES.sub("", line.rpartition("\r")[2]) for line in drawn.replace("\r\n", "\n").split("\n")]
    assert [line for line in lines if len(line) > COLUMNS] == []
    start = max(number for number, line in enumerate(lines) if line.startswith("step  edit"))
    last = "\n".join(lines[start:]).rstrip()
    text = f"<body style='margin:12px;background:#111;color:#ddd'><pre style='font:14px monospace'>{html.escape(last)}"
    page.look_like(720, 340)
    page.open(f"data:text/html;charset=utf-8,{quote(text)}")
    page.wait_for("resnet6 became")
    assert page.overflow() == 0
    page.screenshot(pictures / "terminal.webp")


@pytest.mark.parametrize("width", [390, 1200])
def test_the_site_fits_its_window(width: int, page: Page, pictures: Path, tmp_path: Path) -> None:
    pytest.importorskip("material", reason="the theme of the site comes with the extra docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    page.look_like(width, 900)
    page.open((tmp_path / "index.html").as_uri())
    page.wait_for("Where should self-attention go")
    assert page.overflow() == 0
    page.screenshot(pictures / f"site-{width}.webp")
