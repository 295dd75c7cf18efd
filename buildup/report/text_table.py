"""Tables of decisions, plans, networks and final evaluations as plain text for a terminal or as Markdown."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from buildup.graph.kinds import describe
from buildup.graph.layout import layout
from buildup.graph.network import Network, Shape
from buildup.graph.serialize import fingerprint
from buildup.report.words import (
    clean,
    escape_markdown,
    gain_text,
    interval_heading,
    interval_text,
    short_edit,
    short_number,
)
from buildup.statistics.base_checks import Climb
from buildup.trials.decision import Decision
from buildup.trials.final_result import Final
from buildup.trials.objective import ACCURACY, OBJECTIVES

STEM_TEXTS = {"base": "as timm makes it", "small": "small: 3x3, stride 1, no pooling"}
NO_DECISIONS = "No decisions yet."

ColumnKind = Literal["text", "heading", "number", "layout", "code", "verdict"]
"""What the cells of a column hold. Each output format decides how to show it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTable:
    """A table whose cells are strings, before it is rendered in an output format."""

    columns: Sequence[tuple[str, ColumnKind]]
    rows: Sequence[Sequence[str]]

    @classmethod
    def by_column(cls, *columns: tuple[str, ColumnKind, Iterable[str]]) -> "TextTable":
        rows = [list(row) for row in zip(*(cells for _, _, cells in columns), strict=True)]
        return cls(columns=[(name, kind) for name, kind, _ in columns], rows=rows)

    def text(self, *, width: int | None = None, less: Sequence[str] = ()) -> str:
        """The table for a terminal, numbers right-aligned.

        Where it is wider than `width`, the columns `less` are left out one by one until it fits.
        """
        numbers = {index for index, (_, kind) in enumerate(self.columns) if kind == "number"}
        lines = aligned([[name for name, _ in self.columns], *self.rows], right=numbers)
        if width is not None and less and max(map(len, lines)) > width:
            kept = [index for index, (name, _) in enumerate(self.columns) if name != less[0]]
            rows = [[row[index] for index in kept] for row in self.rows]
            fewer = TextTable(columns=[self.columns[index] for index in kept], rows=rows)
            return fewer.text(width=width, less=less[1:])
        return "\n".join(lines)

    def markdown(self) -> list[str]:
        names = [escape_markdown(name) for name, _ in self.columns]
        ruler = ["---:" if kind == "number" else "---" for _, kind in self.columns]
        rows = [
            [
                f"`{code(cell)}`" if kind in ("layout", "code") else escape_markdown(cell)
                for cell, (_, kind) in zip(row, self.columns, strict=True)
            ]
            for row in self.rows
        ]
        return [f"| {' | '.join(row)} |" for row in (names, ruler, *rows)]


def tabulate_decisions(decisions: Sequence[Decision], climb: Climb | None = None, *, short: bool = False) -> TextTable:
    """The decisions of a search, one per row. Those on less than a longer training gains are marked.

    With `short`, edits do not say the settings of their blocks.
    """
    heading, with_level = interval_heading(decisions)
    units = {decision.unit for decision in decisions if decision.objective != "accuracy"}
    marks = [climb.mark if climb and climb.marks(one) else "" for one in decisions]
    mark: list[tuple[str, ColumnKind, list[str]]] = [("mark", "text", marks)] if any(marks) else []
    return TextTable.by_column(
        ("step", "number", [str(one.step) for one in decisions]),
        ("edit", "code", [short_edit(one.edit) if short else one.edit for one in decisions]),
        ("layout", "layout", [one.layout for one in decisions]),
        (f"gain ({units.pop()})" if units else "gain", "number", [gain_text(one) for one in decisions]),
        (heading, "number", [interval_text(one, with_level=with_level) for one in decisions]),
        ("seeds", "number", [str(one.seeds) for one in decisions]),
        ("params", "number", [short_number(one.params) for one in decisions]),
        ("MACs", "number", [short_number(one.macs) for one in decisions]),
        ("verdict", "verdict", [one.verdict for one in decisions]),
        *mark,
    )


def decisions_table(decisions: Sequence[Decision], climb: Climb | None = None, *, width: int | None = None) -> str:
    """A short form is used if `width` is given."""
    table = tabulate_decisions(decisions, climb, short=width is not None)
    return table.text(width=width, less=("MACs", "params", "seeds", "layout")) if decisions else NO_DECISIONS


def decisions_markdown(decisions: Sequence[Decision], climb: Climb | None = None) -> str:
    return "\n".join(tabulate_decisions(decisions, climb).markdown()) if decisions else NO_DECISIONS


