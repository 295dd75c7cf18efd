"""Early drops on virtual workers whose trainings take their time, and what the study says of them."""

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from buildup.graph.edit import apply, replacement
from buildup.graph.kinds import LocalAttention
from buildup.graph.network import sketch
from buildup.rules.curves import Learning, trained
from buildup.rules.early import EarlyDrop
from buildup.rules.judge import JUDGES
from buildup.rules.listed import at_random
from buildup.rules.procedure import Procedure, View
from buildup.rules.step import imagine
from buildup.search.evaluate import Ended, EpochDone, Event
from buildup.search.journal import Journal
from buildup.search.loop import Silence, run
from buildup.search.study import read_history
from buildup.search.table import Memory
from buildup.space.schema import SearchSpace
from buildup.trials.candidate import Candidate
from buildup.trials.history import History
from buildup.trials.outcome import Epoch, Failure, Reason, Record
from buildup.trials.training import Training

NETWORK = sketch("CC|CC|CC|CC")
EDIT = replacement(NETWORK, "c4.1", LocalAttention(heads=24, window=4))
CHILD = Candidate(network=apply(NETWORK, EDIT), parent=Candidate(network=NETWORK), edits=(EDIT,))
EARLY = replace(imagine(CHILD, kept=False), step=1, epoch=2, reason="dropped early at epoch 2 of 8: hopeless")
UNNEEDED = Failure(reason=Reason.UNNEEDED, message="a verdict fell without it")

EARLY_DROP = EarlyDrop(risk=0.05, epochs=8)
LONG = Candidate(network=sketch(f"CCC|CCCC|{23 * 'C'}|CCC"))


def searching(early: EarlyDrop | None = EARLY_DROP) -> Procedure:
    rule = at_random(LONG, SearchSpace(name="layouts", description=""), 1)
    return Procedure(rule=rule, judge=JUDGES["likely"], seeds=2, early=early)


@dataclass(kw_only=True)
class CurveEvaluator:
    """Virtual workers that tell drawn curves epoch by epoch; an epoch takes as long as its training's speed says."""

    workers: int
    luck: str
    epochs: int = 8
    told: int = 0
    clock: float = 0.0
    _running: dict[str, tuple[Training, list[Epoch]]] = field(default_factory=dict)
    _due: list[tuple[float, str]] = field(default_factory=list)
    _stopped: list[Training] = field(default_factory=list)
    _left: dict[str, list[Epoch]] = field(default_factory=dict)

    def want(self, wanted: Sequence[Training]) -> None:
        keep = {training.id for training in wanted}
        for key in [key for key in self._running if key not in keep]:
            training, rest = self._running.pop(key)
            self._left[key] = rest
            self._stopped.append(training)
        for training in wanted:
            if len(self._running) < self.workers and training.id not in self._running:
                rest = self._left.get(training.id) or list(self.curve(training))
                self._running[training.id] = (training, rest)
                heapq.heappush(self._due, (self.clock + self.pace(training), training.id))

    def next_event(self, timeout: float | None = None) -> Event | None:
        if self._stopped:
            failure = Failure(reason=Reason.UNNEEDED, message="a verdict fell without it")
            return Ended(training=self._stopped.pop(), record=Record(outcome=failure, curve=()))
        while self._due:
            self.clock, key = heapq.heappop(self._due)
            if key in self._running:
                training, rest = self._running[key]
                if rest:
                    self.told += 1
                    heapq.heappush(self._due, (self.clock + self.pace(training), key))
                    return EpochDone(training=training, epoch=rest.pop(0))
                del self._running[key]
                outcome = self.ended(training).outcomes[key]
                return Ended(training=training, record=Record(outcome=outcome, curve=()))
        return None

    def close(self) -> None:
        """Nothing is held."""

    def ended(self, training: Training) -> History:
        return trained(History(), [training], Learning(), self.epochs, self.luck)

    def curve(self, training: Training) -> tuple[Epoch, ...]:
        return self.ended(training).curves[training.id]

    def pace(self, training: Training) -> float:
        return random.Random(f"{self.luck}/{training.id}").uniform(0.5, 2.0)


