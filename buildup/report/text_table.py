"""Networks, decisions and plans as plain text: aligned for a terminal, or as Markdown for the study's note."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from buildup.graph.fingerprint import fingerprint
from buildup.graph.kinds import describe
from buildup.graph.layout import layout
from buildup.graph.network import Network, Shape
from buildup.report.words import clean, count, gain, interval, interval_heading
from buildup.trials.decision import Decision

STEMS = {"base": "as timm makes it", "small": "small: 3x3, stride 1, no pooling"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRow:
    """One candidate of a plan."""

    number: int
    layout: str
    edit: str
    params: int | None
    macs: int | None
    role: Literal["base", "first", "possible"]
    """`first`: tried whatever the verdicts are; `possible`: only after some of them."""


def decisions_table(decisions: Sequence[Decision]) -> str:
    """The decisions of a search, one a line."""
    if not decisions:
        return "No decisions yet."
    return "\n".join(aligned(_decision_rows(decisions), right={0, 3, 5, 6, 7}))


def markdown_table(decisions: Sequence[Decision]) -> str:
    """The decisions of a search as a Markdown table."""
    if not decisions:
        return "No decisions yet."
    header, *rows = _decision_rows(decisions)
    # Edit and layout are code; what stands in the other columns is written here.
    rows = [[*row[:1], *(f"`{code(text)}`" for text in row[1:3]), *row[3:]] for row in rows]
    ruler = ["---:" if index in {0, 3, 5, 6, 7} else "---" for index in range(len(header))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ruler, *rows))


def candidates_table(rows: Sequence[PlanRow]) -> str:
    """The candidates of a plan, one a line."""
    cells = [[str(row.number), row.role, row.layout, row.edit, _known(row.params), _known(row.macs)] for row in rows]
    return "\n".join(aligned([["no.", "role", "layout", "edit", "params", "MACs"], *cells], right={0, 4, 5}))


def graph_text(network: Network, tries: Sequence[str] | None = None) -> str:
    """A network stage by stage, a line a block, with the paths that are tried: those of the usual rule if not given."""
    order = try_order(network) if tries is None else {path: number for number, path in enumerate(tries, start=1)}
    head = [
        ["base", network.base],
        ["layout", layout(network)],
        ["fingerprint", fingerprint(network)],
        ["input", f"{shape_text(network.input_shape)}, {network.num_classes} classes"],
        ["stem", STEMS[network.stem]],
    ]
    rows = [
        [
            f"  {block.path}",
            block.kind.letter,
            describe(block.kind) + (", added" if block.added else ""),
            block.module,
            f"{shape_text(block.in_shape)} -> {shape_text(block.out_shape)}",
            f"try {order[block.path]}" if block.path in order else "",
        ]
        for block in network.blocks
    ]
    lines = aligned(head)
    block_lines = iter(aligned(rows))
    for stage in network.stages:
        height, width = stage.size
        lines += ["", f"{clean(stage.name)}: {height} x {width}, {stage.blocks[-1].out_shape[0]} channels"]
        lines += [next(block_lines) for _ in stage.blocks]
    own = {block.path for block in network.blocks}
    if added := [f"try {number}: one more block, {clean(path)}" for path, number in order.items() if path not in own]:
        lines += ["", *added]
    elif order:
        lines += ["", "try n: where another kind may stand, in the order of the rule; a dropped try ends its stage."]
    return "\n".join(lines)


def try_order(network: Network) -> dict[str, int]:
    """The places where attention may stand, numbered from 1 in the order in which the rule comes to them."""
    paths = (stage.blocks[index].path for stage in reversed(network.stages) for index in stage.positions())
    return {path: number for number, path in enumerate(paths, start=1)}


def shape_text(shape: Shape) -> str:
    """Channels, height and width: `3x32x32`."""
    return "x".join(str(side) for side in shape)


def code(text: str) -> str:
    """Text that may stand between backticks in a cell of a Markdown table."""
    return clean(text).replace("`", "'").replace("|", "\\|")


def aligned(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Rows of cells as lines with straight columns; the columns in `right` end flush."""
    cells = [[_indented(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def _decision_rows(decisions: Sequence[Decision]) -> list[list[str]]:
    heading, with_level = interval_heading(decisions)
    units = {decision.unit for decision in decisions if decision.objective != "accuracy"}
    gains = f"gain ({units.pop()})" if units else "gain"
    header = ["step", "edit", "layout", gains, heading, "seeds", "params", "MACs", "verdict"]
    return [
        header,
        *(
            [
                str(decision.step),
                decision.edit,
                decision.layout,
                gain(decision),
                interval(decision, with_level=with_level),
                str(decision.seeds),
                _known(decision.params),
                _known(decision.macs),
                decision.verdict,
            ]
            for decision in decisions
        ),
    ]


def _indented(cell: str) -> str:
    return " " * (len(cell) - len(cell.lstrip(" "))) + clean(cell)


def _known(number: int | None) -> str:
    return "?" if number is None else count(number)
