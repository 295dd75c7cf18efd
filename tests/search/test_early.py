"""What the study says of trainings that a verdict on their curves ended."""

from dataclasses import replace
from pathlib import Path

import optuna
from optuna.trial import TrialState

from buildup.graph.edit import apply, replacement
from buildup.graph.kinds import LocalAttention
from buildup.graph.network import sketch
from buildup.rules.base import imagine
from buildup.search.evaluate import Ended, EpochDone
from buildup.search.journal import Journal
from buildup.search.study import read_history
from buildup.trials.candidate import Candidate
from buildup.trials.outcome import Epoch, Failure, Reason, Record
from buildup.trials.training import Training

NETWORK = sketch("CC|CC|CC|CC")
EDIT = replacement(NETWORK, "c4.1", LocalAttention(heads=24, window=4))
CHILD = Candidate(network=apply(NETWORK, EDIT), parent=Candidate(network=NETWORK), edits=(EDIT,))
EARLY = replace(imagine(CHILD, kept=False), step=1, epoch=2, reason="dropped early at epoch 2 of 8: hopeless")
UNNEEDED = Failure(reason=Reason.UNNEEDED, message="a verdict fell without it")


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
