"""What a search tried: scores against attention, MACs and speed, and what it cost."""

from collections.abc import Iterator, Mapping
from statistics import fmean

from buildup.errors import counted
from buildup.graph.kinds import known_kinds
from buildup.graph.serialize import fingerprint
from buildup.report.chart import Dot, Series, plot_svg
from buildup.report.findings import Findings
from buildup.report.html import html_section, html_table, small_note
from buildup.report.text_table import TextTable
from buildup.report.words import axis_title, duration, escape
from buildup.trials.outcome import Failure, Outcome, Reason

PLOTS_TITLE = "Scores of all networks"
COST_TITLE = "What it cost"


def tried_html(findings: Findings) -> Iterator[str]:
    if plots := _plots(findings):
        pair = f'<div class="pair">{"".join(plots)}</div>'
        speed = " Images per second are those of the fastest training." if _speeds(findings) else ""
        said = f"{_compared(findings)} Small marks are single seeds.{speed}"
        yield html_section(PLOTS_TITLE, small_note(said), pair)
    if findings.trainings:
        yield html_section(
            COST_TITLE, *(f"<p>{escape(said)}</p>" for said in _words(findings)), html_table(_costs(findings))
        )


def tried_markdown(findings: Findings) -> Iterator[str]:
    if findings.trainings:
        yield from (f"## {COST_TITLE}", "", *_words(findings), "", *_costs(findings).markdown(), "")


def _plots(findings: Findings) -> list[str]:
    means = {candidate: fmean(scores.values()) for candidate, scores in _scores(findings).items()}
    layouts = {candidate: layout for candidate in means if (layout := findings.layouts.get(candidate))}
    attention = {letter for letter, kind in known_kinds().items() if kind.attention}
    blocks = {one: float(sum(letter in attention for letter in layout)) for one, layout in layouts.items()}
    cost = {one.candidate: one.macs / 1e6 for one in findings.decisions if one.macs is not None}
    if base := findings.cost(findings.base):
        cost[fingerprint(findings.base)] = base[1] / 1e6
    up = axis_title(findings.objective)
    found = []
    speeds = ("images per second, training", _speeds(findings))
    for across, where in (("attention blocks", blocks), ("million MACs", cost), speeds):
        known = {candidate: mean for candidate, mean in means.items() if candidate in where}
        if len(known) < 2:
            continue
        label = f"{findings.objective.title} against {across}"
        series = _series(findings, known, where)
        found.append(plot_svg(series, label=label, across=across, up=up, narrow=True))
    return found


def _speeds(findings: Findings) -> dict[str, float]:
    """Images per second of the fastest training by candidate; empty where there were several kinds of device."""
    known = {
        candidate: measured
        for candidate, scores in findings.scored.items()
        if candidate in findings.layouts
        and (measured := [score for score in scores.values() if "throughput" in score.metrics])
    }
    if len({score.device for scores in known.values() for score in scores}) != 1:
        return {}
    return {candidate: max(score.metrics["throughput"] for score in scores) for candidate, scores in known.items()}


def _series(findings: Findings, means: Mapping[str, float], where: Mapping[str, float]) -> tuple[Series, ...]:
    way = [fingerprint(findings.base), *(one.candidate for one in findings.kept)]
    dropped = [candidate for candidate in means if candidate not in way]

    def dot(candidate: str) -> Dot:
        layout = findings.layouts.get(candidate, candidate)
        return Dot(x=where[candidate], y=means[candidate], title=f"{layout}: {means[candidate]:.2f}")

    seeds = tuple(
        Dot(
            x=where[candidate],
            y=value,
            title=f"{findings.layouts.get(candidate, '')}, seed {seed}: {value:.2f}",
            small=True,
        )
        for candidate, scores in _scores(findings).items()
        if candidate in means
        for seed, value in scores.items()
    )
    return (
        Series(name="base and kept steps", dots=tuple(dot(one) for one in way if one in means), joined=True),
        Series(name="dropped", dots=tuple(map(dot, dropped))),
        Series(name="single seeds", dots=seeds),
    )


def _scores(findings: Findings) -> dict[str, dict[str, float]]:
    """The scores by candidate and seed: of the seeds that all candidates have, or where there is none, of all."""
    found = {
        candidate: {seed: findings.objective.value(score) for seed, score in scores.items()}
        for candidate, scores in findings.scored.items()
        if candidate in findings.layouts
    }
    shared = set.intersection(*map(set, found.values())) if found else set()
    if not shared:
        return found
    return {candidate: {seed: scores[seed] for seed in scores if seed in shared} for candidate, scores in found.items()}


def _compared(findings: Findings) -> str:
    seeds = {seed for scores in _scores(findings).values() for seed in scores}
    one = all(set(scores) == seeds for scores in _scores(findings).values())
    which = f"over the {counted(len(seeds), 'seed')} that all networks have" if one else "over the seeds that each has"
    return f"Means {which}."


def _shares(findings: Findings) -> dict[str, list[Outcome]]:
    shares: dict[str, list[Outcome]] = {
        "for verdicts": [],
        "checks of the base": [],
        "ended unneeded": [],
        "failed": [],
    }
    for row in findings.trainings:
        if isinstance(row.outcome, Failure):
            kind = "ended unneeded" if row.outcome.reason is Reason.UNNEEDED else "failed"
        else:
            kind = "checks of the base" if row.check else "for verdicts"
        shares[kind].append(row.outcome)
    return {kind: outcomes for kind, outcomes in shares.items() if outcomes}


def _costs(findings: Findings) -> TextTable:
    shares = _shares(findings)
    seconds = {kind: sum(one.seconds for one in outcomes) for kind, outcomes in shares.items()}
    total = sum(seconds.values()) or 1.0
    return TextTable.by_column(
        ("trainings", "heading", list(shares)),
        ("number", "number", [str(len(outcomes)) for outcomes in shares.values()]),
        ("time", "number", [duration(value) for value in seconds.values()]),
        ("share", "number", [f"{100 * value / total:.0f} %" for value in seconds.values()]),
    )


def _words(findings: Findings) -> list[str]:
    shares = _shares(findings)
    total = sum(row.outcome.seconds for row in findings.trainings)
    wasted = sum(one.seconds for kind in ("ended unneeded", "failed") for one in shares.get(kind, []))
    where = str(findings.settings.get("device", ""))
    device = f" on {where}" if where not in {"", "auto"} else ""
    said = [f"{counted(len(findings.trainings), 'training')} took {duration(total)} of worker time{device}."]
    if wasted:
        share = f"{100 * wasted / (total or 1.0):.0f} %"
        said.append(f"{duration(wasted)} of it ({share}) changed no verdict: begun ahead of a verdict, or failed.")
    return said
