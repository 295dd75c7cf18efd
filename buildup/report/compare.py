"""The comparison of several runs as a page, as Markdown and for a terminal."""

from collections.abc import Iterator, Sequence

from buildup.report.chart import Dot, Series, plot_svg
from buildup.report.comparison import (
    MAY_DIFFER,
    MUST_MATCH,
    Compared,
    PlaceFindings,
    comparability,
    differing_facts,
    find_places,
)
from buildup.report.diagnostic_table import Evidence
from buildup.report.html import document, html_section, html_table, scrollable, small_note
from buildup.report.page import evidence_html, evidence_markdown
from buildup.report.text_table import ColumnKind, TextTable, tabulate_final
from buildup.report.words import axis_title, duration, escape, escape_markdown, points, short_number
from buildup.trials.objective import OBJECTIVES


def comparison_page(runs: Sequence[Compared], evidence: Evidence | None = None) -> str:
    return document(_title(runs), _sections_html(runs, evidence))


def comparison_text(runs: Sequence[Compared], evidence: Evidence | None = None) -> str:
    """The comparison as Markdown, without plots."""
    lines = [f"# {escape_markdown(_title(runs))}", "", f"**{escape_markdown(comparability(runs))}**", ""]
    for name, values in differing_facts(runs, (*MUST_MATCH, *MAY_DIFFER)).items():
        each = (f"{escape_markdown(run.run)} {escape_markdown(value)}" for run, value in zip(runs, values, strict=True))
        lines.append(f"- {escape_markdown(name)}: {', '.join(each)}")
    lines += ["", *_results(runs).markdown(), "", escape_markdown(_legend(runs)), ""]
    if places := find_places(runs):
        lines += [escape_markdown(places.words), ""]
    for run in runs:
        said = run.final.verdict if run.final else "no final evaluation yet"
        lines.append(f"- {escape_markdown(run.run)}: {escape_markdown(said)}")
    return "\n".join([*lines, "", *(evidence_markdown(evidence) if evidence else ())])


def comparison_table(runs: Sequence[Compared]) -> str:
    found = find_places(runs)
    return "\n\n".join([_results(runs).text(), *([found.words] if found else []), comparability(runs)])


def _sections_html(runs: Sequence[Compared], evidence: Evidence | None) -> Iterator[str]:
    yield f'<header><p class="eyebrow">buildup comparison</p><h1>{escape(_title(runs))}</h1></header>'
    kind = "warning" if differing_facts(runs, MUST_MATCH) else "same"
    yield f'<section class="{kind}" role="note"><p><strong>{escape(comparability(runs))}</strong></p>'
    if found := differing_facts(runs, (*MUST_MATCH, *MAY_DIFFER)):
        columns: list[tuple[str, ColumnKind]] = [("", "heading"), *((run.run, "text") for run in runs)]
        yield html_table(TextTable(columns=columns, rows=[[name, *values] for name, values in found.items()]))
    yield "</section>"
    yield html_section("Results and costs", html_table(_results(runs)), small_note(_legend(runs)))
    yield from _plots(runs)
    if places := find_places(runs):
        yield html_section("End of a stage or its beginning", *_places_html(places))
    finals = []
    for run in runs:
        text = '<p class="muted">No final evaluation yet, so there is no claim about its winner.</p>'
        if run.final:
            text = f"<p>{escape(run.final.verdict)}</p>{html_table(tabulate_final(run.final))}"
        finals.append(f"<h3>{escape(run.run)}</h3>{text}")
    yield html_section("Final evaluations", *finals)
    if evidence:
        yield from evidence_html(evidence)


