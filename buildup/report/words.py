"""Numbers and untrusted text as readable strings, formatted alike for terminal, Markdown and HTML."""

import html
import re
from collections.abc import Iterable, Sequence
from math import isfinite

from buildup.errors import percent
from buildup.graph.kinds import known_kinds
from buildup.trials.decision import Decision
from buildup.trials.objective import Objective
from buildup.trials.outcome import Failure, Outcome


def clean(text: object) -> str:
    """Any text on one line, without control characters, text direction marks and characters that XML forbids.

    >>> clean("a\\x1b[31m\\n  b")
    'a�[31m b'
    """
    return "".join(letter if letter.isprintable() else "�" for letter in " ".join(str(text).split()))


def escape(text: object) -> str:
    """Any text, safe in elements and attributes of HTML and SVG."""
    return html.escape(clean(text), quote=True)


def escape_markdown(text: object) -> str:
    """Any text, escaped so that Markdown shows it literally, also in a table cell."""
    shown = clean(text).replace("&", "&amp;").replace("<", "&lt;")
    escaped = "".join(f"\\{letter}" if letter in "\\`*_[]|#~$!" else letter for letter in shown)
    return f"\\{escaped}" if escaped.startswith(">") else escaped  # a quotation


def short_number(number: float | None) -> str:
    """A large number with three digits; a question mark for an unknown one.

    >>> [short_number(number) for number in (33_013_028, 103_345, 999_960, 950, 0, None)]
    ['33.0M', '103k', '1.00M', '950', '0', '?']
    """
    return "?" if number is None else "".join(_scaled(number))


def macs(number: float) -> str:
    """Multiply-accumulates with three digits.

    >>> macs(1_510_000_000)
    '1.51 GMACs'
    """
    digits, unit = _scaled(number)
    return f"{digits} {unit}MACs"


def memory(number: float) -> str:
    """Bytes with three digits.

    >>> memory(270_000_000)
    '270 MB'
    """
    digits, unit = _scaled(number)
    return f"{digits} {unit}B"


def change_text(before: float, after: float) -> str:
    """A relative change.

    >>> change_text(28_160_000, 33_013_000), change_text(5, 5)
    ('+17.2 %', 'the same')
    """
    return "the same" if before == after else f"{100 * (after - before) / before:+.1f} %"


def points(value: float) -> str:
    """A signed difference in points; never a negative zero."""
    return f"{round(value, 2) + 0.0:+.2f}"


def duration(seconds: float) -> str:
    """A time span in its two largest units.

    >>> [duration(seconds) for seconds in (0.25, 40, 192, 7500, 767_000)]
    ['0.2 s', '40 s', '3 min 12 s', '2 h 05 min', '8 d 21 h']
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600:02} h"


def sparkline(values: Sequence[float]) -> str:
    """A curve in a few letters, from its lowest to its highest value; empty for fewer than two values.

    >>> sparkline([10, 50, 60, 62]), sparkline([1])
    ('▁▆██', '')
    """
    shown = [value for value in values if isfinite(value)][-SPARKS:]
    if len(shown) < 2:
        return ""
    low, span = min(shown), (max(shown) - min(shown)) or 1.0
    return "".join("▁▂▃▄▅▆▇█"[round(7 * (value - low) / span)] for value in shown)


SPARKS = 12
"""The last epochs that a sparkline shows."""


def edited_paths(edit: str) -> str:
    """The paths of the blocks that an edit changes.

    >>> edited_paths("c3.3: conv -> msa(heads=12, window=4), c3.1: conv -> msa(heads=12, window=4)")
    'c3.3, c3.1'
    """
    return ", ".join(re.findall(r"([^\s,]+): ", edit)) or edit


EDIT = re.compile(r"([^\s,]+): (?:one more |(?P<old>[\w-]+(?:\([^)]*\))?) -> )(?P<new>[\w-]+(?:\([^)]*\))?)")


def short_edit(edit: str) -> str:
    """An edit in a few letters for a terminal: places, and kinds by their letters; settings only where they change.

    >>> short_edit("c3.3: conv -> msa(heads=12, window=4), c3.1: conv -> msa(heads=12, window=4)")
    'c3.3, c3.1 C->M'
    >>> short_edit("c3: one more smoothing"), short_edit("c3.3: msa(heads=12, window=4) -> msa(heads=12, window=2)")
    ('c3 +S', 'c3.3 window 4->2')
    """
    places: dict[str, list[str]] = {}
    for found in EDIT.finditer(edit):
        places.setdefault(_change(found["old"] or "", found["new"]), []).append(found[1])
    listed = (
        f"{', '.join(paths) if len(paths) < 3 else f'{paths[0]} and {len(paths) - 1} more'} {change}"
        for change, paths in places.items()
    )
    return ", ".join(listed) or edit


def _change(old: str, new: str) -> str:
    letters = {kind.name: letter for letter, kind in known_kinds().items()}
    before, after = (text.partition("(")[0] for text in (old, new))
    if before != after:
        arrow = f"{letters.get(before, before)}->" if before else "+"
        return f"{arrow}{letters.get(after, after)}"
    had, has = (dict(re.findall(r"(\w+)=([^,)]+)", text)) for text in (old, new))
    names = [name for name in {**had, **has} if had.get(name) != has.get(name)]
    return ", ".join(f"{name} {had.get(name, 'usual')}->{has.get(name, 'usual')}" for name in names)


def has_failed(decision: Decision) -> bool:
    """Whether a training failed, so that the decision has no measured gain."""
    return len(decision.scores) < decision.seeds


def gain_text(decision: Decision) -> str:
    if not decision.seeds:
        return "untrained"
    return "failed" if has_failed(decision) else points(decision.gain)


def interval_text(decision: Decision, *, with_level: bool = False) -> str:
    """The interval of a decision; "none" if a training failed or the level is 0."""
    if has_failed(decision) or not decision.level:
        return "none"
    ends = " to ".join(points(end) for end in decision.ci)
    return f"{ends} ({percent(decision.level)})" if with_level else ends


def interval_heading(decisions: Iterable[Decision]) -> tuple[str, bool]:
    """The heading for a column of intervals, and whether each cell must state its own level."""
    levels = {decision.level for decision in decisions if decision.level}
    return (f"{percent(levels.pop())} CI", False) if len(levels) == 1 else ("CI", len(levels) > 1)


def axis_title(objective: Objective) -> str:
    """What an axis of scores shows.

    >>> from buildup.trials.objective import OBJECTIVES
    >>> axis_title(OBJECTIVES["accuracy"]), axis_title(OBJECTIVES["nll"])
    ('validation accuracy, %', 'negative log-likelihood, centinats; less is better')
    """
    return f"{objective.title}, {objective.scale}{'' if objective.sign > 0 else '; less is better'}"


def scores_text(scores: Sequence[float]) -> str:
    return ", ".join(f"{score:.2f}" for score in scores)


def outcome_text(outcome: Outcome) -> str:
    if not isinstance(outcome, Failure):
        return "finished"
    # The message of a crash is a traceback; its last line names the error.
    lines = outcome.message.strip().splitlines()
    reason = outcome.reason.value.replace("_", " ")
    return f"{reason}: {clean(lines[-1])}" if lines else reason


def _scaled(number: float) -> tuple[str, str]:
    value, units = float(number), ["", "k", "M", "G", "T"]
    while abs(value) >= 999.5 and len(units) > 1:
        value /= 1000
        units.pop(0)
    unit = units[0]
    digits = 0 if not unit or abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    return f"{value:.{digits}f}", unit
