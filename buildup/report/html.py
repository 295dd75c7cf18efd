"""Building blocks of HTML pages: the document, sections, tables and tiles."""

from collections.abc import Iterable, Sequence

from buildup import __version__
from buildup.report.style import PAGE
from buildup.report.text_table import ColumnKind, TextTable
from buildup.report.words import escape

CONTENT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""A second defence behind the escaping: the browser runs no script and loads nothing."""
VERDICT_MARKS = {"keep": "● ", "drop": "◇ "}


def document(title: str, parts: Iterable[str], *, policy: str = CONTENT_POLICY) -> str:
    """A whole page around its parts."""
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{PAGE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n"
        f'<footer class="muted small">Written by buildup {__version__}.</footer>\n'
        "</main>\n</body>\n</html>\n"
    )


def html_section(title: str, *parts: str) -> str:
    """A section with a heading; its parts are HTML."""
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>"


def small_note(text: str) -> str:
    """A paragraph of explanation in small print."""
    return f'<p class="muted small">{escape(text)}</p>'


def scrollable(content: str) -> str:
    """A table or picture that scrolls where the screen is too narrow for it."""
    return f'<div class="scroll">{content}</div>'


def tile(name: str, value: str, unit: str, more: str) -> str:
    """One number with its name, unit and details."""
    return (
        f'<div class="tile"><div class="name">{escape(name)}</div>'
        f'<div class="value">{escape(value)} <span class="unit">{escape(unit)}</span></div>'
        f'<div class="more">{escape(more)}</div></div>'
    )


def html_table(table: TextTable, *, below: Sequence[str] = ()) -> str:
    """A table as HTML, scrollable. `below` holds one text per row, shown under it."""
    rows = []
    for number, row in enumerate(table.rows):
        cells = "".join(_cell(cell, kind) for cell, (_, kind) in zip(row, table.columns, strict=True))
        if below:
            reason = f'<td class="reason" colspan="{len(row) - 1}">{escape(below[number])}</td>'
            rows.append(f'<tr class="with-reason">{cells}</tr><tr><td></td>{reason}</tr>')
        else:
            rows.append(f"<tr>{cells}</tr>")
    head = table_head(*(f"#{name}" if kind == "number" else name for name, kind in table.columns))
    return scrollable(f"<table>{head}<tbody>{''.join(rows)}</tbody></table>")


def _cell(cell: str, kind: ColumnKind) -> str:
    text = escape(cell)
    if kind == "heading":
        return f'<th scope="row">{text}</th>'
    if kind == "code":
        return f"<td><code>{text}</code></td>"
    if kind == "verdict":
        return f'<td class="{text}">{VERDICT_MARKS.get(cell, "")}{text}</td>'
    return f"<td>{text}</td>" if kind == "text" else f'<td class="{kind}">{text}</td>'


def table_head(*names: str) -> str:
    """The header row of a table; the prefix # marks a column of numbers."""
    cells = (
        f'<th scope="col" class="number">{escape(name[1:])}</th>'
        if name.startswith("#")
        else f'<th scope="col">{escape(name)}</th>'
        for name in names
    )
    return f"<thead><tr>{''.join(cells)}</tr></thead>"
