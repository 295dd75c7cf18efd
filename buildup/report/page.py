"""The report of a search: its sections, as one self-contained HTML file or as Markdown with the same facts in short.

To add a section, write it into `_sections_html` and `_sections_markdown`.
"""

import json
from collections.abc import Iterator

from buildup.report.answer import answer_html, answer_markdown
from buildup.report.chart import Curve, curves_svg, gains_svg
from buildup.report.diagnostic_table import EXPLAINED, Evidence, tabulate_correlations, tabulate_diagnoses
from buildup.report.findings import Findings, flat
from buildup.report.html import (
    document,
    glossary,
    html_section,
    html_table,
    page_header,
    responsive,
    settings_section,
    small_note,
    warning_box,
)
from buildup.report.text_table import (
    NO_DECISIONS,
    TextTable,
    decisions_markdown,
    final_protocol,
    tabulate_decisions,
    tabulate_final,
)
from buildup.report.tried import tried_html, tried_markdown
from buildup.report.words import clean, duration, escape, escape_markdown, outcome_text
from buildup.trials.outcome import Score
from buildup.trials.training import candidate_id

FINAL_TITLE = "Final evaluation"
EVIDENCE_TITLE = "Which diagnostics predict a gain?"
COMMANDS_TITLE = "Next commands"
USE_TITLE = "Use the winner"
NOTES_TITLE = "Notes"
PAPER = "https://arxiv.org/abs/2202.06709"
GLOSSARY = (
    (
        "layout",
        "Layout: C, M, G, K, S, T",
        "One letter per block, <code>|</code> between stages. C is the base’s own block, M local attention, G global "
        "attention, K attention in the shape of a convolution, S smoothing, T a convolution that may become attention. "
        f'The letters are those of <a href="{PAPER}">the paper</a>, where there are any.',
    ),
    (
        "parent",
        "Parent",
        'The best network so far, which a candidate changes by one <a href="#word-step">step</a>. A gain is measured '
        "against it, seed by seed.",
    ),
    ("step", "Step", "One change of a network, and the verdict on it: keep or drop."),
    (
        "point",
        "Point",
        "A percent of all validation images. From 80 % to 81 % is one point. Judge <code>point</code> compares means "
        "alone, without an interval.",
    ),
    (
        "interval",
        "Interval, CI",
        "Where the gain lies with the stated probability. A step is kept if all of it is above the least gain.",
    ),
    ("seed", "Seed", "A number that fixes the first weights, the order of images and their augmentation."),
    ("macs", "MACs", "Multiply-accumulates for one image: the computation of a network."),
    (
        "proof",
        "Proof",
        "The scores that chose a network also measure it, which flatters it. <code>buildup final</code> measures "
        'winner and <a href="#word-parent">base</a> anew on images that no verdict used.',
    ),
)
"""The glossary: anchors, words, and their explanations as HTML."""


def page(findings: Findings) -> str:
    """The report as HTML, without scripts or network access, with a light and a dark theme."""
    return document(findings.title, _sections_html(findings))


def markdown(findings: Findings) -> str:
    return "\n".join(_sections_markdown(findings))


def _sections_html(findings: Findings) -> Iterator[str]:
    yield page_header("buildup search", findings.title, findings.asked, findings.finished)
    if findings.warnings:
        yield warning_box("Warnings", findings.warnings)
    if final := findings.final:
        proven = " proven" if final.claims[0].claimed else ""
        verdict = f'<div class="claim{proven}"><p><strong>{escape(final.verdict)}</strong></p></div>'
        lead = f'<p class="headline">{escape(findings.headline.removesuffix(final.verdict))}</p>'
        yield html_section(
            FINAL_TITLE, lead, verdict, html_table(tabulate_final(final)), small_note(final_protocol(final))
        )
    yield from answer_html(findings)
    steps = [f'<p class="muted">{NO_DECISIONS}</p>']
    if decisions := findings.decisions:
        table = html_table(
            tabulate_decisions(decisions, findings.climb), below=[decision.reason for decision in decisions]
        )
        steps = [responsive(gains_svg(decisions), gains_svg(decisions, narrow=True)), table]
        steps += [small_note(str(note)) for note in (findings.rounding, findings.imitations) if note]
    yield html_section("Gain of each step", *steps)
    if findings.notes:
        written = (f"<h3>{escape(what)}</h3><p>{escape(text)}</p>" for what, text in findings.notes)
        yield html_section(NOTES_TITLE, *written)
    yield from tried_html(findings)
    if findings.evidence:
        yield from evidence_html(findings.evidence)
    yield _trainings_html(findings)
    if findings.exported:
        lines = "\n".join(map(escape, use_code(findings).split("\n")))
        yield html_section(USE_TITLE, f"<pre>{lines}</pre>")
    commands = (f"{small_note(purpose)}<pre>{escape(command)}</pre>" for command, purpose in findings.commands)
    yield html_section(COMMANDS_TITLE, *commands)
    yield glossary(GLOSSARY)
    yield settings_section("All settings and versions", flat(findings.settings))


