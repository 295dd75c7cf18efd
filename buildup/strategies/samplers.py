"""Strategies that Optuna's samplers lead: controls for the build-up rule, over the same layouts and with its budget.

A layout is one number a stage: how many of its places are changed. Each proposal fills a study in memory with what was
decided so far and asks a sampler once, whose seed is made of the run's seed and the step; so resuming is replaying.
Every setting in which Optuna 4 and 5 differ is given.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from statistics import fmean
from typing import Literal

import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from buildup.space.schema import SearchSpace
from buildup.strategies.fixed_order import Counts, Layouts
from buildup.strategies.strategy import Step, Strategy
from buildup.trials.decision import Decision
from buildup.trials.objective import OBJECTIVES
from buildup.trials.training import Candidate

POPULATION = 8
"""Of a generation of `nsga2`: budgets are a few dozen candidates, where Optuna's own 50 would never evolve."""
STARTUP = 5
"""What `tpe` draws at random before it models anything."""
ASKED_AGAIN = 20
"""How often a sampler that repeats itself is asked for another layout, before the first untried one is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """A sampler, and what it is told."""

    sampler: Callable[[int], BaseSampler]
    """Makes it from a seed."""
    cost: Literal["MACs", "parameters"] | None = None
    """What it weighs what is judged against; otherwise that alone is told."""

    @property
    def directions(self) -> list[StudyDirection]:
        """Of what it is told."""
        return [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE][: 1 + bool(self.cost)]

    def values(self, score: float, decision: Decision) -> list[float]:
        """What it is told of a candidate."""
        if self.cost is None:
            return [score]
        weighed = decision.macs if self.cost == "MACs" else decision.params
        assert weighed is not None, f"a strategy that weighs {self.cost} needs them to be counted"
        return [score, float(weighed)]


def _tpe(seed: int) -> BaseSampler:
    return TPESampler(
        seed=seed, n_startup_trials=STARTUP, n_ei_candidates=24, multivariate=False, group=False, constant_liar=False
    )


def _nsga2(seed: int) -> BaseSampler:
    return NSGAIISampler(
        seed=seed, population_size=POPULATION, mutation_prob=None, crossover_prob=0.9, swapping_prob=0.5
    )


@dataclass(frozen=True, kw_only=True)
class SampledRule:
    """Tries what a sampler says, each layout once, as many as the build-up rule could try at most."""

    base: Candidate
    layouts: Layouts
    sampling: Sampling
    seed: int

    @cached_property
    def first(self) -> Step | None:
        """What the sampler says before it knows anything."""
        return _Draw(rule=self, best=self.base) if self.layouts.tries else None

    @cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        """One number a stage that has places."""
        stages = zip(self.base.network.stages, self.layouts.places, strict=True)
        return {f"{stage.name}.changed": IntDistribution(0, len(places)) for stage, places in stages if places}


@dataclass(frozen=True, kw_only=True)
class _Draw:
    rule: SampledRule
    best: Candidate
    told: tuple[FrozenTrial, ...] = ()
    tried: tuple[Counts, ...] = ()

    @cached_property
    def _asked(self) -> tuple[Counts, FrozenTrial]:
        """A layout that was not tried, with the trial that the sampler made for it."""
        for attempt in range(ASKED_AGAIN):
            trial = self._ask(attempt)
            counts = self._counts(trial)
            if any(counts) and counts not in self.tried:
                return counts, trial
        counts = next(one for one in self.rule.layouts.all if one not in self.tried)
        return counts, trial

    def _ask(self, attempt: int) -> FrozenTrial:
        name = f"{self.rule.seed}/{len(self.tried)}/{attempt}"
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        sampling = self.rule.sampling
        study = optuna.create_study(directions=sampling.directions, sampler=sampling.sampler(seed))
        study.add_trials(self.told)
        number = study.ask(self.rule.distributions).number
        return study.get_trials(deepcopy=False)[number]

    def _counts(self, trial: FrozenTrial) -> Counts:
        names = (f"{stage.name}.changed" for stage in self.rule.base.network.stages)
        return tuple(int(trial.params.get(name, 0)) for name in names)

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
        told = (*self.told, self._told(decision, counts, trial))
        return replace(self, best=self.candidate if decision.kept else self.best, told=told, tried=tried)

    def _told(self, decision: Decision, counts: Counts, trial: FrozenTrial) -> FrozenTrial:
        stages = zip(self.rule.base.network.stages, counts, strict=True)
        named = {f"{stage.name}.changed": count for stage, count in stages}
        sign = OBJECTIVES[decision.objective].sign
        values = self.rule.sampling.values(sign * fmean(decision.scores), decision) if decision.scores else None
        return optuna.trial.create_trial(
            state=TrialState.COMPLETE if values else TrialState.FAIL,
            values=values,
            params={name: named[name] for name in self.rule.distributions},
            distributions=self.rule.distributions,
            system_attrs=trial.system_attrs,  # `nsga2` keeps there which generation a trial belongs to
        )

    def successor(self, kept: bool) -> Step | None:
        """Nothing: what a sampler says next depends on the scores themselves."""
        return None

    def left(self, kept: bool) -> int:
        return self.rule.layouts.tries - len(self.tried)


def _sampled(sampling: Sampling, base: Candidate, space: SearchSpace, seed: int) -> SampledRule:
    return SampledRule(base=base, layouts=Layouts(base=base, space=space), sampling=sampling, seed=seed)


def _strategy(name: str, sampling: Sampling) -> Strategy:
    return Strategy(name=name, make=partial(_sampled, sampling), weighs=sampling.cost)


SAMPLED = (
    _strategy("tpe", Sampling(sampler=_tpe)),
    _strategy("nsga2", Sampling(sampler=_nsga2, cost="MACs")),
    _strategy("nsga2-params", Sampling(sampler=_nsga2, cost="parameters")),
)
