"""Building blocks of HTML pages: the style sheet, the document, sections, tables and tiles.

Blue stands for attention and kept steps, orange for dropped steps. They are distinguishable with all common forms of
colour blindness. The colours of block kinds also differ in lightness. Shape and text repeat whatever a colour shows.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from string import Template

from buildup import __version__
from buildup.report.text_table import ColumnKind, TextTable
from buildup.report.words import escape

_LIGHT = (
    "--page:#f4f6f8;--surface:#fff;--band:#f4f6f8;--ink:#18212c;--muted:#566373;--line:#d6dce3;--grid:#e6eaef;"
    "--accent:#0b69ad;--drop:#b44a00;--conv:#e3e8ee;--conv-ink:#2d3947;--quiet:#9fabb9;"
    "--note:#fff5dc;--note-line:#c98a00;--global:#4a1942;--kernel:#35a583;--smooth:#f4b63c;"
)
_DARK = (
    "--page:#10151b;--surface:#181f27;--band:#1f2731;--ink:#e7edf4;--muted:#9fadbc;--line:#35414f;--grid:#28323d;"
    "--accent:#62b6ec;--drop:#f4a261;--conv:#303b48;--conv-ink:#dbe4ed;--quiet:#5d6b7b;"
    "--note:#2c2616;--note-line:#d9a520;--global:#f3d3ee;--kernel:#239a72;--smooth:#e8a820;"
)

SANS = "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif"
MONO = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace"


def palette(selector: str, more_light: str = "", more_dark: str = "") -> str:
    """The colours of a selector, following the light or dark preference of the reader, and light in print."""
    light, dark = _LIGHT + more_light, _DARK + more_dark
    return (
        f"{selector}{{{light}}}"
        f"@media (prefers-color-scheme:dark){{{selector}{{{dark}}}}}"
        f"@media print{{{selector}{{{light}}}}}"
    )


def with_fallbacks(sheet: str, more_light: str = "") -> str:
    """A style sheet with each colour also as it is in the light, for viewers of SVG that know no variables.

    >>> with_fallbacks(".a{fill:var(--new)}", "--new:#fff;")
    '.a{fill:#fff;fill:var(--new)}'
    """
    colours = dict(re.findall(r"--([\w-]+):([^;]+);", _LIGHT + more_light))
    return re.sub(r"([\w-]+):var\(--([\w-]+)\)", lambda found: f"{found[1]}:{colours[found[2]]};{found[0]}", sheet)


_SHEET = Template(Path(__file__).with_name("page.css").read_text(encoding="utf-8"))
PAGE = "\n" + _SHEET.substitute(palette=palette(":root"), SANS=SANS, MONO=MONO)
"""The style sheet of pages."""

CONTENT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""A second defence behind the escaping: the browser runs no script and loads nothing."""
VERDICT_MARKS = {"keep": "● ", "drop": "◇ "}


def document(title: str, parts: Iterable[str], *, policy: str = CONTENT_POLICY) -> str:
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


def page_header(kind: str, title: str, facts: Iterable[tuple[str, object]], note: str = "") -> str:
    named = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    small = f'<p class="small muted">{escape(note)}</p>' if note else ""
    return (
        f'<header><p class="eyebrow">{escape(kind)}</p><h1>{escape(title)}</h1>\n'
        f'<dl class="asked">{named}</dl>{small}</header>'
    )


def warning_box(title: str, warnings: Sequence[str]) -> str:
    texts = "".join(f"<p>{escape(warning)}</p>" for warning in warnings)
    return f'<section class="warning" role="note"><p><strong>{escape(title)}</strong></p>{texts}</section>'


def settings_section(title: str, settings: Iterable[tuple[str, object]]) -> str:
    rows = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in settings)
    folded = f"<summary>{escape(title)}</summary><table>{rows}</table>"
    return f'<section class="settings"><details>{folded}</details></section>'


def html_section(title: str, *parts: str) -> str:
    """A section with a heading; its parts are HTML."""
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>"


def small_note(text: str) -> str:
    return f'<p class="muted small">{escape(text)}</p>'


def scrollable(content: str) -> str:
    return f'<div class="scroll">{content}</div>'


def responsive(wide: str, narrow: str) -> str:
    """A picture in two forms: for screens and paper, and for phones, where the wide one would be cut or tiny."""
    return f'<div class="wide scroll">{wide}</div><div class="narrow">{narrow}</div>'


def glossary(words: Iterable[tuple[str, str, str]]) -> str:
    """Words with their explanations, which open with a click. Each has an anchor; explanations are HTML."""
    rows = "".join(
        f'<dt id="word-{escape(anchor)}">{escape(word)}</dt><dd>{explained}</dd>' for anchor, word, explained in words
    )
    return f'<section><details class="glossary"><summary>Glossary</summary><dl>{rows}</dl></details></section>'


def tile(name: str, value: str, unit: str, more: str) -> str:
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
    classes = (' class="number"' if kind == "number" else "" for _, kind in table.columns)
    names = (escape(name) for name, _ in table.columns)
    head = "".join(f'<th scope="col"{mark}>{name}</th>' for mark, name in zip(classes, names, strict=True))
    return scrollable(f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>")


def _cell(cell: str, kind: ColumnKind) -> str:
    text = escape(cell)
    if kind == "heading":
        return f'<th scope="row">{text}</th>'
    if kind == "code":
        return f"<td><code>{text}</code></td>"
    if kind == "verdict":
        return f'<td class="{text}">{VERDICT_MARKS.get(cell, "")}{text}</td>'
    return f"<td>{text}</td>" if kind == "text" else f'<td class="{kind}">{text}</td>'
