"""The report of a search: as one self-contained HTML file, or as Markdown with the same facts in short."""

from buildup.report.findings import Findings
from buildup.report.html import document
from buildup.report.sections import SECTIONS


def page(findings: Findings) -> str:
    """The report as HTML, without scripts or network access, with a light and a dark theme."""
    return document(findings.title, (part for section in SECTIONS for part in section.html(findings)))


def markdown(findings: Findings) -> str:
    """The report as Markdown."""
    return "\n".join(line for section in SECTIONS if section.markdown for line in section.markdown(findings))
