"""How to go on."""

from collections.abc import Iterator

from buildup.report.findings import Findings
from buildup.report.words import clean, escape


def page(findings: Findings) -> Iterator[str]:
    """For the page."""
    commands = "".join(
        f'<p class="small muted">{escape(purpose)}</p><pre>{escape(command)}</pre>'
        for command, purpose in findings.commands
    )
    yield f"<section><h2>How to go on</h2>{commands}</section>"


def text(findings: Findings) -> Iterator[str]:
    """For Markdown."""
    yield from ("## How to go on", "")
    yield from (f"    {clean(command):<44}  # {purpose}" for command, purpose in findings.commands)
    yield ""
