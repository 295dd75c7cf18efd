"""The Python API: start a search, or open a run on disk.

The settings are those of the command line. Each field of a class in `buildup.settings` is a keyword argument.
"""

import html
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from torch import nn

from buildup.engine.export import best_training, export_candidate, find_candidate, load_trained
from buildup.engine.final import run_final
from buildup.engine.load_state import read_final, state_of
from buildup.engine.plan import Plan
from buildup.engine.plan import make_plan as plan_search
from buildup.engine.progress import OnEvent
from buildup.engine.reports import report_of, write_report
from buildup.engine.search import resume_search, run_search
from buildup.engine.status import gain_values, status_of
from buildup.errors import RequestError, unknown
from buildup.graph.network import Network
from buildup.models.read import read_network as read_base
from buildup.report.diagram import graph_svg
from buildup.report.page import markdown
from buildup.report.text_table import decisions_table
from buildup.settings import ExportSettings, FinalSettings, ResumeSettings, RunSettings, SearchSettings
from buildup.store.run_record import RunRecord, open_record, read_record
from buildup.store.study_reader import Study, open_study
from buildup.trials.decision import Decision
from buildup.trials.final_result import Final
from buildup.trials.history import History
from buildup.trials.training import Candidate

if TYPE_CHECKING:
    import pandas

Settings = TypeVar("Settings")


