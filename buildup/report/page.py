"""The report of a search as one HTML file that needs nothing else: no script, no network, light and dark."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from statistics import fmean

from buildup import __version__
from buildup.graph.layout import layout
from buildup.graph.network import Network
from buildup.report.chart import Curve, curves_svg, gains_svg
from buildup.report.diagram import graph_svg
from buildup.report.findings import Findings, flat, mean
from buildup.report.style import PAGE
from buildup.report.words import (
    accuracies,
    change,
    count,
    duration,
    ending,
    escape,
    gain,
    interval,
    interval_heading,
    macs,
    points,
)
from buildup.trials.decision import Decision
from buildup.trials.outcome import Score

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""Should anything slip through the escaping, a browser still runs and loads nothing."""


def page(findings: Findings) -> str:
    """The report, answer first."""
    body = "\n".join([*_head(findings), *_answer(findings), *_evidence(findings), *_details(findings)])
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(findings.title)}</title>\n<style>{PAGE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _head(findings: Findings) -> Iterator[str]:
    yield f'<header><p class="eyebrow">buildup search</p><h1>{escape(findings.title)}</h1>'
    facts = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in findings.asked)
    yield f'<dl class="asked">{facts}</dl><p class="small muted">{escape(findings.finished)}</p></header>'
    if findings.warnings:
        warnings = "".join(f"<p>{escape(warning)}</p>" for warning in findings.warnings)
        yield f'<section class="warning" role="note"><p><strong>Read this first</strong></p>{warnings}</section>'


def _answer(findings: Findings) -> Iterator[str]:
    yield '<section><p class="eyebrow">The answer</p>'
    yield f'<p class="headline">{escape(findings.headline)}</p>'
    yield '<dl class="layouts">'
    yield f"<dt>base</dt><dd>{_letters(findings.base)}</dd>"
    yield f"<dt>winner</dt><dd>{_letters(findings.winner)}</dd></dl>"
    yield f'<div class="tiles">{"".join(_tiles(findings))}</div>'
    proven = " proven" if findings.is_proven or findings.unchanged else ""
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


def _tiles(findings: Findings) -> Iterator[str]:
    for name, network in (("base", findings.base), ("winner", findings.winner)):
        scores = findings.accuracy(network)
        value = mean(scores)
        by_seed = f"seed{'s' if len(scores) > 1 else ''} {', '.join(scores)}: {accuracies(list(scores.values()))}"
        yield (
            _tile(f"{name} accuracy", "–", "", "no training of it has ended")
            if value is None
            else _tile(f"{name} accuracy", f"{value:.2f}", "%", by_seed)
        )
    if gains := findings.paired_gains:
        status = "" if findings.is_proven else "unproven, "
        by_seed = f"by seed: {', '.join(map(points, gains))}"
        yield _tile("winner minus base", points(fmean(gains)), "points", f"{status}{by_seed}")
    else:
        yield _tile("winner minus base", "–", "", "the winner is the base" if findings.unchanged else "no equal seeds")
    before, after = findings.cost(findings.base), findings.cost(findings.winner)
    if after is None:
        yield _tile("winner cost", "–", "", "not known")
    else:
        more = [macs(after[1])]
        if before:
            more = [
                f"from {count(before[0])} ({change(before[0], after[0])})",
                f"{macs(after[1])} from {macs(before[1])} ({change(before[1], after[1])})",
            ]
        yield _tile("winner cost", count(after[0]), "params", "; ".join(more))


def _tile(name: str, value: str, unit: str, more: str) -> str:
    return (
        f'<div class="tile"><div class="name">{escape(name)}</div>'
        f'<div class="value">{escape(value)} <span class="unit">{escape(unit)}</span></div>'
        f'<div class="more">{escape(more)}</div></div>'
    )


def _letters(network: Network) -> str:
    """The layout with its replaced blocks in bold."""
    marks = {"C": "", "|": "i"}
    parts = []
    for letter, run in groupby(layout(network)):
        text, mark = escape("".join(run)), marks.get(letter, "b")
        parts.append(f"<{mark}>{text}</{mark}>" if mark else text)
    # A line may break between stages, nowhere else.
    return "".join(parts).replace("<i>", "<wbr><i>")