def followed(workers: int, luck: str, early: EarlyDrop | None = EARLY_DROP) -> tuple[View, History, CurveEvaluator]:
    evaluator = CurveEvaluator(workers=workers, luck=luck)
    none = (lambda history: None, lambda history: None)
    view, history = run(searching(early=early), evaluator, Memory(), Silence(), History(), *none)
    return view, history, evaluator


@pytest.mark.parametrize("luck", ["b", "d", "f"])
def test_decisions_are_the_same_for_any_number_of_workers(luck: str) -> None:
    one, *others = (followed(workers, luck)[0].decisions for workers in (1, 2, 8))
    assert all(other == one for other in others)


def test_trainings_of_what_is_dropped_early_end_early() -> None:
    with_curves, without = followed(2, "f"), followed(2, "f", early=None)
    dropped = [decision for decision in with_curves[0].decisions if decision.epoch]
    assert dropped
    assert all(
        one.verdict == "drop" and one.reason.startswith(f"dropped early at epoch {one.epoch} of 8") for one in dropped
    )
    assert with_curves[2].told < without[2].told


def test_every_prefix_of_a_history_proposes_the_recorded_next_step() -> None:
    view, history, _ = followed(2, "f")
    for number, decision in enumerate(view.decisions):
        again = searching().view(replace(history, decisions=view.decisions[:number]))
        assert again.decisions[number] == decision


@pytest.mark.slow
def test_a_search_that_is_killed_again_and_again_drops_early_what_an_undisturbed_one_does(tmp_path: Path) -> None:
    undisturbed = followed(2, "f")[0].decisions
    chance = random.Random(0)
    journal = Journal.create(folder=tmp_path, storage_url=None, study_name="early", base=LONG.network)
    view = None
    while view is None or not view.finished:
        events = chance.randint(5, 60)
        evaluator = CurveEvaluator(workers=2, luck="f")

        def limit(history: History, evaluator: CurveEvaluator = evaluator, events: int = events) -> str | None:
            return "killed" if evaluator.told >= events else None

        view, _ = run(searching(), evaluator, journal, Silence(), journal.history, lambda _: None, limit)
        journal.close()
        journal = Journal.open(folder=tmp_path, storage_url=None, study_name="early", base=LONG.network)
    journal.finish(journal.history)
    journal.close()
    assert view.decisions == undisturbed
    dropped = {decision.candidate for decision in undisturbed if decision.epoch}
    study = optuna.load_study(study_name="early", storage=f"sqlite:///{tmp_path}/study.db")
    pruned = {trial.user_attrs["candidate"] for trial in study.trials if trial.state is TrialState.PRUNED}
    assert pruned
    assert pruned <= dropped


def test_a_training_dropped_early_is_pruned_and_one_no_longer_needed_is_not(tmp_path: Path) -> None:
    journal = Journal.create(folder=tmp_path, storage_url=None, study_name="early", base=NETWORK)
    dropped, unneeded = Training(candidate=CHILD, seed=0), Training(candidate=CHILD, seed=1)
    history = journal.record(journal.history, EpochDone(training=unneeded, epoch=Epoch(number=1, metrics={})))
    history = journal.record(history, Ended(training=unneeded, record=Record(outcome=UNNEEDED, curve=())))
    for number in (1, 2):
        epoch = Epoch(number=number, metrics={"accuracy": 10.0 * number})
        history = journal.record(history, EpochDone(training=dropped, epoch=epoch))
    history = journal.decide(history, EARLY)
    history = journal.record(history, Ended(training=dropped, record=Record(outcome=UNNEEDED, curve=())))
    journal.close()

    study = optuna.load_study(study_name="early", storage=f"sqlite:///{tmp_path}/study.db")
    by_seed = {trial.user_attrs["seed"]: trial for trial in study.trials}
    assert (by_seed[0].state, by_seed[1].state) == (TrialState.PRUNED, TrialState.FAIL)
    assert by_seed[0].user_attrs["outcome"] == "dropped early"
    assert by_seed[0].user_attrs["message"] == EARLY.reason
    assert by_seed[0].value == 20.0

    read = read_history(tmp_path, None, "early")
    assert read.outcomes == history.outcomes == {}
    assert read.decisions == (EARLY,)
    assert len(read.curves[dropped.id]) == 2
