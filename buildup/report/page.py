"""The report of a search as one HTML file that needs nothing else: no script, no network, light and dark."""

from buildup.report.contents import SECTIONS
from buildup.report.findings import Findings
from buildup.report.html import document


def page(findings: Findings) -> str:
    """The report, answer first."""
    return document(findings.title, (part for section in SECTIONS for part in section.page(findings)))
