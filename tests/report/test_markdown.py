import re
from collections.abc import Callable

from buildup.report.findings import Findings
from buildup.report.page import markdown

HOSTILE = "<script>alert(1)</script>|[x](javascript:1)\n# big `code` **bold**"


def test_the_markdown_tells_what_the_page_tells(published: Findings) -> None:
    text = markdown(published)
    for part in ("4 of 8 tried blocks were kept", "82.48 %", "+1.54 points", "Unproven", "test set was not opened"):
        assert part in text
    for decision in published.decisions:
        assert decision.reason in text


def test_hostile_text_neither_becomes_markup_nor_html(with_text: Callable[[str], Findings]) -> None:
    text = markdown(with_text(HOSTILE))
    outside_code = re.sub(r"`[^`\n]*`|^    .*$", "", text, flags=re.MULTILINE)
    assert "<script" not in outside_code
    assert not re.search(r"(?<!\\)\[x", outside_code)
    assert re.findall(r"^#+ .*", text, re.MULTILINE)[1:] == [
        "## Steps",
        "## What it cost",
        "## Trainings",
        "## Next commands",
    ]


def test_an_empty_run_has_a_report(empty: Findings) -> None:
    assert "Nothing has been decided yet" in markdown(empty)
