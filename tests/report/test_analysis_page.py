import re
from html.parser import HTMLParser

import pytest

from buildup.report.analysis_page import Section, analysis_page

SVG = (
    '<?xml version="1.0"?><!DOCTYPE svg><svg xmlns="http://www.w3.org/2000/svg" width="9pt">'
    '<defs><path id="m1"/></defs><use href="#m1"/><g clip-path="url(#p1)"/></svg>'
)
HOSTILE = "<script>alert(1)</script>"


class Balance(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def section(what: str, **numbers: object) -> Section:
    return Section(what=what, title=f"All about {what}", words="Higher is more.", numbers={"net": numbers}, figure=SVG)


def page(*sections: Section, title: str = "net", notes: tuple[str, ...] = ()) -> str:
    facts = {"weights": "net 0123", "images": "64 of digits"}
    return analysis_page(title, facts, sections, {"seed": 0, "sizes": {"images": 64}}, notes)


def test_each_measurement_has_its_words_its_figure_and_its_numbers() -> None:
    text = page(section("fourier", mean_step_msa=-0.25), section("hessian", nep=0.125, converged=True, ape=None))
    for part in (
        "All about fourier",
        "All about hessian",
        "Higher is more.",
        "mean step msa",
        "-0.25",
        "0.125",
        "yes",
        "–",
    ):
        assert part in text
    assert text.count("<svg ") == 2
    assert "<?xml" not in text
    assert "64 of digits" in text


def test_the_page_needs_nothing_else_and_runs_nothing() -> None:
    text = page(section("cka"))
    assert "script" not in text
    assert re.search(r"default-src 'none'; img-src data:", text)
    assert not re.findall(r'(?:src|href)="(?:https?:|//)', text)


def test_foreign_text_is_shown_and_not_run() -> None:
    hostile = Section(what="noise", title=HOSTILE, words=HOSTILE, numbers={HOSTILE: {HOSTILE: HOSTILE}}, figure=SVG)
    text = page(hostile, section("no-such-thing"), title=HOSTILE, notes=(HOSTILE,))
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 8


def test_parts_of_figures_have_names_of_their_own() -> None:
    balance = Balance()
    text = page(section("fourier"), section("variance"))
    balance.feed(text)
    assert balance.open == []
    assert len(balance.ids) == len(set(balance.ids))
    assert {"fourier-m1", "variance-m1"} <= set(balance.ids)
    assert 'href="#fourier-m1"' in text
    assert "url(#variance-p1)" in text


@pytest.mark.parametrize("why", ["it has no attention", f"it has {HOSTILE}"])
def test_what_was_left_out_says_why(why: str) -> None:
    text = page(Section(what="hessian", title="Curvature", words="", numbers={}, figure="", left_out=why))
    assert "Left out: it has" in text
    assert "<svg" not in text
    assert "<script" not in text
