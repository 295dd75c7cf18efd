"""How well cheap scores ranked the candidates, wherever both exist."""

from collections.abc import Iterator, Sequence

from buildup.report.findings import Findings
from buildup.report.html import table_head
from buildup.report.table import aligned
from buildup.report.words import escape
from buildup.trials.ranking import Ranking

HEAD = ("cheap score", "#share of epochs", "#candidates", "#tau", "#95 % interval", "same first")
EXPLAINED = (
    "Kendall's tau between cheap and full scores: 1 where both put the candidates into the same order, 0 where one "
    "says nothing of the other. An early epoch shares the luck of its own training, so it agrees better than another "
    "training of so many epochs would."
)


def page(findings: Findings) -> Iterator[str]:
    """For the page."""
    if not findings.rankings:
        return
    body = "".join(
        f"<tr><td>{escape(cells[0])}</td>"
        + "".join(f'<td class="number">{escape(cell)}</td>' for cell in cells[1:-1])
        + f"<td>{escape(cells[-1])}</td></tr>"
        for cells in rows(findings.rankings)[1:]
    )
    yield "<section><h2>How well cheap scores ranked</h2>"
    yield f'<div class="scroll"><table>{table_head(*HEAD)}<tbody>{body}</tbody></table></div>'
    yield f'<p class="muted small">{escape(EXPLAINED)}</p></section>'


def text(findings: Findings) -> Iterator[str]:
    """For Markdown."""
    if findings.rankings:
        yield from ("## How well cheap scores ranked", "", "```")
        yield from aligned(rows(findings.rankings), right=range(1, len(HEAD) - 1))
        yield from ("```", "", EXPLAINED, "")


def rows(rankings: Sequence[Ranking]) -> list[list[str]]:
    """The rankings as a table, its head first."""
    cells = [
        [
            one.cheap,
            f"{100 * one.share:.0f} %",
            str(one.candidates),
            f"{one.tau:+.2f}",
            f"{one.low:+.2f} to {one.high:+.2f}",
            "yes" if one.best else "no",
        ]
        for one in rankings
    ]
    return [[name.removeprefix("#") for name in HEAD], *cells]
