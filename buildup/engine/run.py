"""The Python API: searches, and runs on disk as objects.

The settings are those of the command line (`buildup/settings.py`): each field is a keyword argument.
"""

import html
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from safetensors.torch import load_file
from torch import nn

from buildup.engine.export import best_training, export_candidate, find_candidate
from buildup.engine.final import run_final as run_final
from buildup.engine.load_state import read_final, state_of
from buildup.engine.loop import Observer
from buildup.engine.plan import Plan
from buildup.engine.plan import make_plan as plan_search
from buildup.engine.progress import CallbackObserver, observe
from buildup.engine.replay import Replay, View
from buildup.engine.reports import report_of, write_report
from buildup.engine.search import resume_search as resume_search
from buildup.engine.search import run_search as run_search
from buildup.engine.summaries import status_of
from buildup.errors import RequestError, RunError, unknown
from buildup.graph.network import Network
from buildup.models.build import build
from buildup.models.read import read_network as read_base
from buildup.report.diagram import graph_svg
from buildup.report.page import markdown
from buildup.report.text_table import decisions_table
from buildup.settings import ExportSettings, FinalSettings, ResumeSettings, RunSettings, SearchSettings
from buildup.store.run_dir import trained_weights
from buildup.store.run_record import RunRecord, open_record
from buildup.store.study_reader import Study, open_study
from buildup.trials.decision import Decision
from buildup.trials.event import Event
from buildup.trials.final_result import Final
from buildup.trials.history import History
from buildup.trials.training import Candidate

if TYPE_CHECKING:
    import pandas

OnEvent = Callable[[Event | Decision], object]
"""Is called with each event of a training and with each decision."""

Settings = TypeVar("Settings")


