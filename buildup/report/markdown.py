"""The report of a search in Markdown: the same facts as the page, in short."""

from buildup.report.contents import SECTIONS
from buildup.report.findings import Findings


def markdown(findings: Findings) -> str:
    """The report, answer first."""
    return "\n".join(line for section in SECTIONS if section.text for line in section.text(findings))
