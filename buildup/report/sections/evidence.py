"""Which diagnostic goes with a gain, where the verdicts of the run were measured."""

from collections.abc import Iterator, Sequence

from buildup.report.chart import taus_svg
from buildup.report.diagnostic_table import EXPLAINED, Evidence, correlation_rows, diagnosis_rows
from buildup.report.findings import Findings
from buildup.report.html import table_head
from buildup.report.text_table import code
from buildup.report.words import escape, plain

TITLE = "Does anything tell which replacement helps?"
CODE = ("run", "place")
"""The columns that hold what can be typed."""


def page(findings: Findings) -> Iterator[str]:
    """For the page."""
    if findings.evidence:
        yield from evidence_page(findings.evidence)


def text(findings: Findings) -> Iterator[str]:
    """For Markdown."""
    if findings.evidence:
        yield from evidence_lines(findings.evidence)


def evidence_page(evidence: Evidence) -> Iterator[str]:
    """Of one run or several, for a page."""
    yield f"<section><h2>{TITLE}</h2>"
    yield from (f"<p>{escape(sentence)}</p>" for sentence in evidence.words)
    if evidence.correlations:
        yield f'<div class="scroll">{taus_svg(evidence.correlations)}</div>'
    yield "<h3>Parent → candidate, at the place of each edit</h3>"
    yield f'<p class="muted small">{escape(EXPLAINED)}</p>'
    yield f'<div class="scroll">{_table(diagnosis_rows(evidence.rows))}</div></section>'


def evidence_lines(evidence: Evidence) -> Iterator[str]:
    """The same for Markdown."""
    yield from (f"## {TITLE}", "")
    for sentence in evidence.words:
        yield from (plain(sentence), "")
    if evidence.correlations:
        yield from (*_markdown(correlation_rows(evidence)), "")
    yield from (*_markdown(diagnosis_rows(evidence.rows)), "", plain(EXPLAINED), "")


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    numbers = [name not in (*CODE, "verdict") for name in head]
    lines = []
    for row in body:
        cells = []
        for name, is_number, cell in zip(head, numbers, row, strict=True):
            kind = {"verdict": cell, "place": "layout", "run": "layout"}.get(name, "number" if is_number else "")
            sign = {"keep": "● ", "drop": "◇ "}.get(cell, "") if name == "verdict" else ""
            cells.append(f'<td class="{escape(kind)}">{sign}{escape(cell)}</td>')
        lines.append(f"<tr>{''.join(cells)}</tr>")
    names = (f"#{name}" if is_number else name for name, is_number in zip(head, numbers, strict=True))
    return f"<table>{table_head(*names)}<tbody>{''.join(lines)}</tbody></table>"


def _markdown(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    head, *body = rows
    ruler = ["---" if name in (*CODE, "verdict", "diagnostic", "known") else "---:" for name in head]
    yield from (f"| {' | '.join(row)} |" for row in (head, ruler))
    for row in body:
        cells = (f"`{code(cell)}`" if name in CODE else cell for name, cell in zip(head, row, strict=True))
        yield f"| {' | '.join(cells)} |"
