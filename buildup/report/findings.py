"""The facts and sentences of a report, shared by its HTML and Markdown forms and by the model card."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean
from typing import Literal

from buildup.errors import command, counted, percent
from buildup.graph.layout import layout
from buildup.graph.network import Network
from buildup.graph.serialize import fingerprint
from buildup.report.diagnostic_table import LEVEL, Evidence
from buildup.report.words import macs, points, short_number
from buildup.statistics.base_checks import Climb, Rounding
from buildup.statistics.mixed_model import NormalMixture
from buildup.trials.decision import Decision
from buildup.trials.final_result import Final
from buildup.trials.history import History
from buildup.trials.objective import OBJECTIVES, Objective
from buildup.trials.outcome import IMITATION, START, Failure, Outcome, Reason, Score
from buildup.trials.training import CHECKS, candidate_id, check_id, seed_of

SHOWN_SETTINGS = (
    *("base", "dataset", "space", "strategy", "recipe", "set", "epochs", "fraction", "judge", "objective", "seeds"),
)
"""The settings shown at the top of a report, in order."""

Role = Literal["base", "winner", "other"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRow:
    id: str
    layout: str
    """Empty for a candidate without a decision."""
    seed: str
    outcome: Outcome
    check: str = ""
    """The check for which the base was trained once more; empty for other trainings."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """A search and all facts that its reports show."""

    title: str
    run: str
    """The RUN argument of commands."""
    settings: Mapping[str, object]
    """The contents of `run.yaml`; values may be nested mappings."""
    base: Network
    """The start of the search, including blocks that the space added."""
    winner: Network
    history: History
    costs: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Parameters and MACs by fingerprint, if known."""
    warnings: Sequence[str] = ()
    finished: str
    """Whether and when the search ended, as a sentence."""
    ended: bool = True
    """Whether the rule has nothing left to try."""
    gain: NormalMixture | None = None
    """The gain of the winner over the base by the model of the judges; None without verdicts of theirs."""
    climb: Climb | None = None
    """The gain of the base by a longer training, where that is known."""
    rounding: Rounding | None = None
    """How much the score of the base depends on rounding, where that is known."""
    evidence: Evidence | None = None
    """Correlations with the gains; None if no verdict was measured."""
    reused: Mapping[str, str] = field(default_factory=dict)
    """Trainings reused from another run, and the name of that run."""
    final: Final | None = None
    """The result of `buildup final`; None before it."""
    notes: tuple[tuple[str, str], ...] = ()
    """What people wrote in the dashboard: what each note is on, and its text."""
    exported: bool = False
    """Whether the winner is in the run's folder `export`."""

    @property
    def decisions(self) -> tuple[Decision, ...]:
        return self.history.decisions

    @property
    def kept(self) -> tuple[Decision, ...]:
        return tuple(decision for decision in self.decisions if decision.kept)

    @property
    def unchanged(self) -> bool:
        return self.winner_id == fingerprint(self.base)

    @cached_property
    def winner_id(self) -> str:
        return fingerprint(self.winner)

    @cached_property
    def layouts(self) -> dict[str, str]:
        best, found = layout(self.base), dict[str, str]()
        for decision in self.decisions:
            found |= {decision.parent: best, decision.candidate: decision.layout}
            best = decision.layout if decision.kept else best
        base = fingerprint(self.base)
        found |= {one: layout(self.base) for one in (base, *self.checks)}
        return {**found, self.winner_id: layout(self.winner)}

    @cached_property
    def trainings(self) -> tuple[TrainingRow, ...]:
        """All ended trainings, in the order in which they ended."""
        rows = []
        for training, outcome in self.history.outcomes.items():
            candidate, seed = candidate_id(training), str(seed_of(training))
            shown = self.layouts.get(candidate, "")
            check = self.checks.get(candidate, "")
            rows.append(TrainingRow(id=training, layout=shown, seed=seed, outcome=outcome, check=check))
        return tuple(rows)

    @cached_property
    def scored(self) -> dict[str, dict[str, Score]]:
        """The scores by candidate and seed, ordered by seed, without those of the checks of the base."""
        found: dict[str, dict[str, Score]] = {}
        for row in sorted(self.trainings, key=lambda row: int(row.seed)):
            if isinstance(row.outcome, Score) and not row.check:
                found.setdefault(candidate_id(row.id), {})[row.seed] = row.outcome
        return found

    @cached_property
    def checks(self) -> dict[str, str]:
        """The checks of the base, by candidate."""
        return {check_id(fingerprint(self.base), check): check for check in CHECKS}

    def role(self, training: str) -> Role:
        candidate = candidate_id(training)
        if candidate == self.winner_id and not self.unchanged:
            return "winner"
        return "base" if candidate == fingerprint(self.base) else "other"

    @property
    def objective(self) -> Objective:
        return OBJECTIVES[str(self.settings.get("objective", "accuracy"))]

    def scores(self, network: Network) -> dict[str, float]:
        """The scores of a network by seed, in the unit of the objective, ordered by seed."""
        own = self.scored.get(fingerprint(network), {})
        return {seed: self.objective.value(score) for seed, score in own.items()}

    def paired_scores(self, network: Network) -> tuple[dict[str, float], dict[str, float]]:
        """The scores of the base and of a network for the seeds that both have, so that their means can be subtracted.

        Where they share no seed, all scores of each.
        """
        base, own = self.scores(self.base), self.scores(network)
        shared = [seed for seed in own if seed in base]
        return {seed: base[seed] for seed in shared or base}, {seed: own[seed] for seed in shared or own}

    @property
    def paired_gains(self) -> tuple[float, ...]:
        """The winner's gain over the base for each shared seed; empty without any, or if the winner is the base."""
        base, winner = self.paired_scores(self.winner)
        if self.unchanged or base.keys() != winner.keys():
            return ()
        return tuple(self.objective.sign * (winner[seed] - base[seed]) for seed in winner)

    def cost(self, network: Network) -> tuple[int, int] | None:
        own = fingerprint(network)
        if own in self.costs:
            return self.costs[own]
        for decision in self.decisions:
            if decision.candidate == own and decision.params is not None and decision.macs is not None:
                return decision.params, decision.macs
        return None

    @property
    def imitations(self) -> str:
        """What new blocks beside pretrained weights had learned before the first epoch. Empty in other searches."""
        base, tried = self._before_training(START)
        chance = 100 / self.base.num_classes
        trained = [score.accuracy for score in self.scored.get(fingerprint(self.base), {}).values()]
        if trained and base - chance > (fmean(trained) - chance) / 2:  # its classifier is not new
            shares = [f"{layout} {mean:.1f} % ({100 * mean / base:.0f} %)" for layout, mean in tried]
            knew = (
                f"Before any training the base knew {base:.1f} % of the validation images. With new blocks, and as a "
                "share of that: "
            )
            return f"{knew}{', '.join(shares)}." if shares else ""
        # With a new classifier nobody knows anything.
        errors = [f"{layout} {mean:.2f}" for layout, mean in self._before_training(IMITATION)[1]]
        imitated = "How far the features were from the base's before the first epoch (relative error, 0 for equal): "
        return f"{imitated}{', '.join(errors)}." if errors else ""

    def _before_training(self, metric: str) -> tuple[float, list[tuple[str, float]]]:
        """The mean of a metric measured before the first epoch: of the base, and of the layout of each candidate."""
        means = {
            candidate: fmean(values)
            for candidate, scores in self.scored.items()
            if (values := [score.metrics[metric] for score in scores.values() if metric in score.metrics])
        }
        base = means.pop(fingerprint(self.base), 0.0)
        return base, [(self.layouts[one], mean) for one, mean in means.items() if one in self.layouts]

    @property
    def judge(self) -> str:
        """The judge of the decisions. Only `proven` proves each kept step."""
        return self.decisions[-1].judge if self.decisions else str(self.settings.get("judge", ""))

    @property
    def headline(self) -> str:
        """The result in one sentence: that of the final evaluation if there is one, else that of the search."""
        if not self.decisions:
            return "Nothing has been decided yet."
        if not self.kept:
            tried = len(self.decisions)
            none = "The one tried block was not kept" if tried == 1 else f"None of {tried} tried blocks was kept"
            return f"{none}{': the base stays as it is' if self.ended else ' so far: the search has not ended'}."
        if not self.final:
            return self.searched
        where, means = places_text(self.base, self.winner), {one.part: one.mean for one in self.final.contenders}
        before, after = means.get("base"), means.get("winner")
        if before is None or after is None:
            return f"{where}. {self.final.verdict}"
        found = f"{before:.2f} -> {after:.2f} {self.objective.scale} test {self.objective.name}"
        return f"{where}: {found}. {self.final.verdict}"

    @property
    def searched(self) -> str:
        if self.unchanged:
            return self.tried
        where = places_text(self.base, self.winner)
        before, after = (list(scores.values()) for scores in self.paired_scores(self.winner))
        proof = "" if self.final else ", each step proven" if self.judge == "proven" else ", unproven"
        what = f"{self.objective.title}{proof}"
        if not before or not after:
            return f"{where}, {what}."
        return f"{where}: {fmean(before):.2f} -> {fmean(after):.2f} {self.objective.scale} {what}."

    @property
    def estimated(self) -> str:
        """The gain of the winner, corrected for the choice of steps by the same scores; empty where it is not known."""
        if self.gain is None:
            return ""
        low, high = self.gain.interval(LEVEL)
        return (
            f"Estimated gain of the winner over the base, corrected for selection: {points(self.gain.mean)} "
            f"{self.objective.said} ({percent(LEVEL)} interval {points(low)} to {points(high)})."
        )

    @property
    def tried(self) -> str:
        were = "was" if 1 in {len(self.kept), len(self.decisions)} else "were"
        so_far = "" if self.ended else " so far: the search has not ended"
        return f"{len(self.kept)} of {counted(len(self.decisions), 'tried block')} {were} kept{so_far}."

    @property
    def claim(self) -> str:
        """How far the verdicts can be trusted: a label, a colon, and the explanation."""
        if self.unchanged and not self.final:
            return "No claim: the winner is the base."
        selected = (
            "The difference between winner and base is overestimated, because the same scores selected the steps. "
            f"{self.estimated}"
        ).strip()
        if self.final:
            return f"Not the claim: {selected[0].lower()}{selected[1:]} The final evaluation above measured both anew."
        if self.judge == "proven":
            return (
                "Proven steps: each kept step passed an interval that is corrected for all verdicts of the search, "
                f"with a risk of about 5 % that any of them is no gain. {selected}"
            )
        if self.judge == "point":
            rule = "each step kept the larger mean, without a test against chance"
        else:
            levels = [decision.level for decision in self.decisions if decision.level]
            probability = f" (probability at least {percent((1 + min(levels)) / 2)})" if levels else ""
            rule = f"a step was kept when a gain was likely{probability}"
        return (
            f"Unproven: {rule}. {selected} To prove a gain, retrain both with fresh seeds and evaluate them on images "
            "that no verdict used."
        )

    @property
    def images(self) -> str:
        scores = [row.outcome for row in self.trainings if isinstance(row.outcome, Score) and row.outcome.images]
        sizes = {score.images for score in scores}
        number = f"{sizes.pop():,} " if len(sizes) == 1 else ""
        own = ", a fold of its own for each seed" if any(score.validated for score in scores) else ""
        which = "The scores of the search" if self.final else "All scores"
        test = "opened only once, by buildup final" if self.final else "not opened"
        held = f"{number}validation images{own}. They are part of the training set"
        return f"{which} are from {held}. The test set was {test}."

    @property
    def tally(self) -> str:
        failures = [row.outcome for row in self.trainings if isinstance(row.outcome, Failure)]
        unneeded = sum(failure.reason is Reason.UNNEEDED for failure in failures)
        failed = len(failures) - unneeded
        parts = [f"{len(self.trainings) - len(failures)} finished"]
        parts += [f"{len(self.reused)} of them reused from other runs"] if self.reused else []
        parts += [f"{failed} failed"] if failed else []
        parts += [f"{unneeded} stopped because no verdict needed them any more"] if unneeded else []
        return ", ".join(parts)

    @property
    def asked(self) -> list[tuple[str, object]]:
        known = {name: self.settings[name] for name in SHOWN_SETTINGS if self.settings.get(name) not in (None, ())}
        return [(name, ", ".join(value) if isinstance(value, tuple) else value) for name, value in known.items()]

    @property
    def commands(self) -> tuple[tuple[str, str], ...]:
        """Commands that make sense next, each with its purpose."""
        run = self.run
        final = (command("final", run), "retrain base and winner with fresh seeds and test them once on the test set")
        analyze = (command("analyze", run, "--verdicts"), "measure which diagnostics predict a gain")
        return (
            *([final] if self.kept and not self.final else []),
            *([analyze] if self.decisions and not self.evidence else []),
            (command("export", run, "--to", "DIR"), "export the winner as a timm model"),
            (command("dashboard", run), "browse all trainings"),
        )


