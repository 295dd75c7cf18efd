"""A headless Chromium that tests open pages in, click and read, by its DevTools protocol over two pipes."""

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run")
PATIENCE = 60.0
"""Seconds until something must have appeared."""


class Page:
    """One tab of a browser."""

    def __init__(self, commands: int, answers: int) -> None:
        """`commands` and `answers` are the descriptors of the two pipes."""
        self._commands, self._answers = commands, answers
        self._rest = b""
        self._numbers = itertools.count(1)
        self._session: dict[str, str] = {}
        self.errors: list[str] = []
        """Exceptions of the page's scripts, and what failed to load."""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    def open(self, url: str) -> None:
        """Go to an address."""
        self._call("Page.navigate", url=url)

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        found = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, script: str) -> Any:
        """Wait until a JavaScript expression is true, and return its value."""
        deadline = time.monotonic() + PATIENCE
        while not (value := self.evaluate(script)):
            assert time.monotonic() < deadline, f"{script} stayed {value!r} on: {self.text()[:2000]}"
            time.sleep(0.05)
        return value

    def wait_for(self, text: str) -> None:
        """Wait until the page shows a text."""
        self.wait(f"document.body?.innerText.includes({json.dumps(text)})")

    def text(self) -> str:
        """What the page shows as text."""
        return str(self.evaluate("document.body?.innerText"))

    def click(self, selector: str, text: str = "") -> None:
        """Click the first element of a CSS selector that holds a text, with the mouse, once it is there."""
        elements = f"[...document.querySelectorAll({json.dumps(selector)})]"
        place = self.wait(
            f"(() => {{ const e = {elements}.find(e => e.textContent.includes({json.dumps(text)}));"
            " if (!e) return null; e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect();"
            " return r.width ? [r.x + r.width / 2, r.y + r.height / 2] : null; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self._call("Input.insertText", text=text)

    def look_like(self, width: int, height: int, *, dark: bool = False) -> None:
        """Show pages as on a screen of a size, in light or dark colours."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])

    def overflow(self) -> int:
        """By how many pixels the page is wider than its window."""
        return int(self.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))

    def screenshot(self, path: Path) -> None:
        """Write what the window shows as a WebP file, small enough to be kept."""
        found = self._call("Page.captureScreenshot", format="webp", quality=60)
        path.write_bytes(base64.b64decode(found["data"]))

    def _call(self, method: str, **values: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": values, **self._session}
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])
            if answer.get("method") == "Runtime.exceptionThrown":
                self.errors.append(str(answer["params"]["exceptionDetails"]))
            elif answer.get("method") == "Log.entryAdded" and answer["params"]["entry"]["level"] == "error":
                self.errors.append(answer["params"]["entry"]["text"])

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._answers, 1 << 20)
            assert part, "the browser ended"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(message))


@contextmanager
def browser(size: tuple[int, int] = (1280, 900)) -> Iterator[Page]:
    """A page of a new browser, which ends with the block."""
    assert CHROMIUM is not None
    (their_commands, commands), (answers, their_answers) = os.pipe(), os.pipe()
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # A browser reads commands from descriptor 3 and answers on 4.
        script = f'exec "$0" "$@" 3<&{their_commands} 4>&{their_answers}'
        command = [
            "bash",
            "-c",
            script,
            CHROMIUM,
            *OPTIONS,
            f"--window-size={size[0]},{size[1]}",
            f"--user-data-dir={profile}",
        ]
        process = subprocess.Popen(
            command, pass_fds=(their_commands, their_answers), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        os.close(their_commands)
        os.close(their_answers)
        try:
            yield Page(commands, answers)
        finally:
            process.kill()
            process.wait()
            os.close(commands)
            os.close(answers)
