"""The answer: what became of the base, what that gained and costs, and how sure it is."""

from collections.abc import Iterator
from itertools import groupby
from statistics import fmean

from buildup.graph.layout import layout
from buildup.graph.network import Network
from buildup.report.diagram import graph_svg
from buildup.report.findings import Findings, cost_text, mean
from buildup.report.html import tile
from buildup.report.text_table import code
from buildup.report.words import accuracies, change, count, escape, macs, plain, points


def page(findings: Findings) -> Iterator[str]:
    """For the page."""
    yield '<section><p class="eyebrow">The answer</p>'
    yield f'<p class="headline">{escape(findings.headline)}</p>'
    yield '<dl class="layouts">'
    yield f"<dt>base</dt><dd>{letters(findings.base)}</dd>"
    yield f"<dt>winner</dt><dd>{letters(findings.winner)}</dd></dl>"
    yield f'<div class="tiles">{"".join(_tiles(findings))}</div>'
    proven = " proven" if findings.is_claimed else ""
    label, _, rest = findings.claim.partition(": ")
    claim = f"<strong>{escape(label)}:</strong> {escape(rest)}"
    yield f'<div class="claim{proven}"><p>{claim}</p><p>{escape(findings.images)}</p></div>'
    if findings.kept:
        steps = "".join(
            f'<li><code>{escape(decision.edit)}</code><div class="muted small">{escape(decision.reason)}</div></li>'
            for decision in findings.kept
        )
        yield f'<h3>Kept, in this order</h3><ol class="steps">{steps}</ol>'
    yield f'<h3>The winner</h3><div class="scroll">{graph_svg(findings.winner)}</div></section>'


def text(findings: Findings) -> Iterator[str]:
    """For Markdown."""
    yield f"**{plain(findings.headline)}**"
    yield from ("", f"| | layout | {findings.objective.title} | by seed | cost |", "|---|---|---:|---|---|")
    yield from (_row(findings, "base", findings.base), _row(findings, "winner", findings.winner), "")
    if gains := findings.paired_gains:
        how = "Winner minus base" if findings.objective.sign > 0 else "Winner better than base by"
        yield f"{how}: {points(fmean(gains))} {findings.objective.said} over {len(gains)} equal seeds."
        yield ""
    yield from (plain(findings.claim), "", plain(findings.images), "")


def _tiles(findings: Findings) -> Iterator[str]:
    objective = findings.objective
    for name, network in (("base", findings.base), ("winner", findings.winner)):
        scores = findings.scores(network)
        value = mean(scores)
        by_seed = f"seed{'s' if len(scores) > 1 else ''} {', '.join(scores)}: {accuracies(list(scores.values()))}"
        yield (
            tile(f"{name} {objective.name}", "–", "", "no training of it has ended")
            if value is None
            else tile(f"{name} {objective.name}", f"{value:.2f}", objective.scale, by_seed)
        )
    gap = "winner minus base" if objective.sign > 0 else "winner better than base by"
    if gains := findings.paired_gains:
        status = "" if findings.is_proven else "unproven, "
        by_seed = f"by seed: {', '.join(map(points, gains))}"
        yield tile(gap, points(fmean(gains)), objective.unit, f"{status}{by_seed}")
    else:
        yield tile(gap, "–", "", "the winner is the base" if findings.unchanged else "no equal seeds")
    before, after = findings.cost(findings.base), findings.cost(findings.winner)
    if after is None:
        yield tile("winner cost", "–", "", "not known")
    else:
        more = [macs(after[1])]
        if before:
            more = [
                f"from {count(before[0])} ({change(before[0], after[0])})",
                f"{macs(after[1])} from {macs(before[1])} ({change(before[1], after[1])})",
            ]
        yield tile("winner cost", count(after[0]), "params", "; ".join(more))


def letters(network: Network) -> str:
    """The layout with its replaced blocks in bold."""
    marks = {"C": "", "|": "i"}
    parts = []
    for letter, run in groupby(layout(network)):
        text, mark = escape("".join(run)), marks.get(letter, "b")
        parts.append(f"<{mark}>{text}</{mark}>" if mark else text)
    # A line may break between stages, nowhere else.
    return "".join(parts).replace("<i>", "<wbr><i>")


def _row(findings: Findings, name: str, network: Network) -> str:
    scores = findings.scores(network)
    value = mean(scores)
    shown = "?" if value is None else findings.objective.shown(value)
    cost = cost_text(findings.cost(network))
    return f"| {name} | `{code(layout(network))}` | {shown} | {accuracies(list(scores.values()))} | {cost} |"
