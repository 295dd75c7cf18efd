"""Building blocks of HTML pages: the style sheet, the document, sections, tables and tiles.

Blue stands for attention and kept steps, orange for dropped steps. They are distinguishable with all common forms of
colour blindness. The colours of block kinds also differ in lightness. Shape and text repeat whatever a colour shows.
"""

from collections.abc import Iterable, Sequence

from buildup import __version__
from buildup.report.text_table import ColumnKind, TextTable
from buildup.report.words import escape

_LIGHT = (
    "--page:#f4f6f8;--surface:#fff;--band:#f4f6f8;--ink:#18212c;--muted:#566373;--line:#d6dce3;--grid:#e6eaef;"
    "--accent:#0b69ad;--on-accent:#fff;--drop:#b44a00;--conv:#e3e8ee;--conv-ink:#2d3947;--quiet:#9fabb9;"
    "--note:#fff5dc;--note-line:#c98a00;--global:#4a1942;--kernel:#35a583;--smooth:#f4b63c;"
)
_DARK = (
    "--page:#10151b;--surface:#181f27;--band:#1f2731;--ink:#e7edf4;--muted:#9fadbc;--line:#35414f;--grid:#28323d;"
    "--accent:#62b6ec;--on-accent:#06243a;--drop:#f4a261;--conv:#303b48;--conv-ink:#dbe4ed;--quiet:#5d6b7b;"
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


PAGE = f"""
:root{{color-scheme:light dark}}
{palette(":root")}
*{{box-sizing:border-box}}
body{{margin:0;background:var(--page);color:var(--ink);font:16px/1.55 {SANS};-webkit-text-size-adjust:100%}}
main{{max-width:1080px;margin:0 auto;padding:32px 20px 64px}}
h1{{font-size:1.9rem;line-height:1.2;margin:.1em 0 .35em;letter-spacing:-.015em;overflow-wrap:anywhere}}
h2{{font-size:1.2rem;line-height:1.3;margin:0 0 .6em;letter-spacing:-.005em}}
h3{{font-size:1rem;margin:1.6em 0 .5em}}
p{{margin:.5em 0;max-width:74ch}}
code{{font-family:{MONO};font-size:.9em}}
.eyebrow{{margin:0;color:var(--muted);font-size:.8rem;font-weight:600;letter-spacing:.08em;text-transform:uppercase}}
.muted{{color:var(--muted)}}
.small{{font-size:.875rem}}
.asked{{display:flex;flex-wrap:wrap;gap:4px 26px;margin:.6em 0;padding:0}}
.asked div{{display:flex;gap:.5em;font-size:.93rem}}
.asked dt{{color:var(--muted)}}
.asked dd{{margin:0;font-weight:600;overflow-wrap:anywhere}}
section{{background:var(--surface);border:1px solid var(--line);border-radius:12px;padding:22px 24px;margin:18px 0}}
.warning{{background:var(--note);border-color:var(--note-line);border-left-width:5px;padding:12px 18px}}
.warning p{{margin:.2em 0}}
.headline{{font-size:1.55rem;line-height:1.25;font-weight:650;letter-spacing:-.01em;margin:.1em 0 .5em}}
.layouts{{display:grid;grid-template-columns:max-content 1fr;gap:2px 16px;margin:.6em 0 1.1em;align-items:baseline}}
.layouts dt{{color:var(--muted)}}
.layouts dd{{margin:0;font-family:{MONO};letter-spacing:.1em;overflow-wrap:anywhere}}
.layouts b{{color:var(--accent);font-weight:750}}
.layouts i{{color:var(--quiet);font-style:normal}}
.tiles{{display:grid;grid-template-columns:repeat(auto-fit,minmax(200px,1fr));gap:14px;margin:1em 0}}
.tile{{border:1px solid var(--line);border-radius:10px;padding:12px 16px;font-variant-numeric:tabular-nums}}
.tile .name{{color:var(--muted);font-size:.875rem}}
.tile .value{{font-size:1.7rem;line-height:1.25;font-weight:650;letter-spacing:-.02em}}
.tile .unit{{font-size:1rem;font-weight:500;color:var(--muted);letter-spacing:0}}
.tile .more{{color:var(--muted);font-size:.85rem;line-height:1.4}}
.claim{{border-left:4px solid var(--note-line);padding:2px 0 2px 14px;margin:1.1em 0}}
.claim.proven{{border-color:var(--accent)}}
.scroll{{overflow-x:auto}}
.scroll svg{{display:block;width:100%;min-width:680px;height:auto}}
table{{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums}}
th{{text-align:left;color:var(--muted);font-weight:600;border-bottom:1px solid var(--line);white-space:nowrap}}
td{{border-bottom:1px solid var(--grid);vertical-align:top}}
th,td{{padding:6px 14px 6px 0}}
tr:last-child td{{border-bottom:0}}
th:last-child,td:last-child{{padding-right:0}}
.number{{text-align:right;white-space:nowrap}}
.layout{{font-family:{MONO};font-size:.86em;white-space:nowrap}}
.reason{{color:var(--muted);padding-top:0;font-size:.95em}}
.with-reason td{{border-bottom:0;padding-bottom:1px}}
.keep,.drop{{white-space:nowrap;font-weight:600}}
.keep{{color:var(--accent)}}
.drop{{color:var(--drop)}}
ol.steps{{margin:.4em 0;padding-left:1.5em}}
ol.steps li{{margin:.3em 0;padding-left:.2em}}
summary{{cursor:pointer;font-weight:600;font-size:1.05rem}}
td code{{display:block;min-width:17em}}
details table{{margin-top:12px}}
details td{{overflow-wrap:anywhere}}
pre{{margin:.4em 0 0;padding:10px 14px;background:var(--band);border-radius:8px;overflow-x:auto;
font:.9rem/1.5 {MONO}}}
.chart text{{font-family:{SANS};font-size:13px;fill:var(--ink)}}
.chart .axis{{fill:var(--muted);font-size:12px}}
.chart .grid{{stroke:var(--grid)}}
.chart .zero{{stroke:var(--muted);stroke-width:1.5}}
.chart .value{{font-variant-numeric:tabular-nums}}
.chart .kept{{stroke:var(--accent);stroke-width:2.5;fill:var(--accent)}}
.chart .dropped{{stroke:var(--drop);stroke-width:2.5;fill:var(--surface)}}
.chart text.kept,.chart text.dropped{{stroke:none;font-weight:600}}
.chart text.kept{{fill:var(--accent)}}
.chart text.dropped{{fill:var(--drop)}}
.chart .curve{{fill:none;stroke-linejoin:round;stroke-linecap:round}}
.chart .other{{stroke:var(--quiet);stroke-width:1;opacity:.75}}
.chart .run{{stroke-width:2;fill:none;opacity:.9}}
.chart .way{{opacity:.75}}
.chart .run0{{stroke:var(--accent)}}.chart .run1{{stroke:var(--drop)}}.chart .run2{{stroke:var(--kernel)}}
.chart .run3{{stroke:var(--global)}}.chart .run4{{stroke:var(--smooth)}}.chart .run5{{stroke:var(--muted)}}
.chart .base{{stroke:var(--ink);stroke-width:2;stroke-dasharray:6 4}}
.chart .winner{{stroke:var(--accent);stroke-width:2.5}}
.chart text.base,.chart text.winner,.chart text.other{{stroke:none;opacity:1;font-weight:600}}
.chart text.other{{fill:var(--muted);font-weight:400}}
.chart text.winner{{fill:var(--accent)}}
@media (max-width:640px){{main{{padding:20px 12px 40px}}section{{padding:16px 14px;border-radius:10px}}
.headline{{font-size:1.3rem}}.tiles{{grid-template-columns:1fr 1fr}}.layouts dd{{letter-spacing:.04em}}}}
@media print{{body{{font-size:10.5pt;background:none}}main{{max-width:none;padding:0}}
section{{border:0;border-radius:0;padding:0;margin:14pt 0}}.tile,svg,tr,.warning{{break-inside:avoid}}
h2,h3{{break-after:avoid}}
*{{-webkit-print-color-adjust:exact;print-color-adjust:exact}}.scroll{{overflow:visible}}.scroll svg{{min-width:0}}
details::details-content{{content-visibility:visible;display:block;height:auto}}}}
"""


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


def page_header(kind: str, title: str, facts: Iterable[tuple[str, object]], note: str = "") -> str:
    """The header of a page: its kind and title, the facts by name, and a note in small print."""
    named = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    small = f'<p class="small muted">{escape(note)}</p>' if note else ""
    return (
        f'<header><p class="eyebrow">{escape(kind)}</p><h1>{escape(title)}</h1>\n'
        f'<dl class="asked">{named}</dl>{small}</header>'
    )


def warning_box(title: str, warnings: Sequence[str]) -> str:
    """A highlighted box of warnings."""
    texts = "".join(f"<p>{escape(warning)}</p>" for warning in warnings)
    return f'<section class="warning" role="note"><p><strong>{escape(title)}</strong></p>{texts}</section>'


def settings_section(title: str, settings: Iterable[tuple[str, object]]) -> str:
    """A table of settings that opens with a click."""
    rows = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in settings)
    return f"<section><details><summary>{escape(title)}</summary><table>{rows}</table></details></section>"


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