def _evidence(findings: Findings) -> Iterator[str]:
    yield "<section><h2>What each step gained</h2>"
    if findings.decisions:
        yield f'<div class="scroll">{gains_svg(findings.decisions)}</div>'
    yield f'<div class="scroll">{_decisions(findings.decisions)}</div></section>'
    yield "<section><h2>How the trainings went</h2>"
    curves = [
        Curve(
            name=f"{training}: {findings.layouts.get(training.rpartition('-s')[0], '')}",
            role=findings.role(training),
            accuracy=tuple(epoch.metrics["accuracy"] for epoch in epochs if "accuracy" in epoch.metrics),
        )
        for training, epochs in findings.history.curves.items()
    ]
    if any(curve.accuracy for curve in curves):
        yield '<p class="muted small">Validation accuracy in percent, a line a training.</p>'
        yield f'<div class="scroll">{curves_svg(curves)}</div>'
    else:
        yield '<p class="muted">No training reported an epoch.</p>'
    yield f'<h3>{escape(findings.tally)}</h3><div class="scroll">{_trainings(findings)}</div></section>'


def _decisions(decisions: Sequence[Decision]) -> str:
    if not decisions:
        return '<p class="muted">No decisions yet.</p>'
    heading, with_level = interval_heading(decisions)
    rows = []
    for decision in decisions:
        sign = "●" if decision.kept else "◇"
        ends = interval(decision, with_level=with_level)
        rows.append(
            f'<tr class="with-reason"><td class="number">{decision.step}</td>'
            f'<td><code>{escape(decision.edit)}</code></td><td class="layout">{escape(decision.layout)}</td>'
            f'<td class="number">{gain(decision)}</td><td class="number">{ends}</td>'
            f'<td class="number">{decision.seeds}</td><td class="number">{_known(decision.params)}</td>'
            f'<td class="number">{_known(decision.macs)}</td>'
            f'<td class="{"keep" if decision.kept else "drop"}">{sign} {escape(decision.verdict)}</td></tr>'
            f'<tr><td></td><td class="reason" colspan="8">{escape(decision.reason)}</td></tr>'
        )
    header = _header("#step", "edit", "layout", "#gain", f"#{heading}", "#seeds", "#params", "#MACs", "verdict")
    return f"<table>{header}<tbody>{''.join(rows)}</tbody></table>"


def _trainings(findings: Findings) -> str:
    rows = []
    for row in findings.trainings:
        outcome = row.outcome
        score = f"{outcome.accuracy:.2f}" if isinstance(outcome, Score) else "–"
        role = findings.role(row.id)
        name = "" if role == "other" else f" <strong>{role}</strong>"
        rows.append(
            f'<tr><td><code>{escape(row.id)}</code></td><td class="layout">{escape(row.layout or "?")}{name}</td>'
            f'<td class="number">{escape(row.seed)}</td><td class="number">{score}</td>'
            f'<td class="number">{duration(outcome.seconds)}</td><td>{escape(ending(outcome))}</td></tr>'
        )
    header = _header("training", "layout", "#seed", "#accuracy, %", "#time", "outcome")
    return f"<table>{header}<tbody>{''.join(rows)}</tbody></table>" if rows else ""


def _header(*names: str) -> str:
    """A table's head; a name that starts with # stands over numbers."""
    cells = (
        f'<th scope="col" class="number">{escape(name[1:])}</th>'
        if name.startswith("#")
        else f'<th scope="col">{escape(name)}</th>'
        for name in names
    )
    return f"<thead><tr>{''.join(cells)}</tr></thead>"


def _details(findings: Findings) -> Iterator[str]:
    commands = "".join(
        f'<p class="small muted">{escape(purpose)}</p><pre>{escape(command)}</pre>'
        for command, purpose in findings.commands
    )
    yield f"<section><h2>How to go on</h2>{commands}</section>"
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>'
        for name, value in flat(findings.settings)
    )
    yield f"<section><details><summary>All settings and versions</summary><table>{rows}</table></details></section>"
    yield f'<footer class="muted small">Written by buildup {__version__}.</footer>'


def _known(number: int | None) -> str:
    return "?" if number is None else count(number)
