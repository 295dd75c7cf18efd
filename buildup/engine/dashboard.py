"""Serve optuna-dashboard for one run."""

import io
import logging
import os
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any, BinaryIO, cast
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import optuna_dashboard
from optuna.artifacts import FileSystemArtifactStore
from optuna.storages import BaseStorage

from buildup.engine.problems import Problems
from buildup.engine.reports import report_of
from buildup.errors import ResourceError
from buildup.report.graphs import review_graphs
from buildup.report.page import page
from buildup.store.review import REPORT, ReviewSettings, ReviewStorage
from buildup.store.run_record import RunRecord, open_record
from buildup.store.storage import artifact_store
from buildup.store.study_reader import existing_storage, load_study, reporting_damage
from buildup.strategies.registered import STRATEGIES

log = logging.getLogger("buildup")

LOCAL = ("127.0.0.1", "localhost", "::1")


def serve_dashboard(run: str, *, host: str, port: int) -> None:
    record = open_record(run)
    problems = Problems()
    port = problems.whole("--port", port, 0, most=65535)
    problems.raise_any()
    if host not in LOCAL:
        log.warning(f"warning: {host} lets others on the network read and change this study.")
    with existing_storage(record.folder, record.settings.storage) as storage:
        review = review_of(record, storage)
        # It has all methods of an Optuna storage and is registered as one, which mypy cannot know.
        app = _with_content(optuna_dashboard.wsgi(cast(BaseStorage, review), Files(record)))
        try:
            server = make_server(host, port, app, _Server, _QuietHandler)
        except OSError as problem:
            message = f"http://{host}:{port} can't be served: {problem.strerror}. Give another --port."
            raise ResourceError(message) from None
        with server:
            log.info(f"{record.folder}: http://{host}:{port}/dashboard/studies/{review.networks_id}  (Ctrl-C ends it)")
            server.serve_forever()


def review_of(run: RunRecord, storage: BaseStorage) -> ReviewStorage:
    limits = {"params": run.settings.max_params, "macs": run.settings.max_macs}
    settings = ReviewSettings(
        revision=len(run.earlier),
        epochs=run.other_epochs,
        params=not STRATEGIES[run.settings.strategy].builds_up,
        limits={name: int(limit) for name, limit in limits.items() if limit is not None},
    )
    with reporting_damage(run.folder, run.settings.storage):
        study = load_study(storage, run.settings.storage, run.study_name)
    return ReviewStorage(storage, study, settings, review_graphs)


def _with_content(app: WSGIApplication) -> WSGIApplication:
    """Give answers without content some: the dashboard's page takes them for errors and keeps its editor open."""

    def answer(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        begun: list[Any] = []

        def begin(*status: Any) -> Callable[[bytes], object]:
            begun.append(status)
            return bytes

        content = app(environ, begin)
        if begun[0][0].startswith("204"):
            start("200 OK", [("Content-Type", "application/json"), ("Content-Length", "2")])
            return [b"{}"]
        start(*begun[0])
        return content

    return answer


class Files:
    """The diagrams of a run, and its report as it is now."""

    def __init__(self, run: RunRecord) -> None:
        self._run = run
        self._store: FileSystemArtifactStore = artifact_store(run.folder)

    def open_reader(self, artifact_id: str) -> BinaryIO:
        if artifact_id == REPORT:
            return io.BytesIO(page(report_of(open_record(str(self._run.folder)))).encode())
        return self._store.open_reader(artifact_id)

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        raise PermissionError(f"{self._run.folder}: files can't be added to a run")

    def remove(self, artifact_id: str) -> None:
        raise PermissionError(f"{self._run.folder}: the files of a run can't be removed")


class _Server(ThreadingMixIn, WSGIServer):
    """Handles each request in its own thread.

    Browsers open connections ahead of use, which would block a single thread. And wsgiref reports all exceptions of a
    request as its failure, so a Ctrl-C in the main thread would be lost.
    """

    daemon_threads = True
    allow_reuse_address = os.name != "nt"
    """On Windows, two servers would share a port."""


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Do not log requests."""
