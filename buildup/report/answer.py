"""The result of a search: the winner, its gain, its cost, and how far to trust the gain.

It comes first in a report, after the final if there is one.
"""

import re
from collections.abc import Iterator
from statistics import fmean

from buildup.graph.layout import layout
from buildup.graph.network import Network
from buildup.report.diagram import graph_svg
from buildup.report.findings import Findings, cost_text
from buildup.report.html import scrollable, tile
from buildup.report.text_table import TextTable
from buildup.report.words import change_text, escape, escape_markdown, macs, points, scores_text, short_number

SEARCH_TITLE = "The search behind it, on validation images"


def answer_html(findings: Findings) -> Iterator[str]:
    yield f'<section><p class="eyebrow">{SEARCH_TITLE if findings.final else "Result"}</p>'
    said = findings.searched if findings.final else findings.headline
    yield f'<p class="headline">{escape(said)}</p>'
    if findings.kept:
        yield f'<p class="muted">{escape(findings.tried)}</p>'
    yield f'<dl class="layouts"><dt>base</dt><dd>{_layout_html(findings.base)}</dd>'
    yield f"<dt>winner</dt><dd>{_layout_html(findings.winner)}</dd></dl>"
    yield '<div class="tiles">'
    yield from _tiles(findings)
    yield "</div>"
    # A proven statement is shown without the colour of a warning.
    proven = " proven" if not findings.final and (findings.judge == "proven" or findings.unchanged) else ""
    label, _, rest = findings.claim.partition(": ")
    claim = f"<strong>{escape(label)}:</strong> {escape(rest)}"
    yield f'<div class="claim{proven}"><p>{claim}</p><p>{escape(findings.images)}</p></div>'
    if findings.kept:
        steps = "".join(f"<li><code>{escape(decision.edit)}</code></li>" for decision in findings.kept)
        yield f'<h3>Kept steps, in order</h3><ol class="steps">{steps}</ol>'
    name = str(findings.settings.get("base", ""))
    for title, network in {"The base": findings.base, "The winner": findings.winner}.items():
        if title == "The winner" or not findings.unchanged:
            yield f"<h3>{title}</h3>{scrollable(graph_svg(network, name))}"
    yield "</section>"


def answer_markdown(findings: Findings) -> Iterator[str]:
    objective = findings.objective
    networks = (findings.base, findings.winner)
    scores = [list(values.values()) for values in findings.paired_scores(findings.winner)]
    table = TextTable.by_column(
        ("", "text", ["base", "winner"]),
        ("layout", "layout", [layout(network) for network in networks]),
        (objective.title, "number", [objective.shown(fmean(values)) if values else "?" for values in scores]),
        ("by seed", "text", [scores_text(values) for values in scores]),
        ("cost", "text", [cost_text(findings.cost(network)) for network in networks]),
    )
    if findings.final:
        yield from (f"## {SEARCH_TITLE}", "")
    said = findings.searched if findings.final else findings.headline
    yield from (f"**{escape_markdown(said)}**", "")
    yield from (escape_markdown(findings.tried), "") if findings.kept else ()
    yield from (*table.markdown(), "")
    if gains := findings.paired_gains:
        name = "Winner minus base" if objective.sign > 0 else "Improvement of the winner over the base"
        yield from (f"{name}: {points(fmean(gains))} {objective.said}, mean over {len(gains)} shared seeds.", "")
    yield from (escape_markdown(findings.claim), "", escape_markdown(findings.images), "")


def _tiles(findings: Findings) -> Iterator[str]:
    objective, gains = findings.objective, findings.paired_gains
    for name, network, scores in zip(
        ("base", "winner"),
        (findings.base, findings.winner),
        findings.paired_scores(findings.winner),
        strict=True,
    ):
        if scores:
            by_seed = f"seed{'s' if len(scores) > 1 else ''} {', '.join(scores)}: {scores_text(list(scores.values()))}"
            if len(every := findings.scores(network)) > len(scores):
                by_seed += f"; {fmean(every.values()):.2f} over all {len(every)} seeds"
            yield tile(f"{name} {objective.name}", f"{fmean(scores.values()):.2f}", objective.scale, by_seed)
        else:
            yield tile(f"{name} {objective.name}", "–", "", "no finished training")
    name = "winner minus base" if objective.sign > 0 else "improvement over the base"
    if gains:
        how = "see the final, " if findings.final else "" if findings.judge == "proven" else "unproven, "
        by_seed = f"{how}by seed: {', '.join(map(points, gains))}"
        yield tile(name, points(fmean(gains)), objective.unit, by_seed)
    else:
        yield tile(name, "–", "", "the winner is the base" if findings.unchanged else "no shared seeds")
    before, after = findings.cost(findings.base), findings.cost(findings.winner)
    if after is None:
        yield tile("winner cost", "–", "", "unknown")
        return
    details = macs(after[1])
    if before:
        details = (
            f"from {short_number(before[0])} ({change_text(before[0], after[0])}); "
            f"{details} from {macs(before[1])} ({change_text(before[1], after[1])})"
        )
    yield tile("winner cost", short_number(after[0]), "params", details)


def _layout_html(network: Network) -> str:
    """The layout with its replaced blocks in bold; a line may break between stages only."""
    bold = re.sub(r"[^C|]+", r"<b>\g<0></b>", layout(network))
    return bold.replace("|", "<wbr><i>|</i>")
