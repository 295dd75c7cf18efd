"""The comparison of several runs as a page and as Markdown: whether they may be compared, then what each found."""

from collections.abc import Iterator, Sequence
from itertools import chain

from buildup.report.comparison import Compared, comparable, differences, other_differences
from buildup.report.diagnostic_table import Evidence
from buildup.report.final_table import final_rows, header
from buildup.report.html import document, table_head
from buildup.report.plot import Dot, Series, plot_svg
from buildup.report.sections.evidence import evidence_lines, evidence_page
from buildup.report.text_table import aligned, code
from buildup.report.words import count, duration, escape, plain, points
from buildup.trials.objective import ACCURACY, OBJECTIVES

HEADER = (
    *("run", "strategy", "judge", "winner", "score", "gain", "seeds", "verdicts", "kept"),
    *("trainings", "needed", "reused", "time", "params", "MACs"),
)
RIGHT = frozenset(range(3, len(HEADER))) - {HEADER.index("winner")}


def comparison_page(runs: Sequence[Compared], evidence: Evidence | None = None) -> str:
    """One HTML file that needs nothing else."""
    return document(_title(runs), chain(_parts(runs), evidence_page(evidence) if evidence else ()))


def comparison_text(runs: Sequence[Compared], evidence: Evidence | None = None) -> str:
    """The same in Markdown, without the plots."""
    lines = [f"# {plain(_title(runs))}", "", f"**{plain(comparable(runs))}**", ""]
    for name, values in {**differences(runs), **other_differences(runs)}.items():
        each = (f"{plain(run.run)} {plain(value)}" for run, value in zip(runs, values, strict=True))
        lines.append(f"- {plain(name)}: {', '.join(each)}")
    ruler = ["---:" if index in RIGHT else "---" for index in range(len(HEADER))]
    place = HEADER.index("winner")
    rows = [[*map(plain, row[:place]), f"`{code(row[place])}`", *map(plain, row[place + 1 :])] for row in _rows(runs)]
    lines += ["", *(f"| {' | '.join(row)} |" for row in (HEADER, ruler, *rows)), "", plain(_counted(runs)), ""]
    for run in runs:
        said = run.final.verdict if run.final else "no final yet"
        lines.append(f"- {plain(run.run)}: {plain(said)}")
    return "\n".join([*lines, "", *(evidence_lines(evidence) if evidence else ())])


def comparison_table(runs: Sequence[Compared]) -> str:
    """What each found, for a terminal."""
    return "\n".join([*aligned([HEADER, *_rows(runs)], right=RIGHT), "", comparable(runs)])


def _parts(runs: Sequence[Compared]) -> Iterator[str]:
    yield f'<header><p class="eyebrow">buildup comparison</p><h1>{escape(_title(runs))}</h1></header>'
    kind = "warning" if differences(runs) else "same"
    found = {**differences(runs), **other_differences(runs)}
    yield f'<section class="{kind}" role="note"><p><strong>{escape(comparable(runs))}</strong></p>'
    if found:
        head = table_head("", *(run.run for run in runs))
        rows = "".join(
            f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{escape(value)}</td>" for value in values)}</tr>'
            for name, values in found.items()
        )
        yield f'<div class="scroll"><table>{head}<tbody>{rows}</tbody></table></div>'
    yield "</section><section><h2>What each found and spent</h2>"
    head = table_head(*(f"#{name}" if index in RIGHT else name for index, name in enumerate(HEADER)))
    rows = "".join(f"<tr>{''.join(map(_cell, range(len(row)), row))}</tr>" for row in _rows(runs))
    yield f'<div class="scroll"><table>{head}<tbody>{rows}</tbody></table></div>'
    yield f'<p class="muted small">{escape(_counted(runs))}</p></section>'
    yield from _plots(runs)
    yield from _finals(runs)


