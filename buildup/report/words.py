"""How numbers and foreign text are put before people, the same in a terminal, a note and a page."""

import html
import re
from collections.abc import Iterable, Sequence

from buildup.trials.decision import Decision
from buildup.trials.outcome import Failure, Outcome


def clean(text: object) -> str:
    """Any text on one line, without the characters that steer a terminal, turn text around or break XML.

    >>> clean("a\\x1b[31m\\n  b")
    'a�[31m b'
    """
    return "".join(letter if letter.isprintable() else "�" for letter in " ".join(str(text).split()))


def escape(text: object) -> str:
    """Any text, safe inside HTML and SVG, in elements and attributes alike."""
    return html.escape(clean(text), quote=True)


def plain(text: object) -> str:
    """Text that Markdown shows as it is: no markup, no HTML, no cell of a table."""
    shown = clean(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{letter}" if letter in "\\`*_[]|#~$!" else letter for letter in shown)


def count(number: float) -> str:
    """A large number with three digits.

    >>> [count(number) for number in (33_013_028, 103_345, 999_960, 950, 0)]
    ['33.0M', '103k', '1.00M', '950', '0']
    """
    digits, unit = _scaled(number)
    return digits + unit


def macs(number: float) -> str:
    """Multiply-accumulates with three digits.

    >>> macs(1_510_000_000)
    '1.51 GMACs'
    """
    digits, unit = _scaled(number)
    return f"{digits} {unit}MACs"


def change(before: float, after: float) -> str:
    """A difference as a share of what it was.

    >>> change(28_160_000, 33_013_000), change(5, 5)
    ('+17.2 %', 'the same')
    """
    return "the same" if before == after else f"{100 * (after - before) / before:+.1f} %"


def points(value: float) -> str:
    """A difference in accuracy with its sign; never a negative zero."""
    return f"{round(value, 2) + 0.0:+.2f}"


def duration(seconds: float) -> str:
    """A time span in its two largest units.

    >>> [duration(seconds) for seconds in (0.25, 40, 192, 7500)]
    ['0.2 s', '40 s', '3 min 12 s', '2 h 05 min']
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def places(edit: str) -> str:
    """Where an edit stands, without what it does.

    >>> places("c3.3: conv -> msa(heads=12, window=4), c3.1: conv -> msa(heads=12, window=4)")
    'c3.3, c3.1'
    """
    return ", ".join(re.findall(r"([^\s,]+): ", edit)) or edit


def has_failed(decision: Decision) -> bool:
    """Whether a training failed, so that the gain of the decision is not a measured one."""
    return len(decision.scores) < decision.seeds


def gain(decision: Decision) -> str:
    """The gain of a decision in points."""
    if not decision.seeds:
        return "untrained"
    return "failed" if has_failed(decision) else points(decision.gain)


def interval(decision: Decision, *, with_level: bool = False) -> str:
    """The interval of a decision; a level of 0 means that it has none."""
    if has_failed(decision) or not decision.level:
        return "none"
    ends = " to ".join(points(end) for end in decision.ci)
    return f"{ends} ({percent(decision.level)})" if with_level else ends


def interval_heading(decisions: Iterable[Decision]) -> tuple[str, bool]:
    """What stands over a column of intervals, and whether its cells must name their levels themselves."""
    levels = {decision.level for decision in decisions if decision.level}
    return (f"{percent(levels.pop())} CI", False) if len(levels) == 1 else ("CI", len(levels) > 1)


def percent(share: float) -> str:
    """A share in percent."""
    return f"{100 * share:.4g} %"


def accuracies(scores: Sequence[float]) -> str:
    """Scores one by one, in the order of their seeds."""
    return ", ".join(f"{score:.2f}" for score in scores)


def ending(outcome: Outcome) -> str:
    """How a training ended, in a few words."""
    if not isinstance(outcome, Failure):
        return "finished"
    # A broken training keeps its traceback, whose last line is what went wrong.
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