def graph_text(network: Network, tries: Sequence[str] | None = None) -> str:
    """A network stage by stage, one line per block. Without `tries`, those of the build-up rule are numbered."""
    order = try_order(network) if tries is None else {path: number for number, path in enumerate(tries, start=1)}
    facts = {
        "base": network.title,
        "layout": layout(network),
        "fingerprint": fingerprint(network),
        "input": f"{shape_text(network.input_shape)}, {network.num_classes} classes",
        "stem": STEM_TEXTS[network.stem],
    }
    lines = aligned([*facts.items()])
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
    block_lines = iter(aligned(rows))
    for stage in network.stages:
        height, width = stage.size
        lines += ["", f"{clean(stage.name)}: {height} x {width}, {stage.blocks[-1].out_shape[0]} channels"]
        lines += [next(block_lines) for _ in stage.blocks]
    own = {block.path for block in network.blocks}
    if added := [f"try {number}: one more block, {clean(path)}" for path, number in order.items() if path not in own]:
        lines += ["", *added]
    elif order:
        lines += ["", "try n: the n-th block that the rule tries to replace. A dropped try ends its stage."]
    return "\n".join(lines)


def growth(network: Network, tried: Network | None = None) -> list[tuple[str, str]]:
    """Each stage of a network with a letter a block; blocks that another network tries in its place in brackets.

    >>> from buildup.graph.network import sketch
    >>> growth(sketch("CC|CM"), sketch("CM|CM"))
    [('c1', 'C[M]'), ('c2', 'CM')]
    """
    own = {block.path: block.kind for block in network.blocks}
    return [
        (
            clean(stage.name),
            "".join(
                block.kind.letter if own.get(block.path) == block.kind else f"[{block.kind.letter}]"
                for block in stage.blocks
            ),
        )
        for stage in (tried or network).stages
    ]


def try_order(network: Network) -> dict[str, int]:
    """The blocks that attention may replace, numbered from 1 in the order in which the rule tries them."""
    paths = (stage.blocks[index].path for stage in reversed(network.stages) for index in stage.positions())
    return {path: number for number, path in enumerate(paths, start=1)}


def shape_text(shape: Shape) -> str:
    """Channels, height and width: `3x32x32`."""
    return "x".join(str(side) for side in shape)


def code(text: str) -> str:
    """Text that is safe between backticks, also in a cell of a Markdown table."""
    return clean(text).replace("`", "'").replace("|", "\\|")


def aligned(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Rows of cells as lines with aligned columns; the columns in `right` are right-aligned."""
    # Leading spaces are an indentation, which cleaning would remove.
    cells = [[" " * (len(cell) - len(cell.lstrip(" "))) + clean(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def tabulate_final(final: Final) -> TextTable:
    """One row per network, the base first."""
    objective = OBJECTIVES[final.objective]
    score = "test accuracy, %" if objective is ACCURACY else f"test {objective.name}, {objective.said}"
    networks = final.contenders
    by_seed = [[*(f"{value:.2f}" for value in one.scores.values()), *one.failures.values()] for one in networks]
    intervals = ["–" if one.ci is None else f"{one.ci[0]:.2f} to {one.ci[1]:.2f}" for one in networks]
    return TextTable.by_column(
        ("network", "text", [one.part for one in networks]),
        ("layout", "layout", [one.layout for one in networks]),
        ("params", "number", [short_number(one.params) for one in networks]),
        ("MACs", "number", [short_number(one.macs) for one in networks]),
        (score, "number", ["–" if one.mean is None else f"{one.mean:.2f}" for one in networks]),
        ("95 % CI of the mean", "number", intervals),
        ("by seed", "text", [", ".join(texts) for texts in by_seed]),
    )


def final_table(final: Final, *, width: int | None = None) -> str:
    return tabulate_final(final).text(width=width, less=("MACs", "params", "by seed"))


def final_protocol(final: Final) -> str:
    seeds = f"seeds {final.seeds[0]} to {final.seeds[-1]}" if len(final.seeds) > 1 else f"seed {final.seeds[0]}"
    count = f"{final.train_images:,}"
    images = f"all {count} training images" if final.fraction == "all" else f"{count} images, as in the search"
    return (
        f"Each network was retrained with {seeds}, which the search did not use. Training took {final.epochs} epochs "
        f"of recipe {final.recipe} on {images}. The scores are from "
        f"{final.test_images:,} test images, which were opened once, on {final.opened[:10]}."
    )
