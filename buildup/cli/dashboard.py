"""`dashboard`: optuna-dashboard on one run."""

from contextlib import suppress

from buildup.cli.signals import interruptible


def dashboard(run: str, /, *, host: str = "127.0.0.1", port: int = 8080) -> int:
    """Show a run in optuna-dashboard, for this machine only.

    Example: buildup dashboard demo --port 8080

    Args:
        run: A name in runs/, or a run's folder.
        host: Address to listen on.
        port: Port to listen on.
    """
    from buildup.engine.dashboard import serve_dashboard

    with suppress(KeyboardInterrupt), interruptible():
        serve_dashboard(run, host=host, port=port)
    return 0
