"""`dashboard`: optuna-dashboard on one run."""

from contextlib import suppress

from buildup.cli.output import RunName, interruptible


def dashboard(run: RunName, /, *, host: str = "127.0.0.1", port: int = 8080) -> int:
    """Show a run in optuna-dashboard, for this machine only.

    Example: buildup dashboard demo --port 8080

    Args:
        host: Address to listen on.
        port: Port to listen on.
    """
    from buildup.engine.dashboard import serve_dashboard

    with suppress(KeyboardInterrupt), interruptible():
        serve_dashboard(run, host=host, port=port)
    return 0
