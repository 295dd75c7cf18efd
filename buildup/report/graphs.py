"""The graphs of a run that optuna-dashboard shows beside its own, as Plotly figures.

A figure is written as the values that Plotly's JSON has. So Plotly itself, which only the browser runs, is not needed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from buildup.trials.decision import CandidateSummary

KEPT, DROPPED, OPEN = "#1a7f4b", "#9aa0a6", "#1f77b4"
MOST_TICKS = 20
"""Up to this many steps, each has its own tick."""
MOST_NAMES = 30
"""Up to this many networks, each is labelled with its layout."""
Figure = dict[str, Any]


def review_graphs(candidates: Sequence[CandidateSummary]) -> dict[str, Figure]:
    """The figures of a run by their ids. The first candidate is the base, and the others are in order."""
    return {
        "build-up": build_up_graph(candidates),
        "gains": gains_graph(candidates),
        "cost": cost_graph(candidates),
        "lineage": lineage_graph(candidates),
    }


def build_up_graph(candidates: Sequence[CandidateSummary]) -> Figure:
    rows = [(step, one) for step, one in enumerate(candidates) if one.mean is not None]
    kept = [(step, one) for step, one in rows if one.kept]
    line = _trace("kept", [step for step, _ in kept], [one.mean for _, one in kept], KEPT, mode="lines")
    traces = [line, *_by_verdict(rows)]
    return _figure("Build-up: accuracy of each network", "step", "mean accuracy, %", traces, steps=len(rows))


def gains_graph(candidates: Sequence[CandidateSummary]) -> Figure:
    rows = [(one, one.decision) for one in candidates if one.decision]
    traces = []
    for name, colour, kept in (("kept", KEPT, True), ("dropped", DROPPED, False)):
        own = [(one, decision) for one, decision in rows if decision.kept == kept]
        if not own:
            continue  # no word in the legend either
        trace = _trace(name, [one.step for _, one in own], [one.gain for _, one in own], colour)
        trace["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": [decision.ci[1] - decision.gain for _, decision in own],
            "arrayminus": [decision.gain - decision.ci[0] for _, decision in own],
        }
        traces.append(trace | {"text": [_label(one) for one, _ in own]})
    unit = rows[0][1].unit if rows else "points"
    return _figure("Gain of each step over its parent, with interval", "step", f"gain, {unit}", traces, steps=len(rows))


def cost_graph(candidates: Sequence[CandidateSummary]) -> Figure:
    rows = [(one.macs / 1e6, one) for one in candidates if one.mean is not None and one.macs is not None]
    kept = [(macs, one) for macs, one in rows if one.kept]
    line = _trace("kept", [macs for macs, _ in kept], [one.mean for _, one in kept], KEPT, mode="lines")
    traces = [line, *_by_verdict(rows)]
    return _figure("Accuracy against cost", "million MACs for an image", "mean accuracy, %", traces)


def lineage_graph(candidates: Sequence[CandidateSummary]) -> Figure:
    """Which network each came from: a step to the right is a change, and the kept ones stand on top."""
    depths: dict[str, int] = {}
    rows: dict[int, int] = {}
    places: dict[str, tuple[int, int]] = {}
    edges: tuple[list[int | None], list[int | None]] = ([], [])
    for one in candidates:
        depth = depths[one.id] = depths.get(one.parent or "", -1) + 1
        if not one.kept:
            rows[depth] = rows.get(depth, 0) + 1
        places[one.id] = (depth, 0 if one.kept else -rows[depth])
        if one.parent in places:
            for axis, start, end in zip(edges, places[one.parent], places[one.id], strict=True):
                axis += [start, end, None]
    lines = _trace("change", *edges, "#c8ccd0", mode="lines") | {"hoverinfo": "skip"}
    named = len(candidates) <= MOST_NAMES
    traces = _by_verdict([(places[one.id][0], one) for one in candidates], [places[one.id][1] for one in candidates])
    for trace in traces:
        trace |= {"mode": "markers+text" if named else "markers", "textposition": "bottom center"}
    deepest = max(depths.values(), default=0)
    title = "Lineage: the networks and what they came from"
    figure = _figure(title, "changes", "", [lines, *traces], steps=deepest)
    figure["layout"]["yaxis"] |= {"showticklabels": False, "zeroline": False}
    return figure


def _by_verdict(rows: Sequence[tuple[float, CandidateSummary]], heights: Sequence[float] | None = None) -> list[Figure]:
    """Dots of candidates at their places, one trace for each verdict. Their height is their mean unless given."""
    found = []
    for name, colour in (("kept", KEPT), ("dropped", DROPPED), ("undecided", OPEN)):
        own = [number for number, (_, one) in enumerate(rows) if _verdict(one) == name]
        ys = [rows[number][1].mean if heights is None else heights[number] for number in own]
        texts = [_label(rows[number][1]) for number in own] if heights is None else []
        trace = _trace(name, [rows[number][0] for number in own], ys, colour)
        found.append(trace | {"text": texts or [rows[number][1].layout for number in own]})
    return [trace for trace in found if trace["x"]]


def _verdict(one: CandidateSummary) -> str:
    return "kept" if one.kept else "dropped" if one.decision else "undecided"


def _label(one: CandidateSummary) -> str:
    return f"{one.layout}<br>{one.edit or 'the base'}"


def _trace(name: str, x: Sequence[Any], y: Sequence[Any], colour: str, mode: str = "markers") -> Figure:
    style = {"color": colour, "size": 9} if mode == "markers" else {"color": colour}
    kind = "marker" if mode == "markers" else "line"
    hidden = {"showlegend": False} if mode == "lines" else {}
    return {"type": "scatter", "name": name, "mode": mode, "x": list(x), "y": list(y), kind: style, **hidden}


def _figure(title: str, x: str, y: str, traces: Sequence[Mapping[str, Any]], *, steps: int | None = None) -> Figure:
    """`steps` is the number of steps if the x axis counts them."""
    whole = {"dtick": 1} if steps is not None and steps <= MOST_TICKS else {}
    layout = {
        "title": {"text": title, "x": 0, "xref": "paper", "font": {"size": 15}},
        "xaxis": {"title": {"text": x}, "zeroline": False, **whole},
        "yaxis": {"title": {"text": y}},
        "margin": {"l": 60, "r": 20, "t": 70, "b": 50},
        "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom"},
        "hovermode": "closest",
    }
    return {"data": list(traces), "layout": layout}
