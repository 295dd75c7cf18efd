"""The page of an analysis: numbers and a figure for each measurement, the subjects and the settings."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from buildup.report.findings import flat
from buildup.report.html import document, html_table, page_header, settings_section, warning_box
from buildup.report.text_table import ColumnKind, TextTable
from buildup.report.words import escape

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""Images are allowed as data URLs, because the colour bars of figures are embedded pictures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One measurement."""

    what: str
    """The base name of its files."""
    title: str
    words: str
    """How its figure is read."""
    numbers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By model."""
    figure: str = ""
    """SVG."""
    finding: str = ""
    """What was found, and whether it agrees with the paper."""
    left_out: str = ""
    """Why it could not be measured; empty if it was."""


def analysis_page(
    title: str,
    facts: Mapping[str, object],
    sections: Sequence[Section],
    settings: Mapping[str, Any],
    notes: Sequence[str],
) -> str:
    """`facts` name the measured weights and images; `notes` are warnings, such as random weights."""
    parts = [
        page_header("buildup analyze", title, facts.items()),
        *([warning_box("Read this first", notes)] if notes else []),
        *map(_section, sections),
        settings_section("All settings", flat(settings)),
    ]
    return document(title, parts, policy=POLICY)


def _section(section: Section) -> str:
    head = (
        f'<section id="{escape(section.what)}"><h2>{escape(section.title)}</h2>'
        f'<p class="muted small">{escape(section.words)}</p>'
    )
    if section.left_out:
        return f"{head}<p>Left out: {escape(section.left_out)}</p></section>"
    files = ", ".join(
        f'<a href="{escape(section.what)}.{form}">{form.upper()}</a>' for form in ("csv", "json", "svg", "png")
    )
    models = section.numbers.values()
    names = list(dict.fromkeys(name for values in models for name in values))
    columns: list[tuple[str, ColumnKind, list[str]]] = [("model", "heading", list(section.numbers))]
    columns.extend(
        (name.replace("_", " "), "number", [_shown(values.get(name)) for values in models]) for name in names
    )
    table = html_table(TextTable.by_column(*columns)) if names else ""
    return (
        f'{head}<div class="scroll" style="background:#fff;border-radius:8px;padding:8px">'
        f"{_inline(section.figure, section.what, section.title)}</div>"
        f"{f'<p>{escape(section.finding)}</p>' if section.finding else ''}"
        f'{table}<p class="small">{files}</p></section>'
    )


def _inline(svg: str, what: str, title: str) -> str:
    """A figure for the page, its ids prefixed so that they are unique in the page."""
    picture = svg[svg.index("<svg") :]
    for before, after in ((r'\bid="', rf'id="{what}-'), (r"url\(#", f"url(#{what}-"), (r'href="#', f'href="#{what}-')):
        picture = re.sub(before, after, picture)
    width = re.search(r'\bwidth="([\d.]+(?:pt|px))"', picture)
    style = f"width:{width[1] if width else 'auto'};min-width:0;max-width:100%;height:auto"
    label = f'<svg role="img" aria-label="{escape(title)}" style="{style}" '
    return picture.replace("<svg ", label, 1)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
