from dataclasses import replace

from buildup.report.findings import Findings
from buildup.report.markdown import markdown
from buildup.report.page import page
from buildup.trials.ranking import Ranking

RANKED = Ranking(cheap="epoch 4 of <14>", share=4 / 14, candidates=6, tau=0.6, low=-0.05, high=1.0, best=False)


def test_rankings_are_told_with_interval_and_count(published: Findings) -> None:
    findings = replace(published, rankings=(RANKED,))
    for part in ("+0.60", "-0.05 to +1.00", "29 %"):
        assert part in page(findings)
        assert part in markdown(findings)
    assert "epoch 4 of &lt;14&gt;" in page(findings)


def test_a_run_without_rankings_has_no_such_section(published: Findings) -> None:
    assert "How well cheap scores ranked" not in page(published)
    assert "How well cheap scores ranked" not in markdown(published)
