import re
from dataclasses import replace

import numpy as np
import pytest

from buildup.graph.serialize import fingerprint
from buildup.report.card import model_card
from buildup.report.findings import Findings
from buildup.report.page import markdown, page
from buildup.statistics.mixed_model import NormalMixture
from buildup.trials.history import History
from buildup.trials.outcome import IMITATION, START, Failure, Outcome, Reason, Score


def test_winner_and_base_are_compared_seed_by_seed(published: Findings) -> None:
    assert published.paired_gains == pytest.approx((1.54, 1.54, 1.54))


def test_a_seed_that_only_one_has_does_not_count(published: Findings) -> None:
    missing = f"{fingerprint(published.base)}-s1"
    outcomes = {key: value for key, value in published.history.outcomes.items() if key != missing}
    findings = replace(published, history=replace(published.history, outcomes=outcomes))
    assert len(findings.paired_gains) == 2


@pytest.mark.parametrize("of", ["base", "winner"])
@pytest.mark.parametrize("more", [1, 9])
def test_shown_scores_of_base_and_winner_subtract_to_the_shown_gain(published: Findings, of: str, more: int) -> None:
    history = published.history
    network = published.base if of == "base" else published.winner
    for seed in range(3, 3 + more):  # seeds that only one of the two has, as after later looks
        history = history.with_outcome(f"{fingerprint(network)}-s{seed}", Score(accuracy=99.0, images=5000))
    findings = replace(published, history=history)
    values = [float(text) for text in re.findall(r'<div class="value">([-+\d.]+) <', page(findings))[:3]]
    base, winner, gain = values
    assert winner - base == pytest.approx(gain, abs=0.011)
    assert gain == pytest.approx(1.54)
    assert f"over all {3 + more} seeds" in page(findings)
    for text in (markdown(findings), model_card(findings, findings.winner, Score(accuracy=84.0, images=5000))):
        assert "82.48 %" in text.replace("\\", "")
        assert "84.02 %" in text.replace("\\", "")
        assert "99.00" not in text


def test_scores_stand_in_the_order_of_seeds_whichever_ended_first(published: Findings) -> None:
    backwards = dict(list(published.history.outcomes.items())[::-1])
    findings = replace(published, history=replace(published.history, outcomes=backwards))
    assert list(findings.scores(findings.base)) == list(published.scores(published.base)) == ["0", "1", "2"]


@pytest.fixture
def by_nll(published: Findings) -> Findings:
    """The search as if judged by a loss that falls by a hundredth where accuracy rises by a point."""

    def loss(accuracy: float) -> float:
        return 2.0 - accuracy / 100

    def told(outcome: Outcome) -> Outcome:
        return replace(outcome, metrics={"nll": loss(outcome.accuracy)}) if isinstance(outcome, Score) else outcome

    curves = {
        key: tuple(replace(epoch, metrics={"nll": loss(epoch.metrics["accuracy"])}) for epoch in curve)
        for key, curve in published.history.curves.items()
    }
    outcomes = {key: told(outcome) for key, outcome in published.history.outcomes.items()}
    decisions = tuple(replace(one, objective="nll", unit="centinats") for one in published.history.decisions)
    history = replace(published.history, outcomes=outcomes, curves=curves, decisions=decisions)
    return replace(published, history=history, settings={**published.settings, "objective": "nll"})


def test_of_a_loss_less_is_a_gain(by_nll: Findings) -> None:
    assert by_nll.paired_gains == pytest.approx((1.54, 1.54, 1.54))
    assert by_nll.scores(by_nll.base)["0"] == pytest.approx(117.52)


def test_no_report_of_a_loss_speaks_of_accuracy(by_nll: Findings, published: Findings) -> None:
    score = next(row.outcome for row in by_nll.trainings if isinstance(row.outcome, Score))
    whole, text = page(by_nll), markdown(by_nll)
    card = model_card(by_nll, by_nll.winner, score)
    assert ("objective", "nll") in by_nll.asked
    for said in (whole, text):
        assert "centinats" in said
        assert "accuracy" not in said
    assert "117.52 centinats" in text
    assert "less nll is better" in text
    assert "one line per training; less is better" in whole
    assert "| network | negative log-likelihood, every seed of both | mean |" in card
    assert "at a negative log-likelihood of 117.52 centinats" in card
    assert "validation accuracy" in markdown(published)


