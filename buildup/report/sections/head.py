"""What was asked, and what to read first."""

from collections.abc import Iterator

from buildup.report.findings import Findings
from buildup.report.words import escape, plain


def page(findings: Findings) -> Iterator[str]:
    """For the page."""
    yield f'<header><p class="eyebrow">buildup search</p><h1>{escape(findings.title)}</h1>'
    facts = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in findings.asked)
    yield f'<dl class="asked">{facts}</dl><p class="small muted">{escape(findings.finished)}</p></header>'
    if findings.warnings:
        warnings = "".join(f"<p>{escape(warning)}</p>" for warning in findings.warnings)
        yield f'<section class="warning" role="note"><p><strong>Read this first</strong></p>{warnings}</section>'


def text(findings: Findings) -> Iterator[str]:
    """For Markdown."""
    yield f"# {plain(findings.title)}"
    yield ""
    yield from (f"> **Warning:** {plain(text)}  " for text in findings.warnings)
    yield ", ".join(f"{plain(name)} {plain(value)}" for name, value in findings.asked)
    yield from ("", plain(findings.finished), "")
