"""The claim: base and winner trained anew, on test images that no verdict saw."""

from collections.abc import Iterator

from buildup.report.final_table import RIGHT, final_rows, header, how, markdown_final
from buildup.report.findings import Findings
from buildup.report.html import table_head
from buildup.report.words import escape, plain


def page(findings: Findings) -> Iterator[str]:
    """For the page."""
    if findings.final is None:
        return
    head = table_head(*(f"#{name}" if index in RIGHT else name for index, name in enumerate(header(findings.final))))
    rows = "".join(f"<tr>{''.join(map(_cell, range(len(row)), row))}</tr>" for row in final_rows(findings.final))
    proven = " proven" if findings.final.claims[0].claimed else ""
    yield "<section><h2>The final</h2>"
    yield f'<div class="claim{proven}"><p><strong>{escape(findings.final.verdict)}</strong></p></div>'
    yield f'<div class="scroll"><table>{head}<tbody>{rows}</tbody></table></div>'
    yield f'<p class="muted small">{escape(how(findings.final))}</p></section>'


def text(findings: Findings) -> Iterator[str]:
    """For Markdown."""
    if findings.final is None:
        return
    yield from ("## The final", "", f"**{plain(findings.final.verdict)}**", "")
    yield from (*markdown_final(findings.final), "", plain(how(findings.final)), "")


def _cell(index: int, text: str) -> str:
    kind = "number" if index in RIGHT else "layout" if index == 1 else ""
    return f'<td class="{kind}">{escape(text)}</td>'
