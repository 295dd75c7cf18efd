"""All settings and versions of the run."""

from collections.abc import Iterator

from buildup.report.findings import Findings, flat
from buildup.report.words import escape


def page(findings: Findings) -> Iterator[str]:
    """For the page."""
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>'
        for name, value in flat(findings.settings)
    )
    yield f"<section><details><summary>All settings and versions</summary><table>{rows}</table></details></section>"
