"""Serve optuna-dashboard for one run."""

import logging
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna_dashboard

from buildup.engine.problems import Problems
from buildup.errors import ResourceError
from buildup.store.run_record import open_record
from buildup.store.storage import artifact_store
from buildup.store.study_reader import existing_storage

logger = logging.getLogger("buildup")

LOCAL = ("127.0.0.1", "localhost", "::1")


def serve_dashboard(run: str, *, host: str = LOCAL[0], port: int = 8080) -> None:
    """Serve the study of a run until interrupted."""
    record = open_record(run)
    problems = Problems()
    port = problems.whole("--port", port, 8080, most=65535)
    problems.raise_any()
    if host not in LOCAL:
        logger.warning(f"warning: {host} lets others on the network read and change this study.")
    with existing_storage(record.folder, record.settings.storage) as storage:
        app = optuna_dashboard.wsgi(storage, artifact_store(record.folder))
        try:
            server = make_server(host, port, app, _Server, _QuietHandler)
        except OSError as problem:
            message = f"http://{host}:{port} can't be served: {problem.strerror}. Give another --port."
            raise ResourceError(message) from None
        with server:
            logger.info(f"{record.folder}: http://{host}:{port}/dashboard  (Ctrl-C ends it)")
            server.serve_forever()


class _Server(ThreadingMixIn, WSGIServer):
    """Handles each request in its own thread.

    Browsers open connections ahead of use, which would block a single thread. And wsgiref reports all exceptions of a
    request as its failure, so a Ctrl-C in the main thread would be lost.
    """

    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Do not log requests."""
