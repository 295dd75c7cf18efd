"""What the numbers of a measurement say of the paper's claim, as a sentence.

The claims are those of "How Do Vision Transformers Work?". One or two trained networks neither prove nor refute them,
and no sentence says so: it says what these networks show, and whether that is what the paper describes.
"""

from collections.abc import Callable, Mapping, Sequence
from math import inf, isnan
from statistics import fmean, median

from buildup.diagnostics.analysis import steps_by_kind
from buildup.diagnostics.figures import Row, Rows, Table

BORDER = 0.99
"""Points of a landscape with a coordinate from here on are its border."""
LOW, HIGH = 0.35, 0.65
"""Noise below and above these shares of pi is of low and of high frequency."""


def as_the_paper(*holds: bool | None) -> str:
    """Whether what was found is what the paper describes. None stands for what could not be told.

    >>> as_the_paper(True, None), as_the_paper(True, False), as_the_paper(None)
    (' As in the paper.', ' In part as in the paper.', '')
    """
    told = [each for each in holds if each is not None]
    if not told:
        return ""
    return " As in the paper." if all(told) else " In part as in the paper." if any(told) else " Unlike the paper."


def steps_conclusion(tables: Sequence[Table], column: str, what: str) -> str:
    """The claim: attention lowers a value of the maps, and convolutions raise it."""
    return " ".join(_steps_of(table, column, what) for table in tables)


def _steps_of(table: Table, column: str, what: str) -> str:
    steps = steps_by_kind(list({row["unit"]: row for row in table.rows}.values()), column)
    parts: list[str] = []
    holds: list[bool | None] = []
    for kind, name, sign in (("msa", "attention", -1), ("conv", "convolutions", 1)):
        if own := steps.get(kind):
            as_claimed = sum(sign * step > 0 for step in own)
            verb = "lower" if sign < 0 else "raise"
            parts.append(f"{as_claimed} of {len(own)} units of {name} {verb} {what} (mean change {fmean(own):+.3g})")
            holds.append(sign * fmean(own) > 0)
    if not parts:
        return f"{table.label}: no two units of one stage follow each other."
    return f"{table.label}: {', '.join(parts)}.{as_the_paper(*holds)}"


def pair_conclusion(
    tables: Sequence[Table],
    words: str,
    numbers: Callable[[Rows], Row],
    *,
    less: Mapping[str, str],
    more: Mapping[str, str] | None = None,
) -> str:
    """A claim on networks with attention beside those without.

    Args:
        tables: Of the networks.
        words: What is said of each network, with places for its numbers.
        numbers: The numbers of a network's rows.
        less: What there is less of with attention, in words, by the name of its number.
        more: What there is more of.
    """
    found = {table.label: numbers(table.rows) for table in tables}
    said = " ".join(f"{label}: {words.format(**values).replace('%', ' %')}." for label, values in found.items())
    ours, plain = (next((t.label for t in tables if has_attention(t) is wanted), None) for wanted in (True, False))
    if ours is None or plain is None:
        return said
    signs = {**dict.fromkeys(less, -1), **dict.fromkeys(more or {}, 1)}
    changes = [signs[name] * (found[ours][name] - found[plain][name]) for name in signs]
    claims = " and ".join({**less, **(more or {})}.values())
    holds = as_the_paper(*(None if change == 0 or isnan(change) else change > 0 for change in changes))
    return f"{said} The paper describes {claims} with attention.{holds or ' There is no difference here.'}"


def has_attention(table: Table) -> bool:
    """Whether a network has attention."""
    return any(unit["kind"] == "msa" for unit in table.units)


def lesion_conclusion(tables: Sequence[Table]) -> str:
    """The claim: within a stage, the first convolutions matter most."""
    return " ".join(map(_lesions_of, tables))


def _lesions_of(table: Table) -> str:
    stages: dict[object, list[Row]] = {}
    for row in table.rows:
        if row["kind"] == "conv" and row["stage"] is not None:
            stages.setdefault(row["stage"], []).append(row)
    pairs = [rows for rows in stages.values() if rows[0]["unit"] != rows[-1]["unit"]]
    said = f"{table.label}:"
    if attention := [row["change"] for row in table.rows if row["kind"] == "msa"]:
        said += f" without one unit of attention, accuracy changes by {fmean(attention):+.1f} points on average."
    if not pairs:
        return f"{said} No stage has two convolutions to compare."
    first = [rows[0]["change"] < rows[-1]["change"] for rows in pairs]
    return (
        f"{said} In {sum(first)} of {len(pairs)} stages the first convolution that can be removed costs more than the "
        f"last.{as_the_paper(*first)}"
    )


def similarity_conclusion(tables: Sequence[Table]) -> str:
    """The claim: the units of a stage resemble each other more than those of other stages."""
    return " ".join(map(_similarity_of, tables))


def _similarity_of(table: Table) -> str:
    stage = {unit["unit"]: unit["stage"] for unit in table.units}
    inside: list[float] = []
    across: list[float] = []
    for row in table.rows:
        one, other = stage[row["unit"]], stage[row["other"]]
        if row["unit"] < row["other"] and one is not None and other is not None:
            (inside if one == other else across).append(row["cka"])
    if not inside or not across:
        return f"{table.label}: there are no two stages with two units to compare."
    means = fmean(inside), fmean(across)
    return (
        f"{table.label}: the mean similarity is {means[0]:.3f} within stages and {means[1]:.3f} between them."
        f"{as_the_paper(means[0] > means[1])}"
    )


def noise_losses(rows: Rows) -> Row:
    """The mean loss of accuracy to noise of low and of high frequency."""
    parts: Mapping[str, list[float]] = {
        "low": [row["drop"] for row in rows if row["high"] <= LOW],
        "high": [row["drop"] for row in rows if row["low"] >= HIGH],
    }
    return {name: fmean(values) if values else 0.0 for name, values in parts.items()}


def border_rise(rows: Rows) -> Row:
    """The median rise of the loss from the centre of a landscape to its border."""
    centre = min(rows, key=lambda row: row["x"] ** 2 + row["y"] ** 2)["nll"]
    edge = [row["nll"] for row in rows if max(abs(row["x"]), abs(row["y"])) >= BORDER]
    # None is a loss that is not finite.
    return {"rise": median(inf if nll is None or centre is None else nll - centre for nll in edge)}
