"""The parts that pages are put together from: the document around them, tables' heads, tiles."""

from collections.abc import Iterable

from buildup import __version__
from buildup.report.style import PAGE
from buildup.report.words import count, escape

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""Should anything slip through the escaping, a browser still runs and loads nothing."""


def document(title: str, parts: Iterable[str], *, policy: str = POLICY) -> str:
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


def tile(name: str, value: str, unit: str, more: str) -> str:
    """One number with its name and what is to be known of it."""
    return (
        f'<div class="tile"><div class="name">{escape(name)}</div>'
        f'<div class="value">{escape(value)} <span class="unit">{escape(unit)}</span></div>'
        f'<div class="more">{escape(more)}</div></div>'
    )


def table_head(*names: str) -> str:
    """A table's head; a name that starts with # stands over numbers."""
    cells = (
        f'<th scope="col" class="number">{escape(name[1:])}</th>'
        if name.startswith("#")
        else f'<th scope="col">{escape(name)}</th>'
        for name in names
    )
    return f"<thead><tr>{''.join(cells)}</tr></thead>"


def known(number: int | None) -> str:
    """A count, where it is known."""
    return "?" if number is None else count(number)