def _plots(runs: Sequence[Compared]) -> Iterator[str]:
    objectives = {run.objective for run in runs}
    if len(objectives) > 1:
        yield "<section><p>They are judged by different objectives, so no plot has room for all of them.</p></section>"
        return
    objective = OBJECTIVES[objectives.pop()]
    up = f"{objective.title}, {'%' if objective is ACCURACY else f'{objective.scale}; less is better'}"
    networks = [
        Series(
            name=run.run,
            dots=tuple(
                Dot(
                    x=point.macs / 1e6,
                    y=point.score,
                    title=f"{run.run}: {point.layout}, {point.role}, {point.score:.2f}, {count(point.macs)}MACs",
                    large=point is run.winner,
                )
                for point in run.points
            ),
        )
        for run in runs
    ]
    reached = [
        Series(
            name=run.run,
            dots=tuple(
                Dot(x=one.trainings, y=one.score, title=f"{run.run}: {one.score:.2f} after {one.trainings} trainings")
                for one in run.reached
            ),
            joined=True,
        )
        for run in runs
    ]
    if any(one.dots for one in networks):
        yield "<section><h2>Score against cost</h2>"
        yield '<p class="muted small">Every network with a verdict, at the mean of its seeds; winners are large.</p>'
        picture = plot_svg(networks, label="Score of each network against its MACs", across="million MACs", up=up)
        yield f'<div class="scroll">{picture}</div></section>'
    if any(one.dots for one in reached):
        yield "<section><h2>How fast it was found</h2>"
        yield (
            '<p class="muted small">The best so far as its judge has it, by the scores of its verdict; '
            "trainings that a verdict stands on, one after the other.</p>"
        )
        picture = plot_svg(reached, label="Best score so far over trainings", across="trainings", up=up)
        yield f'<div class="scroll">{picture}</div></section>'


def _finals(runs: Sequence[Compared]) -> Iterator[str]:
    yield "<section><h2>What is proven</h2>"
    for run in runs:
        yield f"<h3>{escape(run.run)}</h3>"
        if run.final is None:
            yield '<p class="muted">No final yet: nothing is claimed of its winner.</p>'
            continue
        head = table_head(*(f"#{name}" if 1 < index < 6 else name for index, name in enumerate(header(run.final))))
        rows = "".join(
            f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in final_rows(run.final)
        )
        yield f"<p>{escape(run.final.verdict)}</p>"
        yield f'<div class="scroll"><table>{head}<tbody>{rows}</tbody></table></div>'
    yield "</section>"


def _title(runs: Sequence[Compared]) -> str:
    return f"{len(runs)} searches: {', '.join(run.run for run in runs)}"


def _rows(runs: Sequence[Compared]) -> list[list[str]]:
    return [_row(run) for run in runs]


def _row(run: Compared) -> list[str]:
    winner = run.winner
    return [
        run.run,
        run.strategy,
        run.judge,
        winner.layout if winner else "–",
        f"{winner.score:.2f}" if winner else "–",
        "–" if run.gain is None else points(run.gain),
        str(len(run.gains)),
        str(run.verdicts),
        str(run.kept),
        str(run.trainings),
        str(run.needed),
        str(run.reused),
        duration(run.seconds),
        count(winner.params) if winner else "–",
        count(winner.macs) if winner else "–",
    ]


def _counted(runs: Sequence[Compared]) -> str:
    kinds = {run.objective: OBJECTIVES[run.objective] for run in runs}
    objectives = " or ".join(f"{one.title} ({one.scale})" for _, one in sorted(kinds.items()))
    return (
        f"Score: {objectives}, the mean over all seeds of the winner; gain: by how much it is better than the base, "
        "the mean over the seeds that both have, as many as stand beside it. "
        "Needed are the trainings that a verdict stands on, the others were trained ahead; reused ones were taken over "
        "from another run. Time is that of all trainings, one after the other, as if none had been reused."
    )


def _cell(index: int, text: str) -> str:
    kind = "number" if index in RIGHT else "layout" if HEADER[index] == "winner" else ""
    return f'<td class="{kind}">{escape(text)}</td>'
