"""What the paper claims of a measurement, and whether the numbers of an analysis agree: a sentence below its figure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Literal

from buildup.diagnostics.figures import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperClaim:
    """The sign of a number in the summaries of a measurement."""

    column: str
    words: str
    """What the number is; with `of_each`, what attention, convolutions or units do if it is as claimed."""
    sign: Literal[-1, 1]
    of_each: str = ""
    """The claim is the sign of the number of each model, and this is what they do if it is the other one. Without it,
    the claim compares a model with more attention with one with less."""


def claims_sentence(claims: Sequence[PaperClaim], attention: Mapping[str, float], summaries: Mapping[str, Row]) -> str:
    """What was found, and whether it agrees with the paper; empty if the paper claims nothing.

    Args:
        claims: Those of the measurement.
        attention: The share of attention among the units of each model, in the order in which they are compared.
        summaries: The summary of each model.
    """
    if not claims:
        return ""
    more, less = _pair(attention)
    parts: list[str] = []
    for claim in claims:
        if claim.of_each:
            parts += _signs(claim, {label: summaries[label].get(claim.column) for label in attention})
        elif more and less:
            parts += _comparison(claim, *((label, summaries[label].get(claim.column)) for label in (more, less)))
    if parts:
        text = "; ".join(parts)
        return f"{text[0].upper()}{text[1:]}."
    what = "several units of one stage" if claims[0].of_each else "a model with more attention and one with less"
    return f"The paper's claim is about {what}, so these numbers can't test it."


def _pair(attention: Mapping[str, float]) -> tuple[str, str]:
    """The first model and the first one with another share of attention, the larger share first."""
    first = next(iter(attention))
    other = next((label for label, share in attention.items() if share != attention[first]), "")
    return (first, other) if other and attention[first] > attention[other] else (other, first)


def _comparison(claim: PaperClaim, more: tuple[str, float | None], less: tuple[str, float | None]) -> Iterator[str]:
    (attentive, value), (plain, other) = more, less
    if value is None or other is None or isnan(value) or isnan(other):
        return
    found = "lower" if value < other else "higher" if value > other else "the same"
    claimed = "lower" if claim.sign < 0 else "higher"
    agrees = "as in the paper" if found == claimed else f"and in the paper {claimed}"
    than = "and" if value == other else "than"
    yield f"{claim.words} is {found} in {attentive} {than} in {plain} ({value:.3g} against {other:.3g}), {agrees}"


def _signs(claim: PaperClaim, values: Mapping[str, float | None]) -> Iterator[str]:
    """One part for all models that agree, and one for those that do not."""
    known = {label: value for label, value in values.items() if value and not isnan(value)}
    for sign, words, agrees in (
        (claim.sign, claim.words, "as in the paper"),
        (-claim.sign, claim.of_each, "unlike in the paper"),
    ):
        group = {label: value for label, value in known.items() if value * sign > 0}
        if group:
            shown = ", ".join(f"{value:+.3g} in {label}" for label, value in group.items())
            yield f"{words} ({shown}), {agrees}"