def _plots(runs: Sequence[Compared]) -> Iterator[str]:
    names = {run.objective for run in runs}
    if len(names) > 1:
        yield "<section><p>The runs have different objectives, so they share no plot.</p></section>"
        return
    up = axis_title(OBJECTIVES[names.pop()])
    networks, progress = [], []
    for run in runs:
        dots = []
        for one in run.points:
            title = f"{run.run}: {one.layout}, {one.role}, {one.score:.2f}, {short_number(one.macs)}MACs"
            dots.append(Dot(x=one.macs / 1e6, y=one.score, title=title, large=one is run.winner))
        networks.append(Series(name=run.run, dots=tuple(dots)))
        best = tuple(
            Dot(x=one.trainings, y=one.score, title=f"{run.run}: {one.score:.2f} after {one.trainings} trainings")
            for one in run.reached
        )
        progress.append(Series(name=run.run, dots=best, joined=True))
    if any(one.dots for one in networks):
        note = "Each network with a verdict, at its mean score over seeds. Winners are large."
        plot = plot_svg(networks, label="Score of each network against its MACs", across="million MACs", up=up)
        yield html_section("Score against cost", small_note(note), scrollable(plot))
    if any(one.dots for one in progress):
        note = (
            "The best network so far according to the judge, at the scores of its verdict. Only trainings that a "
            "verdict used are counted."
        )
        plot = plot_svg(progress, label="Best score so far over trainings", across="trainings", up=up)
        yield html_section("Best score over trainings", small_note(note), scrollable(plot))


def _places_html(found: PlaceFindings) -> Iterator[str]:
    note = (
        "Each network of runs that were free to change blocks anywhere in a stage: the mean place of its changed "
        "blocks, and its score. random and exhaustive choose places whatever the scores; tpe and nsga2 do not."
    )
    dots: dict[str, list[Dot]] = {}
    for one in found.networks:
        title = f"{one.run}: {one.layout}, place {one.place:.2f}, {one.score:.2f}"
        dots.setdefault(one.run, []).append(Dot(x=one.place, y=one.score, title=title))
    series = [Series(name=run, dots=tuple(own)) for run, own in dots.items()]
    across = "mean place of changed blocks (0 beginning, 1 end of their stage)"
    label = "Score of each network against the place of its blocks"
    names, plot = {one.objective for one in found.networks}, ""
    if len(names) == 1:
        plot = plot_svg(series, label=label, across=across, up=axis_title(OBJECTIVES[names.pop()]))
    yield f"<p>{escape(found.words)}</p>{small_note(note)}{scrollable(plot)}"


def _title(runs: Sequence[Compared]) -> str:
    return f"{len(runs)} searches: {', '.join(run.run for run in runs)}"


def _results(runs: Sequence[Compared]) -> TextTable:
    winners = [run.winner for run in runs]
    return TextTable.by_column(
        ("run", "text", [run.run for run in runs]),
        ("strategy", "text", [run.strategy for run in runs]),
        ("judge", "text", [run.judge for run in runs]),
        ("winner", "layout", [one.layout if one else "–" for one in winners]),
        ("score", "number", [f"{one.score:.2f}" if one else "–" for one in winners]),
        ("gain", "number", ["–" if run.gain is None else points(run.gain) for run in runs]),
        ("seeds", "number", [str(len(run.gains)) for run in runs]),
        ("verdicts", "number", [str(run.verdicts) for run in runs]),
        ("kept", "number", [str(run.kept) for run in runs]),
        ("trainings", "number", [str(run.trainings) for run in runs]),
        ("needed", "number", [str(run.needed) for run in runs]),
        ("reused", "number", [str(run.reused) for run in runs]),
        ("time", "number", [duration(run.seconds) for run in runs]),
        ("params", "number", [short_number(one.params) if one else "–" for one in winners]),
        ("MACs", "number", [short_number(one.macs) if one else "–" for one in winners]),
    )


def _legend(runs: Sequence[Compared]) -> str:
    objectives = (OBJECTIVES[name] for name in sorted({run.objective for run in runs}))
    score = " or ".join(f"{one.title} ({one.scale})" for one in objectives)
    return (
        f"Score: {score} of the winner, and gain: improvement over the base, both means over the seeds that winner "
        "and base share; the column seeds is their number. Needed: trainings that a verdict used; the others were "
        "started ahead. Reused: trainings taken from another run. Time: sum over all trainings, including reused ones."
    )