def use_code(findings: Findings) -> str:
    folder = json.dumps(f"local-dir:{findings.run}/export", ensure_ascii=False)
    return f"import timm\nimport buildup.models\nmodel = timm.create_model({folder}, pretrained=True)"


def _sections_markdown(findings: Findings) -> Iterator[str]:
    yield from (f"# {escape_markdown(findings.title)}", "")
    yield from (f"> **Warning:** {escape_markdown(warning)}  " for warning in findings.warnings)
    yield ", ".join(f"{escape_markdown(name)} {escape_markdown(value)}" for name, value in findings.asked)
    yield from ("", escape_markdown(findings.finished), "")
    if final := findings.final:
        yield from (f"## {FINAL_TITLE}", "", f"**{escape_markdown(final.verdict)}**", "")
        yield from (*tabulate_final(final).markdown(), "", escape_markdown(final_protocol(final)), "")
    yield from answer_markdown(findings)
    yield from ("## Steps", "", decisions_markdown(findings.decisions, findings.climb), "")
    yield from (f"{decision.step}. {escape_markdown(decision.reason)}" for decision in findings.decisions)
    for note in (findings.rounding, findings.imitations):
        yield from ("", escape_markdown(str(note))) if note else ()
    yield ""
    if findings.notes:
        yield from (f"## {NOTES_TITLE}", "")
        yield from (f"- {escape_markdown(what)}: {escape_markdown(text)}" for what, text in findings.notes)
        yield ""
    yield from tried_markdown(findings)
    if findings.evidence:
        yield from evidence_markdown(findings.evidence)
    yield from ("## Trainings", "", f"{findings.tally}.", "", f"## {COMMANDS_TITLE}", "")
    yield from (f"    {clean(command):<44}  # {purpose}" for command, purpose in findings.commands)
    yield ""


def evidence_html(evidence: Evidence) -> Iterator[str]:
    yield html_section(
        EVIDENCE_TITLE,
        *(f"<p>{escape(sentence)}</p>" for sentence in evidence.words),
        *([html_table(tabulate_correlations(evidence))] if evidence.correlations else []),
        "<h3>Diagnostics at each edited block, parent → candidate</h3>",
        small_note(EXPLAINED),
        html_table(tabulate_diagnoses(evidence.rows)),
    )


def evidence_markdown(evidence: Evidence) -> Iterator[str]:
    yield from (f"## {EVIDENCE_TITLE}", "")
    for sentence in evidence.words:
        yield from (escape_markdown(sentence), "")
    if evidence.correlations:
        yield from (*tabulate_correlations(evidence).markdown(), "")
    yield from (*tabulate_diagnoses(evidence.rows).markdown(), "", escape_markdown(EXPLAINED), "")


def _trainings_html(findings: Findings) -> str:
    objective = findings.objective
    curves = [
        Curve(
            name=f"{training}: {findings.layouts.get(candidate_id(training), '')}",
            role=findings.role(training),
            values=tuple(value for epoch in epochs if (value := objective.at(epoch)) is not None),
        )
        for training, epochs in findings.history.curves.items()
        if candidate_id(training) not in findings.checks
    ]
    chart = '<p class="muted">No training reported an epoch.</p>'
    if any(curve.values for curve in curves):
        better = "" if objective.sign > 0 else "; less is better"
        measure = f"{objective.title[0].upper()}{objective.title[1:]} ({objective.scale})"
        shown = responsive(curves_svg(curves, measure), curves_svg(curves, measure, narrow=True))
        chart = small_note(f"{measure}, one line per training{better}.") + shown
    rows, outcomes = findings.trainings, [row.outcome for row in findings.trainings]
    scores = [f"{objective.value(one):.2f}" if isinstance(one, Score) else "–" for one in outcomes]
    reused = findings.reused
    ends = [f"reused from {reused[row.id]}" if row.id in reused else outcome_text(row.outcome) for row in rows]
    table = TextTable.by_column(
        ("training", "code", [row.id for row in rows]),
        ("layout", "layout", [row.layout or "?" for row in rows]),
        (
            "role",
            "text",
            [f"base, {row.check}" if row.check else findings.role(row.id).replace("other", "") for row in rows],
        ),
        ("seed", "number", [row.seed for row in rows]),
        (f"{objective.name}, {objective.scale}", "number", scores),
        ("time", "number", [duration(one.seconds) for one in outcomes]),
        ("outcome", "text", ends),
    )
    html = html_table(table) if rows else ""
    return html_section("Trainings", chart, f"<h3>{escape(findings.tally)}</h3>", html)
