"""What each step gained, and why it was kept or dropped."""

from collections.abc import Iterator, Sequence

from buildup.report.chart import gains_svg
from buildup.report.findings import Findings
from buildup.report.html import known, table_head
from buildup.report.text_table import markdown_table
from buildup.report.words import escape, gain, interval, interval_heading, plain
from buildup.trials.decision import Decision


def page(findings: Findings) -> Iterator[str]:
    """For the page."""
    yield "<section><h2>What each step gained</h2>"
    if findings.decisions:
        yield f'<div class="scroll">{gains_svg(findings.decisions)}</div>'
    yield f'<div class="scroll">{_decisions(findings.decisions)}</div></section>'


def text(findings: Findings) -> Iterator[str]:
    """For Markdown."""
    yield from ("## Steps", "", markdown_table(findings.decisions), "")
    yield from (f"{decision.step}. {plain(decision.reason)}" for decision in findings.decisions)
    yield ""


def _decisions(decisions: Sequence[Decision]) -> str:
    if not decisions:
        return '<p class="muted">No decisions yet.</p>'
    heading, with_level = interval_heading(decisions)
    rows = []
    for decision in decisions:
        sign = "●" if decision.kept else "◇"
        ends = interval(decision, with_level=with_level)
        rows.append(
            f'<tr class="with-reason"><td class="number">{decision.step}</td>'
            f'<td><code>{escape(decision.edit)}</code></td><td class="layout">{escape(decision.layout)}</td>'
            f'<td class="number">{gain(decision)}</td><td class="number">{ends}</td>'
            f'<td class="number">{decision.seeds}</td><td class="number">{known(decision.params)}</td>'
            f'<td class="number">{known(decision.macs)}</td>'
            f'<td class="{"keep" if decision.kept else "drop"}">{sign} {escape(decision.verdict)}</td></tr>'
            f'<tr><td></td><td class="reason" colspan="8">{escape(decision.reason)}</td></tr>'
        )
    head = table_head("#step", "edit", "layout", "#gain", f"#{heading}", "#seeds", "#params", "#MACs", "verdict")
    return f"<table>{head}<tbody>{''.join(rows)}</tbody></table>"
