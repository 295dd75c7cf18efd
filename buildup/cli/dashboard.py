"""`dashboard`: optuna-dashboard on one run, for this machine only unless asked otherwise."""

import sys
from collections.abc import Mapping
from contextlib import suppress
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna_dashboard

from buildup.cli.signals import interruptible
from buildup.engine.problems import Problems
from buildup.errors import ResourceError
from buildup.store.run_record import open_run
from buildup.store.storage import artifact_store
from buildup.store.study_reader import existing_storage

LOCAL = ("127.0.0.1", "localhost", "::1")


def dashboard(flags: Mapping[str, Any]) -> int:
    """Serve until interrupted."""
    run = open_run(flags["run"])
    problems = Problems()
    port = problems.whole("--port", flags["port"], 8080, most=65535)
    problems.raise_any()
    host = flags["host"] or LOCAL[0]
    if host not in LOCAL:
        print(f"warning: {host} lets others on the network read and change this study.", file=sys.stderr)
    with existing_storage(run.folder, run.settings.storage) as storage:
        app = optuna_dashboard.wsgi(storage, artifact_store(run.folder))
        try:
            server = make_server(host, port, app, _Server, _QuietHandler)
        except OSError as problem:
            raise ResourceError(
                f"http://{host}:{port} can't be served: {problem.strerror}. Give another --port."
            ) from None
        with server, suppress(KeyboardInterrupt), interruptible():
            print(f"{run.folder}: http://{host}:{port}/dashboard  (Ctrl-C ends it)", file=sys.stderr, flush=True)
            server.serve_forever()
    return 0


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each request: browsers open connections ahead, and wsgiref takes what is raised in a request for
    that request's failure, so a Ctrl-C that arrived in one would be lost."""

    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    """Says nothing of each request."""

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""
