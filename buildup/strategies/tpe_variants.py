"""Optuna's TPE at an accepted place: which variant to try next, where there are more than may be tried.

As in `sampled.py`, a study in memory is filled with what was told and asked once, with a seed of its own.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState

from buildup.graph.kinds import BlockKind
from buildup.strategies.variants import TriedVariant

STARTUP = 3
"""What is drawn at random, the block as it was kept included, before anything is modelled."""
ASKED_AGAIN = 20
"""How often a sampler that repeats itself, or names what does not exist, is asked again."""


def by_tpe(untried: Sequence[BlockKind], told: Sequence[TriedVariant], rng: str) -> BlockKind:
    """The variant that TPE would try next, given the gains so far."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    kinds = [*(one.kind for one in told), *untried]
    distributions = _distributions(kinds)
    past = [_trial(one, distributions) for one in told]
    named = {_name(_params(kind, distributions)): kind for kind in untried}
    for attempt in range(ASKED_AGAIN):
        seed = int.from_bytes(hashlib.sha256(f"{rng}/{attempt}".encode()).digest()[:4])
        sampler = TPESampler(
            seed=seed,
            n_startup_trials=STARTUP,
            n_ei_candidates=24,
            multivariate=False,
            group=False,
            constant_liar=False,
        )
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.add_trials(past)
        if kind := named.get(_name(study.ask(distributions).params)):
            return kind
    return untried[0]


def _distributions(kinds: Sequence[BlockKind]) -> dict[str, BaseDistribution]:
    """Of all settings that differ among the kinds; one that a kind lacks is a value of its own."""
    rows = [_settings(kind) for kind in kinds]
    names = dict.fromkeys(name for row in rows for name in row)
    # In an order that is the same whatever was tried first.
    values = {
        name: sorted({row.get(name, "") for row in rows}, key=lambda one: (str(type(one)), one)) for name in names
    }
    return {name: CategoricalDistribution(choices) for name, choices in values.items() if len(choices) > 1}


def _settings(kind: BlockKind) -> dict[str, int | str]:
    values = {"kind": kind.letter, **asdict(kind)}
    return {name: value for name, value in values.items() if value is not None and name != "width"}  # it follows


def _params(kind: BlockKind, distributions: Mapping[str, BaseDistribution]) -> dict[str, int | str]:
    settings = _settings(kind)
    return {name: settings.get(name, "") for name in distributions}


def _name(params: Mapping[str, object]) -> tuple[tuple[str, object], ...]:
    return tuple(sorted(params.items()))


def _trial(told: TriedVariant, distributions: dict[str, BaseDistribution]) -> FrozenTrial:
    return optuna.trial.create_trial(
        state=TrialState.FAIL if told.gain is None else TrialState.COMPLETE,
        value=told.gain,
        params=_params(told.kind, distributions),
        distributions=distributions,
    )
