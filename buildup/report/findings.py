"""What a search found, ready to be told: the facts that the page and the Markdown form share."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean
from typing import Literal

from buildup.graph.fingerprint import fingerprint
from buildup.graph.layout import layout
from buildup.graph.network import Network
from buildup.report.diagnostic_table import Evidence
from buildup.report.words import count, macs, percent
from buildup.trials.decision import Decision
from buildup.trials.final_result import Final
from buildup.trials.history import History
from buildup.trials.objective import OBJECTIVES, Objective
from buildup.trials.outcome import Failure, Outcome, Reason, Score
from buildup.trials.training import candidate_id

ASKED = (
    "base",
    "dataset",
    "space",
    "strategy",
    "recipe",
    "epochs",
    "fraction",
    "judge",
    "objective",
    "seeds",
)
"""The settings that say what was asked, in the order in which they are told."""

Role = Literal["base", "winner", "other"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRow:
    """One training, as the reports list it."""

    id: str
    layout: str
    """Empty for a candidate that no decision was made on yet."""
    seed: str
    outcome: Outcome


@dataclass(frozen=True, kw_only=True)
class Findings:
    """A search and everything that its reports say."""

    title: str
    run: str
    """What the user gives to commands as RUN."""
    settings: Mapping[str, object]
    """What `run.yaml` holds; values may be mappings themselves."""
    base: Network
    """Where the search started, with the blocks that its space added."""
    winner: Network
    history: History
    costs: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Parameters and MACs by fingerprint, where they are known."""
    warnings: Sequence[str] = ()
    finished: str
    """Whether and when it ended, as a sentence."""
    evidence: Evidence | None = None
    """What goes with the gains; None where no verdict was measured."""
    reused: Mapping[str, str] = field(default_factory=dict)
    """The trainings that another run had finished already, and which one."""
    final: Final | None = None
    """What `final` found; None before it."""

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """The verdicts, in order."""
        return self.history.decisions

    @property
    def kept(self) -> tuple[Decision, ...]:
        """The steps that led from the base to the winner."""
        return tuple(decision for decision in self.decisions if decision.kept)

    @property
    def unchanged(self) -> bool:
        """Whether the winner is the base itself."""
        return fingerprint(self.winner) == fingerprint(self.base)

    @cached_property
    def winner_id(self) -> str:
        """The winner among the candidates."""
        return fingerprint(self.winner)

    @cached_property
    def layouts(self) -> dict[str, str]:
        """Layouts by candidate."""
        best, found = layout(self.base), dict[str, str]()
        for decision in self.decisions:
            found |= {decision.parent: best, decision.candidate: decision.layout}
            best = decision.layout if decision.kept else best
        return {**found, fingerprint(self.base): layout(self.base), self.winner_id: layout(self.winner)}

    @cached_property
    def trainings(self) -> tuple[TrainingRow, ...]:
        """All trainings that ended, in the order in which they did."""
        rows = []
        for training, outcome in self.history.outcomes.items():
            candidate, _, seed = training.rpartition("-s")
            rows.append(TrainingRow(id=training, layout=self.layouts.get(candidate, ""), seed=seed, outcome=outcome))
        return tuple(rows)

    def role(self, training: str) -> Role:
        """Whether a training belongs to the base, the winner or another candidate."""
        candidate = candidate_id(training)
        if candidate == self.winner_id and not self.unchanged:
            return "winner"
        return "base" if candidate == fingerprint(self.base) else "other"

    @property
    def objective(self) -> Objective:
        """What a score is."""
        return OBJECTIVES[str(self.settings.get("objective", "accuracy"))]

    def scores(self, network: Network) -> dict[str, float]:
        """The scores of a network by seed, in the unit of the objective."""
        own = fingerprint(network)
        rows = sorted(self.trainings, key=lambda row: int(row.seed))  # which ended first, chance decides
        return {
            row.seed: self.objective.value(row.outcome)
            for row in rows
            if candidate_id(row.id) == own and isinstance(row.outcome, Score)
        }

    @property
    def paired_gains(self) -> tuple[float, ...]:
        """By how much the winner is better than the base, for each seed that both have."""
        base, winner, sign = self.scores(self.base), self.scores(self.winner), self.objective.sign
        return () if self.unchanged else tuple(sign * (winner[seed] - base[seed]) for seed in winner if seed in base)

    def cost(self, network: Network) -> tuple[int, int] | None:
        """Parameters and MACs of a network, where they are known."""
        own = fingerprint(network)
        if own in self.costs:
            return self.costs[own]
        for decision in self.decisions:
            if decision.candidate == own and decision.params is not None and decision.macs is not None:
                return decision.params, decision.macs
        return None

    @property
    def judge(self) -> str:
        """The judge that decided."""
        return self.decisions[-1].judge if self.decisions else str(self.settings.get("judge", ""))

    @property
    def headline(self) -> str:
        """The answer in one line."""
        if not self.decisions:
            return "Nothing has been decided yet."
        tried = f"{len(self.decisions)} tried block{'s' if len(self.decisions) > 1 else ''}"
        if not self.kept:
            return f"None of {tried} was kept: the base stays as it is."
        return f"{len(self.kept)} of {tried} {'was' if len(self.kept) == 1 else 'were'} kept."

    @property
    def is_proven(self) -> bool:
        """Whether each kept step stands as a claim of its own."""
        return self.judge == "proven"

    @property
    def is_claimed(self) -> bool:
        """Whether what the claim says of a gain may be taken as it is."""
        return self.final.claims[0].claimed if self.final else self.is_proven or self.unchanged

    @property
    def claim(self) -> str:
        """How far the verdicts may be trusted, after a word or two that say it in short."""
        if self.final:
            return self.final.verdict
        if self.unchanged:
            return "No claim: the winner is the base."
        if self.is_proven:
            return (
                "Proven steps: the interval of every kept step is corrected for all verdicts of the search, so each is "
                "a gain. How large it is stays flattered, because the steps were chosen by the very scores shown here."
            )
        if self.judge == "point":
            how = "the larger mean was kept at each step, and chance is not ruled out"
        else:
            levels = [decision.level for decision in self.decisions if decision.level]
            sure = f" (a probability of at least {percent((1 + min(levels)) / 2)})" if levels else ""
            how = f"a step was kept when a gain was likely{sure}"
        return (
            f"Unproven: {how}. The steps were chosen by the very scores shown here, so the difference between winner "
            "and base flatters the winner. Only both trained anew, with fresh seeds and on images that no verdict saw, "
            "prove it."
        )

    @property
    def images(self) -> str:
        """Which images the numbers come from."""
        shown = {row.outcome.images for row in self.trainings if isinstance(row.outcome, Score) and row.outcome.images}
        number = f" ({shown.pop():,} of them)" if len(shown) == 1 else ""
        test = (
            "The test set was opened once, by buildup final, and for nothing else."
            if self.final
            else "The test set was not opened for them."
        )
        which = "Scores of the search" if self.final else "All numbers"
        return f"{which} come from validation images{number}, which are a part of the training set. {test}"

    @property
    def tally(self) -> str:
        """How many trainings ended in which way, and what was trained in vain."""
        outcomes = [row.outcome for row in self.trainings]
        failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
        unneeded = [failure for failure in failures if failure.reason is Reason.UNNEEDED]
        failed = len(failures) - len(unneeded)
        parts = [f"{len(outcomes) - len(failures)} finished"]
        parts += [f"{len(self.reused)} of them taken over from other runs"] if self.reused else []
        parts += [f"{failed} failed"] if failed else []
        parts += [f"{len(unneeded)} ended early because a verdict fell without them"] if unneeded else []
        return ", ".join(parts)

    @property
    def asked(self) -> list[tuple[str, object]]:
        """What was asked for, as far as the settings say."""
        return [(name, self.settings[name]) for name in ASKED if self.settings.get(name) is not None]

    @property
    def commands(self) -> tuple[tuple[str, str], ...]:
        """How to go on: a command, and what it is for."""
        run = self.quoted_run
        claim = (f"buildup final {run}", "train base and winner anew, and open the test set once")
        ask = (f"buildup analyze {run} --verdicts", "measure whether anything tells which replacement helps")
        return (
            *([claim] if self.kept and not self.final else []),
            *([ask] if self.decisions and not self.evidence else []),
            (f"buildup export {run} --to DIR", "write the winner as a timm model"),
            (f"buildup dashboard {run}", "look at every training in the browser"),
        )

    @property
    def quoted_run(self) -> str:
        """The run as a shell takes it."""
        return shlex.quote(self.run)


def flat(settings: Mapping[str, object], prefix: str = "") -> list[tuple[str, object]]:
    """Settings in settings as one list of dotted names.

    >>> flat({"base": "resnet50", "versions": {"timm": "1.0"}})
    [('base', 'resnet50'), ('versions.timm', '1.0')]
    """
    rows: list[tuple[str, object]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            rows += flat(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", value))
    return rows


def mean(scores: Mapping[str, float]) -> float | None:
    """The mean of the scores; None without any."""
    return fmean(scores.values()) if scores else None


def cost_text(cost: tuple[int, int] | None) -> str:
    """Parameters and MACs in short."""
    return "?" if cost is None else f"{count(cost[0])} params, {macs(cost[1])}"
