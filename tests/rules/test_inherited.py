from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildup.graph.network import sketch
from buildup.rules.inherited import InheritingRule
from buildup.rules.procedure import Procedure, View
from buildup.rules.strategies import procedure_of
from buildup.search.evaluate import Ended, Event
from buildup.search.loop import Silence, run
from buildup.search.table import Memory, Row, TableEvaluator
from buildup.space.schema import SearchSpace, Tuning
from buildup.trials.candidate import Candidate
from buildup.trials.history import History
from buildup.trials.outcome import Failure, Reason, Score
from buildup.trials.training import Training

SPACE = SearchSpace(name="test", description="")
NETWORK = sketch("CCC|CCCC|CCCC")
SHARE = 0.25


def procedure(*, judge: str = "point", seeds: int = 1, space: SearchSpace = SPACE) -> Procedure:
    return procedure_of(NETWORK, space, judge=judge, seeds=seeds, inherits=True)


def rows(luck: str) -> "_Rows":
    return _Rows(luck=luck)


@dataclass(frozen=True)
class _Rows:
    """A score for each network, however it was come to; what inherits takes a share of the time."""

    luck: str

    def __call__(self, training: Training) -> Row:
        score = int.from_bytes(f"{self.luck}{training.candidate.layout}".encode()[-6:]) * 2654435761 % 1000 / 200
        return Row(score=70 + score, seconds=SHARE if training.candidate.giver else 1.0)


@dataclass
class Strict(TableEvaluator):
    """Refuses to start what begins with weights that are not there, and to train anything twice."""

    ended: set[str] = field(default_factory=set)

    def want(self, wanted: Sequence[Training]) -> None:
        for training in wanted:
            giver = training.candidate.giver
            assert training.id not in self.ended
            assert giver is None or Training(candidate=giver, seed=training.seed).id in self.ended
        super().want(wanted)

    def next_event(self, timeout: float | None = None) -> Event | None:
        event = super().next_event(timeout)
        if isinstance(event, Ended) and not (
            isinstance(event.record.outcome, Failure) and event.record.outcome.reason is Reason.UNNEEDED
        ):
            self.ended.add(event.training.id)
        return event


def searched(steps: Procedure, evaluator: TableEvaluator) -> tuple[View, History]:
    return run(steps, evaluator, Memory(), Silence(), History(), lambda _: None, lambda _: None)


def heirs(steps: Procedure) -> tuple[Candidate, Candidate]:
    """The first candidate, and the one that follows when it is kept."""
    first = steps.rule.first
    assert first is not None
    second = first.foreseen(True)
    assert second is not None
    return first.candidate, second.candidate


def test_a_candidate_begins_with_the_weights_of_what_it_replaces_and_is_compared_with_that_gone_on() -> None:
    steps = procedure()
    first, second = heirs(steps)
    assert first.giver is steps.base
    assert first.parent == steps.base.continued
    assert second.giver is first
    assert second.parent == first.continued
    assert first.parent.network == steps.base.network


def test_trainings_are_told_apart_by_all_that_went_before_them() -> None:
    kept, dropped = Candidate(network=sketch("CM")), Candidate(network=sketch("CC"))
    ways = [Candidate(network=NETWORK, giver=giver) for giver in (None, kept, dropped, kept.continued)]
    assert len({one.id for one in ways}) == 4
    assert len({one.fingerprint for one in ways}) == 1


def test_nothing_is_waited_for_that_has_no_weights_to_begin_with() -> None:
    steps = procedure(seeds=2, judge="likely")
    view = steps.view(History())
    assert {training.candidate.id for training in view.needed} == {steps.base.id}
    history = History()
    for seed in range(2):
        history = history.with_outcome(Training(candidate=steps.base, seed=seed).id, Score(accuracy=70.0))
    first, _ = heirs(steps)
    assert first.parent is not None
    needed = [(training.candidate.id, training.seed) for training in steps.view(history).needed]
    assert needed == [(one.id, seed) for one in (first, first.parent) for seed in range(2)]
    # A later look asks for seeds that the base has not been trained with yet, and for each of them once.
    assert [(one.candidate.id, one.seed) for one in steps.missing(history, first, 2)[2:4]] == [
        (steps.base.id, 2),
        (steps.base.id, 3),
    ]
    assert len(steps.missing(history, first, 2)) == 6


