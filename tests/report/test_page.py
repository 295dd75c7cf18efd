import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from buildup.graph.network import sketch
from buildup.report.findings import Findings
from buildup.report.page import PAPER, page
from buildup.trials.outcome import Failure, Reason

VOID = {"meta", "br", "wbr"}
HOSTILE = "</td><script>alert('1')</script>\"><img src=x onerror=alert(1)>&amp;\x00\ud800"


class Reader(HTMLParser):
    """Follows the tags of a page and fails where one is closed that is not open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.mark.parametrize("name", ["published", "one_seed", "proven", "empty"])
def test_every_tag_is_closed(name: str, request: pytest.FixtureRequest) -> None:
    assert Reader(page(request.getfixturevalue(name))).open == []


def test_replaced_blocks_are_bold_in_a_layout(published: Findings) -> None:
    winner = sketch("CCC|CCCC|CCCCMM|CGCM")
    found = re.search(r"<dt>winner</dt><dd>(.*?)</dd>", page(replace(published, winner=winner)))
    assert found
    assert found[1].split("<wbr><i>|</i>") == ["CCC", "CCCC", "CCCC<b>MM</b>", "C<b>G</b>C<b>M</b>"]


@pytest.mark.parametrize("name", ["published", "one_seed", "proven", "empty"])
def test_every_picture_is_well_formed(name: str, request: pytest.FixtureRequest) -> None:
    pictures = re.findall(r"<svg.*?</svg>", page(request.getfixturevalue(name)), re.DOTALL)
    assert pictures
    for picture in pictures:
        ElementTree.fromstring(picture)


def test_hostile_text_stays_text(with_text: Callable[[str], Findings]) -> None:
    findings = with_text(HOSTILE)
    broken = Failure(reason=Reason.BROKEN, message=f"Traceback\n{HOSTILE}")
    findings = replace(findings, history=findings.history.with_outcome(f"{HOSTILE}-s0", broken))
    text = page(findings)
    tame = Reader(page(with_text("")))
    reader = Reader(text)
    assert reader.open == []
    assert set(reader.tags) - set(tame.tags) <= {"section", "strong"}
    assert not [name for name in reader.attributes if name.startswith("on")]
    assert reader.text.count("<script>") > 20
    text.encode()  # a lone surrogate would stop the file from being written


def test_the_page_needs_nothing_but_itself(published: Findings) -> None:
    text = page(published)
    assert set(re.findall(r"https?:[^\"' ]*", text)) == {"http://www.w3.org/2000/svg", PAPER}
    links = set(re.findall(r'href="([^"]*)"', text))
    assert links - {PAPER} == {link for link in links if f'id="{link.removeprefix("#")}"' in text}
    assert not {"script", "link", "img", "iframe"} & set(Reader(text).tags)
    assert not re.search(r"\bsrc=|@import|url\((?!#)", text)


def test_the_answer_comes_before_the_evidence(published: Findings) -> None:
    text = Reader(page(published)).text
    order = [
        "4 of 8 tried blocks were kept",
        "Unproven",
        "Gain of each step",
        "Trainings",
        "buildup export",
    ]
    assert [text.index(part) for part in order] == sorted(text.index(part) for part in order)


def test_scores_costs_and_reasons_are_all_told(published: Findings) -> None:
    text = Reader(page(published)).text
    for part in ("82.48 %", "84.02 %", "+1.54 points", "84.02, 84.22, 83.82", "28.2M", "1.43 GMACs"):
        assert part in text
    for decision in published.decisions:
        assert decision.reason in text
        assert decision.layout in text
    for training in published.history.outcomes:
        assert training in text
    assert "versions.timm" in text


def test_warnings_stand_first(with_text: Callable[[str], Findings]) -> None:
    text = Reader(page(replace(with_text(""), warnings=("the base is weak",)))).text
    assert text.index("the base is weak") < text.index("Result")


def test_a_run_without_epochs_says_so(one_seed: Findings) -> None:
    assert "No training reported an epoch." in page(one_seed)


def test_the_page_of_a_run_is_always_the_same(published: Findings) -> None:
    assert page(published) == page(published)


def test_the_page_follows_the_readers_colour_scheme(published: Findings) -> None:
    assert "prefers-color-scheme:dark" in page(published)
