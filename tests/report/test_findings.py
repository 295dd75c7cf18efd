from dataclasses import replace

import pytest

from buildup.graph.fingerprint import fingerprint
from buildup.report.findings import Findings
from buildup.trials.history import History
from buildup.trials.outcome import Failure, Reason


def test_winner_and_base_are_compared_seed_by_seed(published: Findings) -> None:
    assert published.paired_gains == pytest.approx((1.54, 1.54, 1.54))


def test_a_seed_that_only_one_has_does_not_count(published: Findings) -> None:
    missing = f"{fingerprint(published.base)}-s1"
    outcomes = {key: value for key, value in published.history.outcomes.items() if key != missing}
    findings = replace(published, history=replace(published.history, outcomes=outcomes))
    assert len(findings.paired_gains) == 2


def test_failed_and_unneeded_trainings_are_counted_apart(published: Findings) -> None:
    history = published.history.with_outcome("aa-s0", Failure(reason=Reason.DIVERGED, message="loss is nan"))
    for seed in range(2):
        history = history.with_outcome(f"bb-s{seed}", Failure(reason=Reason.UNNEEDED, message=""))
    tally = replace(published, history=history).tally
    assert tally == "27 finished, 1 failed, 2 ended early because a verdict fell without them"


@pytest.mark.parametrize(("name", "word"), [("published", "Unproven"), ("one_seed", "Unproven"), ("proven", "Proven")])
def test_only_the_judge_proven_claims(name: str, word: str, request: pytest.FixtureRequest) -> None:
    findings: Findings = request.getfixturevalue(name)
    assert findings.claim.startswith(word)
    assert "test set was not opened" in findings.images


def test_a_winner_that_is_the_base_claims_nothing(published: Findings, empty: Findings) -> None:
    drops = tuple(replace(decision, verdict="drop") for decision in published.decisions)
    nothing = replace(published, winner=published.base, history=replace(published.history, decisions=drops))
    assert nothing.headline == "None of 8 tried blocks was kept: the base stays as it is."
    assert nothing.claim.startswith("No claim")
    assert nothing.paired_gains == ()
    assert empty.headline == "Nothing has been decided yet."


def test_commands_quote_a_run_with_a_space(empty: Findings) -> None:
    assert empty.commands[0][0] == "buildup export 'a run' --to DIR"


def test_the_cost_of_the_winner_comes_from_its_decision(published: Findings) -> None:
    assert published.cost(published.winner) == (28_166_036, 1_429_000_000)
    assert replace(published, history=History()).cost(published.winner) is None