def test_a_kept_network_goes_on_once_for_all_that_are_compared_with_it() -> None:
    view, history = searched(procedure(), Strict(table=lambda _: Row(score=70.0)))
    assert not any(decision.kept for decision in view.decisions)
    assert len(view.decisions) == 3
    assert len(history.outcomes) == 1 + 1 + 3


def test_a_seed_whose_giver_failed_is_left_out() -> None:
    steps = procedure(seeds=2, judge="likely")
    failure = Failure(reason=Reason.DIVERGED, message="the loss became infinite")
    history = History().with_outcome(Training(candidate=steps.base, seed=0).id, failure)
    history = history.with_outcome(Training(candidate=steps.base, seed=1).id, Score(accuracy=70.0))
    assert {training.seed for training in steps.view(history).needed} == {1}
    assert all(training.candidate is not steps.base for training in steps.view(history).needed)
    failed = history.with_outcome(Training(candidate=steps.base, seed=1).id, failure)
    assert "no training of its parent" in steps.view(failed).decisions[0].reason


@settings(deadline=None, max_examples=6)
@given(
    luck=st.text("abcdefgh", min_size=1, max_size=4),
    seeds=st.integers(2, 3),
    judge=st.sampled_from(["likely", "proven", "point"]),
    noise=st.floats(0, 1),
    look_ahead=st.integers(0, 1),
    tune=st.sampled_from([None, Tuning(window=(2, 4))]),
)
def test_decisions_are_the_same_for_any_number_of_workers(
    luck: str, seeds: int, judge: str, noise: float, look_ahead: int, tune: Tuning | None
) -> None:
    space = replace(SPACE, look_ahead=look_ahead, tune=tune)
    decided, asked_for, spans = [], [], []
    for workers in (1, 2, 8):
        steps = procedure(judge=judge, seeds=seeds, space=space)
        evaluator = Strict(table=rows(luck), workers=workers, noise=noise, jitter=2.0)
        view, history = searched(steps, evaluator)
        decided.append(view.decisions)
        asked_for.append(steps.stood_on(view))
        spans.append(evaluator.clock)
        assert asked_for[-1] <= history.outcomes.keys()
        assert workers > 1 or asked_for[-1] == history.outcomes.keys()
    assert decided == [decided[0]] * 3
    assert asked_for == [asked_for[0]] * 3
    assert spans[2] < spans[0]


@pytest.mark.parametrize("luck", ["a", "b", "c"])
def test_every_prefix_of_a_history_leads_to_the_recorded_next_step(luck: str) -> None:
    view, history = searched(procedure(), Strict(table=rows(luck), workers=2))
    outcomes = list(history.outcomes.items())
    for number in range(len(outcomes) + 1):
        part = procedure().view(History(outcomes=dict(outcomes[:number])))
        assert part.decisions == view.decisions[: len(part.decisions)]
        resumed = procedure().view(History(outcomes=history.outcomes, decisions=part.decisions))
        assert resumed.decisions == view.decisions
        assert resumed.best.id == view.best.id


def test_the_winner_is_what_was_trained_on_the_way_to_it() -> None:
    view, _ = searched(procedure(), Strict(table=rows("keep")))
    assert view.best.id == next(one.candidate for one in reversed(view.decisions) if one.kept)


def test_a_step_without_a_verdict_is_asked_of_the_rule_itself() -> None:
    steps = procedure()
    assert isinstance(steps.rule, InheritingRule)
    plain = procedure_of(NETWORK, SPACE, judge="point", seeds=1)
    for kept in (True, False):
        assert steps.verdicts_left((), kept) == plain.verdicts_left((), kept)
    first = plain.rule.propose(())
    assert first is not None
    proposed = steps.rule.propose(())
    assert proposed is not None
    assert proposed.fingerprint == first.id
