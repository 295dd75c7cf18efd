"""A network as a picture: a self-contained SVG, and DOT for Graphviz."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from math import ceil
from pathlib import Path
from string import Template

from buildup.graph.kinds import Conv, describe, known_kinds
from buildup.graph.layout import layout
from buildup.graph.network import Block, Network
from buildup.report.html import MONO, SANS, palette, with_fallbacks
from buildup.report.text_table import STEM_TEXTS, shape_text
from buildup.report.words import clean, escape

WIDTH = 900
MARGIN = 12
LABELS = 150
"""The left edge of the blocks; the labels of the stages are left of it."""
BOX_WIDTH, BOX_HEIGHT = 66, 56
GAP, ROW_GAP = 14, 20
LANE = 12
"""Distance between two lanes of skips."""
PADDING = 12
"""Inside a stage's band."""
PILL_HEIGHT = 26
BOXES_IN_A_ROW = (WIDTH - MARGIN - LABELS - PADDING + GAP) // (BOX_WIDTH + GAP)
LEGEND_HEIGHT = 34
INKS = ("#fff", "#06243a")
"""The text colours in boxes: on dark colours and on light ones."""

_SHEET = Template(Path(__file__).with_name("diagram.css").read_text(encoding="utf-8").replace("\n", ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where a node lies in the picture."""

    x: float
    y: float
    width: float
    height: float
    order: int
    """Counted from the stem."""

    @property
    def middle(self) -> float:
        return self.y + self.height / 2


def graph_svg(network: Network, name: str = "") -> str:
    """A network as an SVG of 900 px width: one band per stage, one box per block, coloured by kind.

    `name` is the user's name for the base, where timm's differs.
    """
    name = name or network.base
    pills = {"stem": f"stem {STEM_TEXTS[network.stem]}", "head": f"head for {network.num_classes} classes"}
    places, bands, height = _arrange(network, pills)
    letters = layout(network)
    # The layout of a deep network needs a smaller font to fit beside the name.
    size = 12 if len(letters) < 90 else 9
    parts = [
        f'<rect class="surface" width="{WIDTH}" height="{height}" rx="10"/>',
        f'<text class="strong" x="{MARGIN + 4}" y="30">{escape(name)}</text>',
        f'<text class="muted" x="{MARGIN + 4}" y="64">input {shape_text(network.input_shape)}</text>',
        f'<text class="mono muted" x="{WIDTH - MARGIN - 4}" y="30" text-anchor="end" style="font-size:{size}px">'
        f"{escape(letters)}</text>",
    ]
    for stage, (top, bottom) in zip(network.stages, bands, strict=True):
        first, (rows, columns) = top + PADDING + 16, stage.size
        small = ' style="font-size:10px"' if len(stage.name) > 14 else ""  # or it would reach into the boxes
        parts += [
            f'<rect class="band" x="{MARGIN}" y="{top}" width="{WIDTH - 2 * MARGIN}" height="{bottom - top}" rx="10"/>',
            f'<text class="strong" x="{MARGIN + 14}" y="{first}"{small}>{escape(stage.name)}</text>',
            f'<text class="muted" x="{MARGIN + 14}" y="{first + 18}">{rows} × {columns} map</text>',
            f'<text class="muted" x="{MARGIN + 14}" y="{first + 34}">{stage.blocks[-1].out_shape[0]} channels</text>',
        ]
    lanes = _lanes(network, places)
    parts += [_edge(places[source], places[target], lanes.get(target, 0.0)) for source, target in network.edges]
    parts += [
        _box(block, places[block.path], index) for stage in network.stages for index, block in enumerate(stage.blocks)
    ]
    for end, text in pills.items():
        place = places[end]
        parts += [
            f'<rect class="pill" x="{place.x}" y="{place.y}" width="{place.width}" height="{place.height}" rx="13"/>',
            f'<text class="muted" x="{place.x + 14}" y="{place.middle + 4}">{escape(text)}</text>',
        ]
    parts += _legend(network, height - LEGEND_HEIGHT / 2 - MARGIN / 2)
    label = escape(f"{name} as {letters}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="buildup-network" role="img" aria-label="{label}" '
        f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">'
        f"<style>{_style()}</style>"
        '<defs><marker id="buildup-tip" viewBox="0 0 6 6" refX="5.5" refY="3" markerWidth="6" markerHeight="6" '
        'orient="auto"><path class="tip" d="M0 0L6 3L0 6z"/></marker></defs>'
        f"{''.join(parts)}</svg>\n"
    )


def _style() -> str:
    """The style sheet with the colours of all kinds. Those of the base's own kind are in the palette."""
    kinds = [kind for kind in known_kinds().values() if kind is not Conv]
    light, dark = (
        "".join(
            f"--kind-{kind.name}:{kind.colour[theme]};--ink-{kind.name}:{INKS[_is_light(kind.colour[theme])]};"
            for kind in kinds
        )
        for theme in (0, 1)
    )
    boxes = "".join(
        f".buildup-network .{kind.name} .box{{fill:var(--kind-{kind.name})}}"
        f".buildup-network .{kind.name} .letter,.buildup-network .{kind.name} .inside{{fill:var(--ink-{kind.name})}}"
        for kind in kinds
    )
    sheet = with_fallbacks(_SHEET.substitute(SANS=SANS, MONO=MONO) + boxes, light)
    return palette(".buildup-network", light, dark) + sheet


def _is_light(colour: str) -> bool:
    """Whether dark text is easier to read on a colour than white, by the contrast that WCAG defines."""
    parts = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    dark_ink = 0.017  # of the darker one of INKS
    return (luminance + 0.05) / (dark_ink + 0.05) > 1.05 / (luminance + 0.05)


def graph_dot(network: Network) -> str:
    lines = [
        "digraph network {",
        f"  label={_quoted(f'{network.title}  {layout(network)}')}; labelloc=t; rankdir=LR; fontname=Helvetica;",
        '  node [shape=box, style="rounded,filled", fillcolor="#e3e8ee", color="#9fabb9", fontname=Helvetica];',
        f"  {_quoted('stem')} [label={_quoted('stem', STEM_TEXTS[network.stem])}, fillcolor=white];",
        f"  {_quoted('head')} [label={_quoted('head', f'{network.num_classes} classes')}, fillcolor=white];",
    ]
    for number, stage in enumerate(network.stages):
        shape = shape_text(stage.blocks[-1].out_shape)
        lines.append(f"  subgraph cluster_{number} {{")
        lines.append(f"    label={_quoted(stage.name, shape)}; style=rounded; color={_quoted('#9fabb9')};")
        for block in stage.blocks:
            look = ""
            if not isinstance(block.kind, Conv):
                fill = block.kind.colour[0]
                look = f", fillcolor={_quoted(fill)}, fontcolor={'black' if _is_light(fill) else 'white'}"
            if block.added:
                look += f", style={_quoted('rounded,filled,dashed')}"
            label, title = _quoted(block.path, describe(block.kind)), _quoted(_title(block))
            lines.append(f"    {_quoted(block.path)} [label={label}, tooltip={title}{look}];")
        lines.append("  }")
    lines += [f"  {_quoted(source)} -> {_quoted(target)};" for source, target in network.edges]
    return "\n".join([*lines, "}", ""])


def _arrange(network: Network, pills: Mapping[str, str]) -> tuple[dict[str, _Place], list[tuple[int, int]], int]:
    """The place of each node, top and bottom of the band of each stage, and the total height."""
    widths = {name: 28 + 6.6 * len(text) for name, text in pills.items()}
    places = {"stem": _Place(x=LABELS, y=46, width=widths["stem"], height=PILL_HEIGHT, order=0)}
    bands = []
    top = 46 + PILL_HEIGHT + ROW_GAP
    for stage in network.stages:
        rows = ceil(len(stage.blocks) / BOXES_IN_A_ROW)
        in_a_row = ceil(len(stage.blocks) / rows)
        for index, block in enumerate(stage.blocks):
            row, column = divmod(index, in_a_row)
            places[block.path] = _Place(
                x=LABELS + column * (BOX_WIDTH + GAP),
                y=top + PADDING + row * (BOX_HEIGHT + ROW_GAP),
                width=BOX_WIDTH,
                height=BOX_HEIGHT,
                order=len(places),
            )
        bottom = top + 2 * PADDING + rows * BOX_HEIGHT + (rows - 1) * ROW_GAP
        bands.append((top, bottom))
        top = bottom + ROW_GAP
    places["head"] = _Place(x=LABELS, y=top, width=widths["head"], height=PILL_HEIGHT, order=len(places))
    return places, bands, top + PILL_HEIGHT + LEGEND_HEIGHT + MARGIN


def _box(block: Block, place: _Place, index: int) -> str:
    classes = f"{block.kind.name} added" if block.added else block.kind.name
    corner, centre = place.x + place.width - 6, place.x + place.width / 2
    plus = f'<text class="inside" x="{corner}" y="{place.y + 14}" text-anchor="end">+</text>' if block.added else ""
    # At most two short lines under the letter: the settings of a replacement, or the change of shape.
    values = [(field.name, getattr(block.kind, field.name), field.default) for field in fields(block.kind)]
    lines = [f"{name} {value}" for name, value, default in values if value != default][:2]
    if not lines and block.added:
        lines = ["added"]
    elif not lines:
        before, after = block.in_shape, block.out_shape
        lines = [f"{before[1]}→{after[1]} px"] if before[1:] != after[1:] else []
        lines += [f"{before[0]}→{after[0]}"] if before[0] != after[0] else []
    letter_y = place.y + (24 if lines else 34)
    inside = "".join(
        f'<text class="inside" x="{centre}" y="{place.y + 38 + 12 * number}" text-anchor="middle">{escape(line)}</text>'
        for number, line in enumerate(lines)
    )
    return (
        f'<g class="{classes}"><title>{escape(_title(block))}</title>'
        f'<rect class="box" x="{place.x}" y="{place.y}" width="{place.width}" height="{place.height}" rx="8"/>'
        f'<text class="inside" x="{place.x + 6}" y="{place.y + 14}">{index}</text>'
        f'<text class="letter" x="{centre}" y="{letter_y}" text-anchor="middle">{escape(block.kind.letter)}</text>'
        f"{plus}{inside}</g>"
    )


def _title(block: Block) -> str:
    added = ", added" if block.added else ""
    shapes = f"{shape_text(block.in_shape)} -> {shape_text(block.out_shape)}"
    return f"{block.path}: {describe(block.kind)}{added}, {block.module} of the base, {shapes}"


def _lanes(network: Network, places: Mapping[str, _Place]) -> dict[str, float]:
    """The x position of the lane, right of all boxes, in which the skips to a node run down; they share it."""
    ends = [(places[source], places[target], target) for source, target in network.edges]
    far = {name: target.order for source, target, name in ends if _is_far(source, target)}
    ordered = sorted(far, key=lambda name: -far[name])  # the shortest lane is the inner one
    left = max(place.x + place.width for place in places.values()) + LANE
    step = min(LANE, (WIDTH - MARGIN - 2 - left) / max(1, len(ordered)))
    return {name: left + step * number for number, name in enumerate(reversed(ordered))}


def _is_far(source: _Place, target: _Place) -> bool:
    """Whether an edge is a skip from one row to another."""
    return target.order != source.order + 1 and source.y != target.y


def _edge(source: _Place, target: _Place, lane: float) -> str:
    classes = "edge"
    if _is_far(source, target):
        classes = "edge skip"
        out, level, middle, r = source.middle + 9, target.y - 8, target.x + target.width / 2, 6
        turn = r if level > out else -r
        way = (
            f"M{source.x + source.width} {out}H{lane - r}Q{lane} {out} {lane} {out + turn}"
            f"V{level - turn}Q{lane} {level} {lane - r} {level}"
            f"H{middle + r}Q{middle} {level} {middle} {level + r}V{target.y}"
        )
    elif target.order != source.order + 1:
        # Between two boxes that are not neighbours, over the boxes between them.
        start, end = source.x + source.width / 2, target.x + target.width / 2
        lift = min(source.y, target.y) - 14
        classes, way = "edge skip", f"M{start} {source.y}C{start} {lift} {end} {lift} {end} {target.y}"
    elif source.y == target.y:
        way = f"M{source.x + source.width} {source.middle}H{target.x}"
    else:
        # From the right of a box to the left of a box in a lower row, through the gap between the rows.
        out, back, r = source.x + source.width + 9, target.x - 9, 6
        level = source.y + source.height + (target.y - source.y - source.height) / 2
        way = (
            f"M{out - 9} {source.middle}H{out - r}Q{out} {source.middle} {out} {source.middle + r}"
            f"V{level - r}Q{out} {level} {out - r} {level}"
            f"H{back + r}Q{back} {level} {back} {level + r}"
            f"V{target.middle - r}Q{back} {target.middle} {back + r} {target.middle}H{target.x}"
        )
    return f'<path class="{classes}" d="{way}" marker-end="url(#buildup-tip)"/>'


def _legend(network: Network, y: float) -> Iterator[str]:
    letters = {block.kind.letter for block in network.blocks}
    kinds = [kind for letter, kind in known_kinds().items() if letter in letters]
    entries = [(kind.name, f"{kind.letter}  {kind.label}") for kind in kinds]
    if any(block.added for block in network.blocks):
        entries.append((f"{Conv.name} added", "+  added to the base"))
    x = MARGIN + 14.0
    for classes, text in entries:
        yield f'<g class="{classes}"><rect class="box" x="{x}" y="{y - 7}" width="14" height="14" rx="4"/></g>'
        yield f'<text class="muted legend" x="{x + 20}" y="{y + 4}">{escape(text)}</text>'
        x += 36 + 6.3 * len(text)


def _quoted(*lines: str) -> str:
    return '"' + "\\n".join(clean(line).replace("\\", "\\\\").replace('"', '\\"') for line in lines) + '"'
