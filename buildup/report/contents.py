"""What a report consists of: a new section is a file in `sections/` and an entry here."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from buildup.report.findings import Findings
from buildup.report.sections import answer, commands, evidence, final, head, settings, steps, trainings

Write = Callable[[Findings], Iterator[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A section, told twice. One that has nothing to say of a run yields nothing."""

    page: Write
    """As parts of the page, everything escaped."""
    text: Write | None = None
    """As lines of Markdown with an empty one at the end; None where the page alone has it."""


SECTIONS = (
    Section(page=head.page, text=head.text),
    Section(page=answer.page, text=answer.text),
    Section(page=final.page, text=final.text),
    Section(page=steps.page, text=steps.text),
    Section(page=evidence.page, text=evidence.text),
    Section(page=trainings.page, text=trainings.text),
    Section(page=commands.page, text=commands.text),
    Section(page=settings.page),
)
"""In their order, the answer before the evidence."""