def test_failed_and_unneeded_trainings_are_counted_apart(published: Findings) -> None:
    history = published.history.with_outcome("aa-s0", Failure(reason=Reason.DIVERGED, message="loss is nan"))
    for seed in range(2):
        history = history.with_outcome(f"bb-s{seed}", Failure(reason=Reason.UNNEEDED, message=""))
    tally = replace(published, history=history).tally
    assert tally == "27 finished, 1 failed, 2 stopped because no verdict needed them any more"


@pytest.mark.parametrize(("name", "word"), [("published", "Unproven"), ("one_seed", "Unproven"), ("proven", "Proven")])
def test_only_the_judge_proven_claims(name: str, word: str, request: pytest.FixtureRequest) -> None:
    findings: Findings = request.getfixturevalue(name)
    assert findings.claim.startswith(word)
    assert "test set was not opened" in findings.images


def test_the_gain_is_said_without_what_selection_adds_to_it(published: Findings, proven: Findings) -> None:
    known = NormalMixture(np.ones(1), np.array([0.5]), np.array([0.25]))
    sentence = (
        "Estimated gain of the winner over the base, corrected for selection: +0.50 points "
        "(95 % interval +0.01 to +0.99)."
    )
    for findings in (published, proven):
        assert findings.estimated == ""
        assert sentence not in findings.claim
        assert sentence in replace(findings, gain=known).claim
        assert sentence in page(replace(findings, gain=known))


def test_a_winner_that_is_the_base_claims_nothing(published: Findings, empty: Findings) -> None:
    drops = tuple(replace(decision, verdict="drop") for decision in published.decisions)
    nothing = replace(published, winner=published.base, history=replace(published.history, decisions=drops))
    assert nothing.headline == "None of 8 tried blocks was kept: the base stays as it is."
    one = replace(nothing, history=replace(nothing.history, decisions=drops[:1]), ended=False)
    assert one.headline == "The one tried block was not kept so far: the search has not ended."
    assert nothing.claim.startswith("No claim")
    assert nothing.paired_gains == ()
    assert empty.headline == "Nothing has been decided yet."


def test_commands_quote_a_run_with_a_space(empty: Findings) -> None:
    assert empty.commands[0][0] == "buildup export 'a run' --to DIR"


def test_the_cost_of_the_winner_comes_from_its_decision(published: Findings) -> None:
    assert published.cost(published.winner) == (28_166_036, 1_429_000_000)
    assert replace(published, history=History()).cost(published.winner) is None


def test_what_was_known_before_training_is_said_where_networks_start_from_trained_weights(published: Findings) -> None:
    assert published.imitations == ""
    outcomes = {
        training: replace(outcome, metrics={START: 80.0 if training.startswith(fingerprint(published.base)) else 60.0})
        for training, outcome in published.history.outcomes.items()
        if isinstance(outcome, Score)
    }
    found = replace(published, history=replace(published.history, outcomes=outcomes))
    assert found.imitations.startswith("Before any training the base knew 80.0 % of the validation images.")
    assert "CCC|CCCC|CCCCCC|CCCM 60.0 % (75 %)" in found.imitations
    assert found.imitations in page(found)
    assert "CCC|CCCC|CCCCCC|CCCM 60.0 % (75 %)" in markdown(found).replace("\\|", "|")


def test_two_classes_have_a_share_of_what_was_known_too(published: Findings) -> None:
    network = replace(published.base, num_classes=2)
    base = fingerprint(published.base)
    outcomes = {
        training.replace(base, fingerprint(network)): replace(
            outcome, accuracy=99.0, metrics={START: 98.0 if training.startswith(base) else 90.0, IMITATION: 0.3}
        )
        for training, outcome in published.history.outcomes.items()
        if isinstance(outcome, Score)
    }
    found = replace(published, history=replace(published.history, outcomes=outcomes), base=network)
    assert "knew 98.0 %" in found.imitations
    assert "90.0 % (92 %)" in found.imitations


def test_with_a_new_classifier_the_errors_of_imitation_are_told(published: Findings) -> None:
    outcomes = {
        training: replace(
            outcome,
            metrics={START: 1.3} if training.startswith(fingerprint(published.base)) else {START: 1.1, IMITATION: 0.31},
        )
        for training, outcome in published.history.outcomes.items()
        if isinstance(outcome, Score)
    }
    found = replace(published, history=replace(published.history, outcomes=outcomes))
    assert "knew" not in found.imitations
    assert "(relative error, 0 for equal): CCC|CCCC|CCCCCC|CCCM 0.31, " in found.imitations