class Run:
    """A search on disk, with its decisions, trainings and networks.

    Properties read the state of the run from disk at each access. So they are up to date even if another process
    continues the search.

    Example:
        ::

            import buildup

            run = buildup.search("resnet18", "digits", epochs=6, seeds=2, run="demo")
            run.winner.layout
            model = run.model()

    Use `buildup.search` to start a run and `buildup.open_run` to open one.
    """

    def __init__(self, record: RunRecord) -> None:
        """Wrap the record of a run; `buildup.search` and `buildup.open_run` call this."""
        self._known = record

    @property
    def _record(self) -> RunRecord:
        """What `run.yaml` says now: other processes may go on with the run."""
        self._known = read_record(self.folder)
        return self._known

    @property
    def folder(self) -> Path:
        """The folder of the run, such as `runs/demo`."""
        return self._known.folder

    @property
    def settings(self) -> RunSettings:
        """The settings of the search as `run.yaml` keeps them, with every default filled in."""
        return self._record.settings

    @property
    def status(self) -> str:
        """`running`, `finished`, `stopped` or `failed`. A run whose process has died is `stopped`."""
        return status_of(self._record)[0]

    @property
    def history(self) -> History:
        """The outcomes and learning curves by training so far, and the recorded decisions."""
        return state_of(self._record)[1]

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """The decisions so far, one per candidate, in the order of the search.

        Each has a verdict, the gain, its confidence interval and a reason.
        """
        return state_of(self._record)[0].decisions

    @property
    def base(self) -> Candidate:
        """The network that the search started from, without edits apart from the blocks that the space adds."""
        return state_of(self._record)[0].candidates[0]

    @property
    def winner(self) -> Candidate:
        """The best network so far: the candidate of the last kept edit, or the base if no edit was kept.

        In a finished run this is the result of the search.
        """
        return state_of(self._record)[0].best

    @property
    def gain(self) -> dict[str, float] | None:
        """The winner's gain over the base, corrected for the selection of its steps: `estimate`, `low` and `high`.

        `level` is the probability of the interval. None if nothing was kept, by judge `point`, and by
        strategies that do not build up.
        """
        record = self._record
        return gain_values(record, state_of(record)[0])

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The base, then each candidate in the order of the search. The last one may not be decided yet."""
        return state_of(self._record)[0].candidates

    @property
    def claim(self) -> Final | None:
        """The networks with their test scores and the claims on the winner; None before `final` was called."""
        return read_final(self.folder)

    @property
    def study(self) -> Study:
        """The Optuna study of the run, opened for reading. Each trial is one training."""
        record = self._record
        return open_study(record.folder, record.settings.storage, record.study_name)

    def trials_dataframe(self) -> "pandas.DataFrame":
        """The trainings as a pandas DataFrame, with the columns of `optuna.study.Study.trials_dataframe`."""
        return self.study.trials_dataframe()

    def model(self, candidate: str | int | None = None) -> nn.Module:
        """Load a trained network.

        Of the trainings of the candidate, the one with the best validation score is loaded.

        Args:
            candidate: A step number (0 is the base), a layout, or the first four or more characters of a fingerprint.
                By default the winner.

        Returns:
            The model with its trained weights, on the CPU and in evaluation mode.

        Raises:
            RequestError: The run has no such candidate.
            RunError: The search has not ended and no candidate is named, or the candidate has no finished training,
                or its weights were removed.
        """
        record = self._record
        view, history = state_of(record)
        chosen = find_candidate(record, view, candidate)
        training, _ = best_training(record, history, chosen)
        return load_trained(chosen.network, record.trainings / training).eval()

    def resume(self, *, on_event: OnEvent | None = None, verbose: bool = False, **settings: Any) -> "Run":
        """Continue the search after an interruption or a limit, or extend it with other settings.

        Args:
            on_event: Called with each event and each decision.
            verbose: Whether Ray and the workers may print.
            **settings: The settings of `buildup resume`, such as `max_trials=40` or `seeds=5`. More seeds, other
                epochs, another judge or another space extend the run: all verdicts are made anew.

        Returns:
            This run.

        Raises:
            RequestError: The settings are wrong. All problems are named; nothing was written.
            SearchError: The search failed, or its base has not learned.
        """
        changes = _settings(ResumeSettings, settings)
        resume_search(self._record, changes, on_event, verbose=verbose)
        return self

    def final(self, *, verbose: bool = False, **settings: Any) -> Final | None:
        """Train base and winner anew with fresh seeds, and compare them on the test set.

        The test set is opened once per run, after all trainings have ended. After an interruption, the same call
        continues.

        Args:
            verbose: Whether Ray and the workers may print.
            **settings: The settings of `buildup final`, such as `seeds=5` or `control=True`.

        Returns:
            The networks with their test scores and the claims on the winner; None if the winner is the base.

        Raises:
            RequestError: The settings are wrong. All problems are named; nothing was written.
            RunError: The search has not ended, or the test set was used already.
            SearchError: A training failed for a reason that another attempt may avoid.
        """
        return run_final(self._record, _settings(FinalSettings, settings), verbose=verbose)

    def export(self, to: str | Path = "", **settings: Any) -> Path:
        """Write a network as a timm model, with its weights and a model card.

        Args:
            to: The folder to write to. It must not hold anything yet. Not needed with `push`.
            **settings: The other settings of `buildup export`: `candidate`, by default the winner, and `onnx=True`
                to write an ONNX file too, and `push` to publish it.

        Returns:
            The folder, or without one what `push` names.

        Raises:
            RequestError: The settings are wrong. All problems are named; nothing was written.
            RunError: The search has not ended and no candidate is named, or the weights were removed.
        """
        folder = {"to": str(to)} if to else {}
        export_candidate(self._record, _settings(ExportSettings, folder | settings))
        return Path(to or settings["push"])

    @overload
    def report(self, format: Literal["html"] = "html") -> Path: ...

    @overload
    def report(self, format: Literal["md"]) -> str: ...

    def report(self, format: str = "html") -> Path | str:
        """Write the report of the run, also while it runs.

        Args:
            format: `html` or `md`.

        Returns:
            The path of the written `report.html`, or the report as Markdown text.

        Raises:
            RequestError: The format is neither `html` nor `md`.
        """
        if format not in {"html", "md"}:
            raise RequestError(unknown("format", format, ("html", "md")))
        return write_report(self._record) if format == "html" else markdown(report_of(self._record))

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}: {self._known.title}, {status_of(self._known)[0]})"

    def _repr_html_(self) -> str:
        view, _ = state_of(self._record)
        claim = self.claim
        lines = [
            f"<b>{html.escape(self.settings.base)}</b> on {html.escape(self.settings.dataset)} ({self.status}): "
            f"<code>{html.escape(view.best.layout)}</code>",
            *([html.escape(claim.verdict)] if claim else []),
            f"<pre>{html.escape(decisions_table(view.decisions, view.climb))}</pre>",
            graph_svg(view.best.network, self.settings.base),
        ]
        return "<br>".join(lines)


def search(base: str, dataset: str, *, on_event: OnEvent | None = None, verbose: bool = False, **settings: Any) -> Run:
    """Search where self-attention improves a network.

    The search ends when the strategy has nothing left to try, or at the limit of `max_trials` or `time_budget`.
    It is kept in a folder, so `Run.resume` continues it after an interruption.

    Args:
        base: A timm model to start from, such as `resnet50`. `buildup models` lists the names.
        dataset: `digits`, `cued-digits`, `cifar10`, `cifar100`, `folder:DIR`, `csv:FILE`, `torch/NAME`,
            `hfds/NAME` or `wds:DIR`.
        on_event: Called with each event and each decision.
        verbose: Whether Ray and the workers may print.
        **settings: The other settings of `buildup search`, such as `epochs=6, seeds=2, run="demo"`.

    Returns:
        The run.

    Raises:
        RequestError: The settings are wrong. All problems are named; nothing was written.
        SearchError: The search failed, or its base has not learned. `Run.resume` continues after the cause is fixed.

    Example:
        ::

            run = buildup.search("resnet18", "digits", epochs=6, seeds=2, run="demo")
            print(run.winner.layout)
    """
    asked = _settings(SearchSettings, {"base": base, "dataset": dataset, **settings})
    return Run(run_search(asked, on_event, verbose=verbose).record)


def plan(base: str, dataset: str, *, anew: bool = False, **settings: Any) -> Plan:
    """Estimate the trainings and the duration of a search, without starting it.

    The speed of the base is measured with a few training steps, and kept in the user's cache for the next plan.

    Args:
        base: A timm model, as in `search`.
        dataset: A dataset, as in `search`.
        anew: Whether to measure the speed even if it is known from an earlier plan.
        **settings: The other settings of `buildup search`.

    Returns:
        The candidates that the search may reach with their costs, and the expected number of trainings and seconds.

    Raises:
        RequestError: The settings are wrong. All problems are named.
    """
    return plan_search(_settings(SearchSettings, {"base": base, "dataset": dataset, **settings}), anew=anew)


def open_run(run: str | Path) -> Run:
    """Open a run that is on disk, finished or not.

    Args:
        run: The name of a run in `runs/`, or its folder.

    Returns:
        The run.

    Raises:
        RunError: There is no such run, or its `run.yaml` cannot be read.

    Example:
        ::

            for decision in buildup.open_run("demo").decisions:
                print(decision.step, decision.edit, decision.verdict)
    """
    return Run(open_record(str(run)))


def read(base: str, *, input_size: int = 224, channels: int = 3, num_classes: int = 1000) -> Network:
    """Read the graph of a timm model: its stages and blocks, without weights.

    The model is traced on PyTorch's meta device, so nothing is downloaded or computed.

    Args:
        base: The name of a timm model, such as `resnet50`.
        input_size: Height and width of the images in pixels.
        channels: Number of channels of the images.
        num_classes: Number of classes.

    Returns:
        The network. `buildup.build` makes a PyTorch model from it.

    Raises:
        BaseError: There is no such model, or it can't be a base.

    Example:
        >>> network = read("resnet18", input_size=32, num_classes=10)
        >>> [len(stage.blocks) for stage in network.stages]
        [2, 2, 2, 2]
    """
    return read_base(base, input_shape=(channels, input_size, input_size), num_classes=num_classes)


def _settings(kind: type[Settings], values: dict[str, Any]) -> Settings:
    """Settings from keyword arguments. An unknown name raises an error that suggests similar ones."""
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type] # all of them are dataclasses
    if wrong := [name for name in values if name not in known]:
        raise RequestError(*(unknown("setting", name, known, shown=40) for name in wrong))
    several = {field.name for field in fields(kind) if field.default == ()}  # type: ignore[arg-type]
    one = {name: (value,) for name, value in values.items() if name in several and isinstance(value, str)}
    return kind(**values | one)