class Run:
    """A search on disk: what it decided, and what to do with it next.

    Its state is read when it is asked for, so that a run that another process works on is always up to date.
    """

    def __init__(self, record: RunRecord) -> None:
        """Use `buildup.search` or `buildup.open_run`."""
        self._record = record

    @property
    def folder(self) -> Path:
        """Where it is kept."""
        return self._record.folder

    @property
    def settings(self) -> RunSettings:
        """What it was asked for, with every default filled in."""
        return self._record.settings

    @property
    def status(self) -> str:
        """`running`, `finished`, `stopped` or `failed`."""
        return status_of(self._record)[0]

    @property
    def history(self) -> History:
        """Every outcome, curve and decision so far."""
        return self._state()[1]

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """The verdicts so far, in order."""
        return self._state()[0].decisions

    @property
    def base(self) -> Candidate:
        """Where the search started."""
        return self._state()[0].candidates[0]

    @property
    def winner(self) -> Candidate:
        """The best network so far; of a finished run, what the search found."""
        return self._state()[0].best

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The base, then each network that was tried, in order."""
        return self._state()[0].candidates

    @property
    def claim(self) -> Final | None:
        """What `final` found; None before it."""
        return read_final(self.folder)

    @property
    def study(self) -> Study:
        """Its Optuna study, for reading."""
        return open_study(self.folder, self.settings.storage, self._record.study_name)

    def trials_dataframe(self) -> "pandas.DataFrame":
        """One row a training, as Optuna tells them."""
        return self.study.trials_dataframe()

    def model(self, candidate: str | int | None = None) -> nn.Module:
        """A trained network, in evaluation mode.

        Args:
            candidate: A step number, a layout or a fingerprint; the winner unless given.
        """
        view, history = self._state()
        chosen = find_candidate(self._record, view, candidate)
        training, _ = best_training(self._record, history, chosen)
        weights = trained_weights(self._record.trainings / training)
        if weights is None:
            raise RunError(f"{self._record.trainings / training}: its weights are gone, so it can't be loaded.")
        model = build(chosen.network)
        model.load_state_dict(load_file(weights))
        return model.eval()

    def resume(self, *, on_event: OnEvent | None = None, verbose: bool = False, **settings: Any) -> "Run":
        """Go on after any stop, or take the search further. Settings: those of `buildup resume`."""
        changes = _settings(ResumeSettings, settings)
        self._record = resume_search(self._reread(), changes, _observers(on_event), verbose=verbose).record
        return self

    def final(self, *, verbose: bool = False, **settings: Any) -> Final | None:
        """Train base and winner anew, open the test set once, and say what is proven.

        None where the winner is the base. Settings: those of `buildup final`.
        """
        found = run_final(self._reread(), _settings(FinalSettings, settings), verbose=verbose)
        self._reread()
        return found

    def export(self, to: str | Path, **settings: Any) -> Path:
        """Write the winner, or another candidate, as a timm model. Settings: those of `buildup export`."""
        export_candidate(self._record, _settings(ExportSettings, {"to": str(to), **settings}))
        return Path(to)

    def report(self, format: str = "html") -> Path | str:
        """Write `report.html` and give its path; with `md`, give the report as Markdown."""
        if format not in {"html", "md"}:
            raise RequestError(unknown("format", format, ("html", "md")))
        return write_report(self._reread()) if format == "html" else markdown(report_of(self._reread()))

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}: {self.settings.base} on {self.settings.dataset}, {self.status})"

    def _repr_html_(self) -> str:
        """The answer and the diagram, for notebooks."""
        view, _ = self._state()
        claim = self.claim
        lines = [
            f"<b>{html.escape(self.settings.base)}</b> on {html.escape(self.settings.dataset)} ({self.status}): "
            f"<code>{html.escape(view.best.layout)}</code>",
            *([html.escape(claim.verdict)] if claim else []),
            f"<pre>{html.escape(decisions_table(view.decisions))}</pre>",
            graph_svg(view.best.network),
        ]
        return "<br>".join(lines)

    def _state(self) -> tuple[View, History]:
        return state_of(self._record)

    def _reread(self) -> RunRecord:
        self._record = open_record(str(self.folder))
        return self._record


def search(base: str, dataset: str, *, on_event: OnEvent | None = None, verbose: bool = False, **settings: Any) -> Run:
    """Search where attention helps in a network, and give the run back when it is done.

    Args:
        base: A timm model that can be a base, such as resnet50.
        dataset: digits, cifar10, cifar100, folder:DIR, torch/NAME, hfds/NAME or wds:DIR.
        on_event: Called with each event and decision.
        verbose: Whether Ray and the workers may print.
        settings: Those of `buildup search`, such as `epochs=6, seeds=2, run="demo"`.

    Raises:
        RequestError: The request is wrong, with all problems at once; nothing was written.
        SearchError: The search failed, or its base has not learned.
    """
    asked = _settings(SearchSettings, {"base": base, "dataset": dataset, **settings})
    return Run(run_search(asked, _observers(on_event), verbose=verbose).record)


def plan(base: str, dataset: str, **settings: Any) -> Plan:
    """Say what a search could train and cost, without training it. Settings: those of `buildup plan`."""
    return plan_search(_settings(SearchSettings, {"base": base, "dataset": dataset, **settings}))


def open_run(run: str | Path) -> Run:
    """Open a run by its name in `runs/`, or by its folder."""
    return Run(open_record(str(run)))


def read(base: str, *, input_size: int = 224, channels: int = 3, num_classes: int = 1000) -> Network:
    """The network of a timm model, traced without weights.

    Args:
        base: The model's name.
        input_size: Height and width of its images.
        channels: Of its images.
        num_classes: Of its classifier.
    """
    return read_base(base, input_shape=(channels, input_size, input_size), num_classes=num_classes)


def _settings(kind: type[Settings], values: dict[str, Any]) -> Settings:
    """Settings from keyword arguments; a name that is none of them is refused with those that are close."""
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type] # all of them are dataclasses
    if wrong := [name for name in values if name not in known]:
        raise RequestError(*(unknown("setting", name, known, shown=40) for name in wrong))
    return kind(**values)


def _observers(on_event: OnEvent | None) -> Callable[[Replay, RunRecord], Any]:
    def make(replay: Replay, run: RunRecord) -> Any:
        shown = observe(replay, run)
        return shown if on_event is None else CallbackObserver(observer=shown, on_event=on_event)

    return make


__all__ = ["Observer", "Plan", "Run", "build", "open_run", "plan", "read", "search"]
