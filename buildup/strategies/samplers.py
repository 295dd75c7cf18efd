"""Optuna's samplers: strategies that serve as controls, and the choice among many settings at a kept place.

A layout is one number per stage: how many of its places are changed; with `places: any`, one per place. Each proposal
fills an in-memory study with the results so far and asks a sampler once, with a seed that follows from the run's seed
and the step. So a resumed search proposes the same again. All settings whose defaults differ between Optuna 4 and 5 are
given.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from statistics import fmean
from typing import Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from buildup.graph.kinds import BlockKind
from buildup.space.schema import SearchSpace
from buildup.strategies.alternet import TriedVariant
from buildup.strategies.fixed_order import Counts, Layouts
from buildup.strategies.strategy import Step, Strategy
from buildup.trials.decision import Decision
from buildup.trials.objective import OBJECTIVES
from buildup.trials.training import Candidate

POPULATION = 8
"""Population size of `nsga2`. With Optuna's default of 50, budgets of a few dozen candidates would never evolve."""
LAYOUT_STARTUP = 5
"""Number of random layouts before TPE models the results."""
VARIANT_STARTUP = 3
"""The same for settings at a place, including the block that was kept."""
ATTEMPTS = 20
"""How often a sampler is asked again when it repeats itself, before the first untried choice is taken."""

Cost = Literal["MACs", "parameters"]
MakeSampler = Callable[[int], BaseSampler]
"""Makes a sampler from a seed."""


def _tpe(seed: int, startup: int = LAYOUT_STARTUP) -> BaseSampler:
    return TPESampler(
        seed=seed, n_startup_trials=startup, n_ei_candidates=24, multivariate=False, group=False, constant_liar=False
    )


def _nsga2(seed: int) -> BaseSampler:
    return NSGAIISampler(
        seed=seed, population_size=POPULATION, mutation_prob=None, crossover_prob=0.9, swapping_prob=0.5
    )


def _ask(
    make_sampler: MakeSampler,
    name: str,
    trials: Sequence[FrozenTrial],
    distributions: dict[str, BaseDistribution],
    directions: Sequence[StudyDirection] = (StudyDirection.MAXIMIZE,),
) -> FrozenTrial:
    """The next trial of a new study with these past trials; the name gives the seed."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])
    study = optuna.create_study(directions=directions, sampler=make_sampler(seed))
    study.add_trials(trials)
    number = study.ask(distributions).number
    return study.get_trials(deepcopy=False)[number]


@dataclass(frozen=True, kw_only=True)
class SampledRule:
    """Tries each layout that a sampler proposes once, at most as many as the build-up rule could try."""

    base: Candidate
    layouts: Layouts
    sampler: MakeSampler
    cost: Cost | None
    """The second objective; None if there is only the score."""
    seed: int

    @cached_property
    def first(self) -> Step | None:
        return _Proposal(rule=self, best=self.base) if self.layouts.tries else None

    @cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        return {name: IntDistribution(0, len(moves)) for name, moves in self.layouts.groups.items()}


@dataclass(frozen=True, kw_only=True)
class _Proposal:
    rule: SampledRule
    best: Candidate
    trials: tuple[FrozenTrial, ...] = ()
    tried: tuple[Counts, ...] = ()

    @cached_property
    def _asked(self) -> tuple[Counts, FrozenTrial]:
        """An untried layout, with the trial that the sampler made for it."""
        rule = self.rule
        directions = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE][: 2 if rule.cost else 1]
        for attempt in range(ATTEMPTS):
            name = f"{rule.seed}/{len(self.tried)}/{attempt}"
            trial = _ask(rule.sampler, name, self.trials, rule.distributions, directions)
            counts = tuple(int(trial.params[name]) for name in rule.distributions)
            if any(counts) and counts not in self.tried and rule.layouts.has(counts):
                return counts, trial
        return next(one for one in rule.layouts.all if one not in self.tried), trial

    @cached_property
    def candidate(self) -> Candidate:
        return self.rule.layouts.candidate(self._asked[0], self.best)

    @property
    def share(self) -> float:
        return 1 / self.rule.layouts.tries

    def after(self, decision: Decision) -> Step | None:
        counts, trial = self._asked
        tried = (*self.tried, counts)
        if len(tried) == self.rule.layouts.tries:
            return None
        trials = (*self.trials, self._result(decision, counts, trial))
        return replace(self, best=self.candidate if decision.kept else self.best, trials=trials, tried=tried)

    def _result(self, decision: Decision, counts: Counts, trial: FrozenTrial) -> FrozenTrial:
        values = None
        if decision.scores:
            values = [OBJECTIVES[decision.objective].sign * fmean(decision.scores)]
            if self.rule.cost:
                cost = decision.macs if self.rule.cost == "MACs" else decision.params
                assert cost is not None, f"a strategy that weighs {self.rule.cost} needs them to be counted"
                values.append(float(cost))
        return optuna.trial.create_trial(
            state=TrialState.COMPLETE if values else TrialState.FAIL,
            values=values,
            params=dict(zip(self.rule.distributions, counts, strict=True)),
            distributions=self.rule.distributions,
            system_attrs=trial.system_attrs,  # where `nsga2` stores the generation of a trial
        )

    def successor(self, kept: bool) -> Step | None:
        """Always None: the next proposal depends on the scores."""
        return None

    def remaining(self, kept: bool) -> int:
        return self.rule.layouts.tries - len(self.tried)


def _sampled(sampler: MakeSampler, cost: Cost | None, base: Candidate, space: SearchSpace, seed: int) -> SampledRule:
    return SampledRule(base=base, layouts=Layouts(base=base, space=space), sampler=sampler, cost=cost, seed=seed)


SAMPLED = (
    Strategy(name="tpe", make=partial(_sampled, _tpe, None)),
    Strategy(name="nsga2", make=partial(_sampled, _nsga2, "MACs"), weighs="MACs"),
    Strategy(name="nsga2-params", make=partial(_sampled, _nsga2, "parameters"), weighs="parameters"),
)


def by_tpe(untried: Sequence[BlockKind], tried: Sequence[TriedVariant], rng: str) -> BlockKind:
    kinds = [*(one.kind for one in tried), *untried]
    rows = [_settings(kind) for kind in kinds]
    # The order of values must not depend on what was tried first.
    values = {
        name: sorted({row.get(name, "") for row in rows}, key=lambda one: (str(type(one)), one))
        for name in dict.fromkeys(name for row in rows for name in row)
    }
    distributions: dict[str, BaseDistribution] = {
        name: CategoricalDistribution(choices) for name, choices in values.items() if len(choices) > 1
    }
    params = [{name: row.get(name, "") for name in distributions} for row in rows]
    trials = [
        optuna.trial.create_trial(
            state=TrialState.FAIL if one.gain is None else TrialState.COMPLETE,
            value=one.gain,
            params=given,
            distributions=distributions,
        )
        for one, given in zip(tried, params, strict=False)
    ]
    open_choices = list(zip(params[len(tried) :], untried, strict=True))
    for attempt in range(ATTEMPTS):
        proposed = _ask(partial(_tpe, startup=VARIANT_STARTUP), f"{rng}/{attempt}", trials, distributions).params
        for given, kind in open_choices:
            if given == proposed:
                return kind
    return untried[0]


def _settings(kind: BlockKind) -> Mapping[str, int | str]:
    """The settings of a kind. The width is left out, because it follows from the others."""
    values = {"kind": kind.letter, **asdict(kind)}
    return {name: value for name, value in values.items() if value is not None and name != "width"}