def places_text(base: Network, winner: Network) -> str:
    """What stands where in the winner.

    >>> from buildup.graph.network import sketch
    >>> base = sketch("CC|CCCC")
    >>> places_text(base, base.replace("c2.3", "M").replace("c2.1", "M").replace("c1.1", "M"))
    'Local attention at c2.3, c2.1 and the end of c1'
    """
    own = {block.path: block.kind for block in base.blocks}
    places: dict[str, list[str]] = {}
    for stage in reversed(winner.stages):
        changed = [block for block in reversed(stage.blocks) if own.get(block.path) != block.kind]
        at_end = len(changed) == 1 < len(stage.blocks) and changed[0] is stage.blocks[-1]
        for block in changed:
            places.setdefault(block.kind.label, []).append(f"the end of {stage.name}" if at_end else block.path)
    listed = {kind: " and ".join(filter(None, (", ".join(at[:-1]), at[-1]))) for kind, at in places.items()}
    return "; ".join(f"{kind[0].upper()}{kind[1:]} at {where}" for kind, where in listed.items())


def flat(settings: Mapping[str, object], prefix: str = "") -> list[tuple[str, object]]:
    """Nested settings as one list with dotted names.

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


def cost_text(cost: tuple[int, int] | None) -> str:
    return "?" if cost is None else f"{short_number(cost[0])} params, {macs(cost[1])}"
