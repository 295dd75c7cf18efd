"""What a final found, as the reports tell it."""

import json
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from buildup.graph.layout import layout
from buildup.graph.serialize import fingerprint
from buildup.report.card import model_card
from buildup.report.findings import Findings
from buildup.report.page import markdown, page
from buildup.report.text_table import final_table
from buildup.statistics.mixed_model import NormalMixture
from buildup.trials.final_result import Claim, Contender, Final, Part, final_from_values, final_to_values
from buildup.trials.outcome import Score


def final_of(findings: Findings, *, claimed: bool, hostile: str = "") -> Final:
    sentence = "Proven: a gain of +0.60 points" if claimed else "Not proven: +0.10 points"
    networks: tuple[tuple[Part, float], ...] = (("base", 80.0), ("winner", 80.6))
    return Final(
        contenders=tuple(
            Contender(
                part=part,
                layout=layout(findings.base) + hostile,
                fingerprint=fingerprint(findings.base),
                params=28_160_036,
                macs=1_369_000_000,
                scores={"10000": score - 0.1, "10001": score + 0.1},
                ci=(score - 1.27, score + 1.27),
                failures={"10002": f"diverged{hostile}"},
            )
            for part, score in networks
        ),
        claims=(Claim(against="base", gain=0.6, ci=(0.2, 1.0), level=0.95, claimed=claimed, sentence=sentence),),
        seeds=(10000, 10001, 10002),
        recipe=f"quick{hostile}",
        epochs=14,
        train_images=50_000,
        test_images=10_000,
        opened="2026-11-20T12:00:00+00:00",
    )


def test_a_final_is_read_as_it_was_written(published: Findings) -> None:
    final = final_of(published, claimed=True)
    assert final_from_values(json.loads(json.dumps(final_to_values(final)))) == final


@pytest.mark.parametrize("claimed", [True, False])
def test_page_markdown_and_card_say_what_was_found_in_place_of_what_was_hoped(
    published: Findings, claimed: bool
) -> None:
    final = final_of(published, claimed=claimed)
    findings = replace(published, final=final)
    card = model_card(findings, findings.winner, Score(accuracy=84.0, images=5000))
    for text in (page(findings), markdown(findings), card):
        for part in (final.verdict, "80.60", "opened once"):
            assert part in text.replace("\\", "")
        assert "Unproven" not in text
    assert ('class="claim proven"' in page(findings)) == claimed
    assert "buildup final" not in findings.commands[0][0]
    assert published.commands[0][0].startswith("buildup final")


def test_once_a_final_exists_it_stands_before_all_scores_of_the_search(published: Findings) -> None:
    final = final_of(published, claimed=True)
    findings = replace(published, final=final)
    card = model_card(findings, findings.winner, Score(accuracy=84.0, images=5000))
    for text, searched in ((page(findings), "84.02"), (markdown(findings), "84.02"), (card, "84.00")):
        plain = text.replace("\\", "").partition("# resnetv2_50" if text is card else "<body")[2] or text
        plain = plain.replace("\\", "")
        assert max(plain.index(final.verdict), plain.index("80.60")) < plain.index(searched)
        assert "unproven" not in plain.lower()


def test_the_table_names_failed_trainings(published: Findings) -> None:
    assert "79.90, 80.10, diverged" in final_table(final_of(published, claimed=True))


def test_an_objective_other_than_accuracy_is_named_with_its_unit(published: Findings) -> None:
    table = final_table(replace(final_of(published, claimed=True), objective="nll"))
    assert "test nll, centinats (less nll is better)" in table


def test_foreign_text_in_a_final_stays_text(with_text: Callable[[str], Findings]) -> None:
    hostile = "<script>alert(1)</script>"
    findings = replace(with_text(hostile), final=final_of(with_text(""), claimed=True, hostile=hostile))
    assert "<script" not in page(findings)
    outside_code = re.sub(r"`[^`\n]*`|^    .*$", "", markdown(findings), flags=re.MULTILINE)
    assert "<script" not in outside_code


def test_the_estimate_of_the_search_stands_behind_the_final(published: Findings) -> None:
    known = NormalMixture(np.ones(1), np.array([0.5]), np.array([0.25]))
    findings = replace(published, final=final_of(published, claimed=True), gain=known)
    assert findings.claim == (
        "Not the claim: the difference between winner and base is overestimated, because the same scores selected the "
        "steps. Estimated gain of the winner over the base, corrected for selection: +0.50 points (95 % interval "
        "+0.01 to +0.99). The final evaluation above measured both anew."
    )
