"""The report of a search in Markdown: the same facts as the page, in short."""

from statistics import fmean

from buildup.graph.layout import layout
from buildup.graph.network import Network
from buildup.report.findings import Findings, cost_text, mean
from buildup.report.table import code, markdown_table
from buildup.report.words import accuracies, clean, points


def markdown(findings: Findings) -> str:
    """The report, answer first."""
    lines = [f"# {plain(findings.title)}", "", *(f"> **Warning:** {plain(text)}  " for text in findings.warnings)]
    lines += [", ".join(f"{plain(name)} {plain(value)}" for name, value in findings.asked), ""]
    lines += [plain(findings.finished), ""]
    lines += [f"**{plain(findings.headline)}**", ""]
    lines += ["| | layout | validation accuracy | by seed | cost |", "|---|---|---:|---|---|"]
    lines += [_row(findings, "base", findings.base), _row(findings, "winner", findings.winner), ""]
    if gains := findings.paired_gains:
        lines += [f"Winner minus base: {points(fmean(gains))} points over {len(gains)} equal seeds.", ""]
    lines += [plain(findings.claim), "", plain(findings.images), "", "## Steps", ""]
    lines += [markdown_table(findings.decisions), ""]
    lines += [f"{decision.step}. {plain(decision.reason)}" for decision in findings.decisions]
    lines += ["", "## Trainings", "", f"{findings.tally}.", "", "## How to go on", ""]
    lines += [f"    {clean(command):<44}  # {purpose}" for command, purpose in findings.commands]
    return "\n".join([*lines, ""])


def plain(text: object) -> str:
    """Text that Markdown shows as it is: no markup, no HTML, no cell of a table."""
    shown = clean(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{letter}" if letter in "\\`*_[]|#~$!" else letter for letter in shown)


def _row(findings: Findings, name: str, network: Network) -> str:
    scores = findings.accuracy(network)
    value = mean(scores)
    shown = "?" if value is None else f"{value:.2f} %"
    cost = cost_text(findings.cost(network))
    return f"| {name} | `{code(layout(network))}` | {shown} | {accuracies(list(scores.values()))} | {cost} |"
