"""How the trainings went: their curves, and how each ended."""

from collections.abc import Iterator

from buildup.report.chart import Curve, curves_svg
from buildup.report.findings import Findings
from buildup.report.html import table_head
from buildup.report.words import duration, ending, escape
from buildup.trials.outcome import Score


def page(findings: Findings) -> Iterator[str]:
    """For the page."""
    objective = findings.objective
    yield "<section><h2>How the trainings went</h2>"
    curves = [
        Curve(
            name=f"{training}: {findings.layouts.get(training.rpartition('-s')[0], '')}",
            role=findings.role(training),
            values=tuple(value for epoch in epochs if (value := objective.at(epoch)) is not None),
        )
        for training, epochs in findings.history.curves.items()
    ]
    if any(curve.values for curve in curves):
        better = "" if objective.sign > 0 else "; less is better"
        measure = f"{objective.title[0].upper()}{objective.title[1:]} ({objective.scale})"
        yield f'<p class="muted small">{measure}, a line a training{better}.</p>'
        yield f'<div class="scroll">{curves_svg(curves, measure)}</div>'
    else:
        yield '<p class="muted">No training reported an epoch.</p>'
    yield f'<h3>{escape(findings.tally)}</h3><div class="scroll">{_trainings(findings)}</div></section>'


def text(findings: Findings) -> Iterator[str]:
    """For Markdown."""
    yield from ("## Trainings", "", f"{findings.tally}.", "")


def _trainings(findings: Findings) -> str:
    rows = []
    for row in findings.trainings:
        outcome = row.outcome
        score = f"{findings.objective.value(outcome):.2f}" if isinstance(outcome, Score) else "–"
        ended = f"taken over from {findings.reused[row.id]}" if row.id in findings.reused else ending(outcome)
        role = findings.role(row.id)
        name = "" if role == "other" else f" <strong>{role}</strong>"
        rows.append(
            f'<tr><td><code>{escape(row.id)}</code></td><td class="layout">{escape(row.layout or "?")}{name}</td>'
            f'<td class="number">{escape(row.seed)}</td><td class="number">{score}</td>'
            f'<td class="number">{duration(outcome.seconds)}</td><td>{escape(ended)}</td></tr>'
        )
    score = f"#{findings.objective.name}, {findings.objective.scale}"
    head = table_head("training", "layout", "#seed", score, "#time", "outcome")
    return f"<table>{head}<tbody>{''.join(rows)}</tbody></table>" if rows else ""
