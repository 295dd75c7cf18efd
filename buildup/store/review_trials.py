"""The trials of a run as people review them: one for each network, and those of trainings without what misleads."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from buildup.store.notes import interval
from buildup.store.study_reader import EPOCHS
from buildup.trials.decision import CandidateSummary, Decision
from buildup.trials.outcome import Reason

SHOWN = ("edit", "layout", "macs", "outcome", "params", "seed", "throughput", "training", "reused_from")
"""The attributes of a training that are shown. The others are for the program, and make a large study slow."""

ATTENTION = "attention blocks"
"""The one parameter of networks where the others would mislead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewedNetwork:
    """A candidate with its trials, the first of which gives it its id, its diagram and its note."""

    summary: CandidateSummary
    trials: tuple[FrozenTrial, ...]


def networks_of(
    trials: Sequence[FrozenTrial], decisions: Sequence[Decision], epochs: int | None
) -> list[ReviewedNetwork]:
    """The networks of trials: the base, those with a verdict in the order of the verdicts, then the others."""
    own: dict[str, list[FrozenTrial]] = {}
    for trial in trials:
        known = trial.user_attrs
        if known.get(EPOCHS) == epochs and "-" not in known["candidate"]:  # the base is also trained for checks
            own.setdefault(known["candidate"], []).append(trial)
    verdicts = {one.candidate: one for one in decisions}
    found = [ReviewedNetwork(summary=_summary(rows, verdicts), trials=tuple(rows)) for rows in own.values()]
    return sorted(found, key=lambda one: _place(one.summary))


def network_trial(
    number: int, network: ReviewedNetwork, tags: Sequence[str], *, params: bool, limits: Mapping[str, int]
) -> FrozenTrial:
    one, first = network.summary, network.trials[0]
    state = _state(network)
    own, ranges = _parameters(first, params)
    values: dict[str, Any] = {
        "layout": one.layout,
        **_verdict(one.decision),
        "edit": one.edit or "the base",
        "seeds": len(one.accuracies),
        "accuracies": ", ".join(f"{value:.2f}" for value in one.accuracies.values()),
        **{name: first.user_attrs[name] for name in ("params", "macs") if name in first.user_attrs},
        **_settings(first, params),
        **({"tags": ", ".join(tags)} if tags else {}),
    }
    # The limits are those of candidates; the base is what it is.
    excess = [first.user_attrs.get(name, 0) - limit for name, limit in limits.items() if one.parent is not None]
    trial = optuna.trial.create_trial(
        state=state,
        value=round(one.mean, 4) if one.mean is not None and state is TrialState.COMPLETE else None,
        params=own,
        distributions=ranges,
        user_attrs=values,
        # The dashboard reads constraints from this attribute; what is above zero is drawn grey.
        system_attrs={**first.system_attrs, "constraints": [float(not one.kept), *map(float, excess)]},
        intermediate_values=_mean_curve(network.trials),
    )
    trial.number, trial._trial_id = number, first._trial_id
    trial.datetime_start = min((one.datetime_start for one in network.trials if one.datetime_start), default=None)
    ends = [one.datetime_complete for one in network.trials if one.datetime_complete]
    trial.datetime_complete = max(ends, default=None) if state.is_finished() else None
    return trial


def training_trial(trial: FrozenTrial, *, params: bool) -> FrozenTrial:
    """The trial of a training as it is shown. One that was not needed is no failure: it is shown as pruned."""
    shown = copy.copy(trial)
    known = trial.user_attrs
    if trial.state is TrialState.FAIL and known.get("outcome") == Reason.UNNEEDED:
        shown.state = TrialState.PRUNED
    failure = {"message": known["message"]} if "message" in known else {}
    shown.user_attrs = {
        **{name: known[name] for name in SHOWN if known.get(name) is not None},
        **failure,
        **_settings(trial, params),
    }
    shown.params, shown.distributions = _parameters(trial, params)
    return shown


def best_of(trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """The best of the finished trials, if possible of those that break no constraint; of equal ones the last."""
    return max(reversed(_fit(trials)), key=lambda one: one.value or 0.0, default=None)


def last_kept(trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """The network that the search ended with. None before the first score."""
    return next(reversed(_fit(trials)), None)


def _fit(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The finished trials that break no constraint, or all, since the dashboard wants a best of any that are finished.

    A candidate that was trained ahead may have a score before its base has one.
    """
    finished = [one for one in trials if one.state is TrialState.COMPLETE]
    return [one for one in finished if all(value <= 0 for value in one.system_attrs.get("constraints", ()))] or finished


def _summary(trials: Sequence[FrozenTrial], verdicts: Mapping[str, Decision]) -> CandidateSummary:
    known = trials[0].user_attrs
    scored = [one for one in trials if one.state is TrialState.COMPLETE and one.value is not None]
    return CandidateSummary(
        id=known["candidate"],
        layout=known["layout"],
        edit=known["edit"],
        parent=known["parent"],
        accuracies={one.user_attrs["seed"]: float(one.value or 0.0) for one in scored},
        macs=known.get("macs"),
        decision=verdicts.get(known["candidate"]),
    )


def _place(one: CandidateSummary) -> float:
    return 0 if one.parent is None else one.decision.step if one.decision else math.inf


def _state(network: ReviewedNetwork) -> TrialState:
    one, states = network.summary, {trial.state for trial in network.trials}
    is_decided = one.decision is not None or one.parent is None
    if TrialState.RUNNING in states and not (is_decided and one.accuracies):
        return TrialState.RUNNING
    if one.accuracies:
        return TrialState.COMPLETE
    unneeded = all(trial.user_attrs.get("outcome") == Reason.UNNEEDED for trial in network.trials)
    return TrialState.PRUNED if unneeded else TrialState.FAIL


def _verdict(decision: Decision | None) -> dict[str, Any]:
    if decision is None:
        return {}
    return {
        "step": decision.step,
        "verdict": decision.verdict,
        "gain": round(decision.gain, 3),
        "interval": interval(decision),
        "reason": decision.reason,
    }


def _parameters(trial: FrozenTrial, params: bool) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
    """The parameters of a trial, or one alone: its number of attention blocks. The dashboard needs at least one."""
    if params:
        return trial.params, trial.distributions
    names = [name for name in trial.params if name.endswith(".msa")]
    highest = sum(getattr(trial.distributions[name], "high", 0) for name in names)
    count = sum(trial.params[name] for name in names)
    return {ATTENTION: count}, {ATTENTION: IntDistribution(0, max(highest, count))}


def _settings(trial: FrozenTrial, params: bool) -> dict[str, Any]:
    """The parameters of a trial as attributes where they are not shown as parameters: those that are not zero."""
    return {} if params else {name: value for name, value in trial.params.items() if value}


def _mean_curve(trials: Sequence[FrozenTrial]) -> dict[int, float]:
    """The mean accuracy after each epoch, as far as all trainings with a score have come."""
    curves = [one.intermediate_values for one in trials if one.state is TrialState.COMPLETE]
    curves = curves or [one.intermediate_values for one in trials if one.intermediate_values]
    shared = set.intersection(*map(set, curves)) if curves else set()
    return {epoch: fmean(curve[epoch] for curve in curves) for epoch in sorted(shared)}
