"""Draws the animated build-up of the documentation: `python docs/build_up.py > docs/figures/build-up.svg`.

The paper's search is replayed from its published scores. The picture is the tool's own diagram of the base; the blocks
that a step tries lie over it and appear at its time, and a line beside them says what came of it. Where nothing moves,
as on paper, it shows the network that was found.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from buildup.engine.simulate import run_simulation
from buildup.graph.network import Network, sketch
from buildup.report.diagram import graph_svg
from buildup.report.words import escape, points, short_edit
from buildup.settings import SimulateSettings
from buildup.trials.decision import Decision

SCORES = Path(__file__).with_name("published.csv")
BASE = "CCC|CCCC|CCCCCC|CCCC"
TITLE = "The build-up rule on the paper's ResNet-50"
SECONDS = 2.0
"""For each step: half of it until the verdict falls."""
REST = 3
"""Steps for which the end is shown."""
TEXT, VERDICT, LINE = 640, 872, 20
"""Left and right edge of the lines beside the blocks, and their distance."""

STYLE = (
    ".buildup-network .tried .box{stroke:var(--ink);stroke-width:2.5}.buildup-network .past{opacity:0}"
    ".buildup-network .keep{fill:var(--accent);font-weight:650}.buildup-network .drop{fill:var(--drop)}"
)


def build_up() -> str:
    """The animated picture as SVG."""
    asked = SimulateSettings(layout=BASE, space="paper", scores=str(SCORES), judge="point", look_ahead=True)
    decisions = run_simulation(asked).decisions
    drawn = [*_frames(decisions)]
    # Each step has a layout of its own in the corner, and the letters say nothing of channels.
    other = re.compile(
        r'<text class="mono muted"[^>]*>[^<]*</text>|<text[^>]*>(?:[0-9]+ channels|[0-9]+→[0-9]+)</text>'
    )
    picture = other.sub("", graph_svg(_network(BASE), TITLE))
    # The legend is that of a network with attention.
    legend = re.compile(r'<g class="conv"><rect class="box" x="26\.0".*')
    found = legend.search(graph_svg(_network(decisions[0].layout)))
    assert found is not None
    moves = "".join(_keyframes(number, *shown) for number, (_, *shown) in enumerate(drawn))
    style = f"{STYLE}@media (prefers-reduced-motion:no-preference){{{moves}}}</style>"
    content = "".join(f'<g class="f{number}{frame}</g>' for number, (frame, *_) in enumerate(drawn))
    picture = legend.sub(lambda _: content + found[0], picture.rstrip())
    return picture.replace("</style>", style, 1) + "\n"


def _network(layout: str) -> Network:
    """The paper's network for images of 32 px, from its letters."""
    network = replace(sketch(BASE), stem="small")
    for block, letter in zip(network.blocks, layout.replace("|", ""), strict=True):
        network = network if block.kind.letter == letter else network.replace(block.path, letter)
    return network


def _frames(decisions: Sequence[Decision]) -> Iterator[tuple[str, float, float]]:
    """What appears, after its first class, with the shares of the time at which it comes and goes."""
    total, best, rows, since = len(decisions) + REST, BASE, dict[str, int](), 0.0
    for number, decision in enumerate(decisions):
        begin, verdict = number / total, (number + 0.5) / total
        kept = decision.verdict == "keep"
        end = 1.0 if kept else (number + 1) / total
        yield f'{"" if kept else " past"}">{_tried(decision.layout, best)}', begin, end
        yield f' past tried">{_tried(decision.layout, best)}', begin, verdict
        y = _line(decision, rows)
        yield f'"><text x="{TEXT}" y="{y}">{escape(short_edit(decision.edit))}</text>', begin, 1.0
        said = f"{points(decision.gain)} {decision.verdict}"
        yield f'"><text class="{decision.verdict}" x="{VERDICT}" y="{y}" text-anchor="end">{said}</text>', verdict, 1.0
        if kept:
            yield f' past">{_letters(best)}', since, verdict
            best, since = decision.layout, verdict
    yield f'">{_letters(best)}', since, 1.0


def _tried(layout: str, best: str) -> str:
    """The boxes of a layout that differ from those of the best so far, as the diagram draws them."""
    boxes = re.findall(r'<g class="[^"]*"><title>.*?</g>', graph_svg(_network(layout)))
    letters = zip(layout.replace("|", ""), best.replace("|", ""), boxes, strict=True)
    return "".join(box for tried, before, box in letters if tried != before)


def _line(decision: Decision, rows: dict[str, int]) -> float:
    """The next line of the decision's stage."""
    stage = re.findall(r"c(\d)\.", decision.edit)[0]
    rows[stage] = rows.get(stage, 0) + 1
    return 92 + 100 * (int(stage) - 1) + 4 + LINE * rows[stage]


def _letters(layout: str) -> str:
    return f'<text class="mono muted" x="884" y="30" text-anchor="end">{escape(layout)}</text>'


def _keyframes(number: int, begin: float, end: float) -> str:
    """Visible from one share of the time to another."""
    out = f"{100 * end:.4g}%{{opacity:0}}" if end < 1 else ""
    seconds = SECONDS * (8 + REST)
    return (
        f"@keyframes f{number}{{0%{{opacity:{int(not begin)}}}{100 * begin:.4g}%{{opacity:1}}{out}}}"
        f".buildup-network .f{number}{{animation:f{number} {seconds:g}s step-end infinite}}"
    )


if __name__ == "__main__":
    sys.stdout.write(build_up())
