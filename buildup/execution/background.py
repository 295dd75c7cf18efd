"""Functions in threads that end with the process."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Value = TypeVar("Value")


def in_thread(function: Callable[..., Value], *arguments: object) -> "Future[Value]":
    """Run a function in a thread that does not keep the process alive."""
    future: Future[Value] = Future()

    def run() -> None:
        try:
            future.set_result(function(*arguments))
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
            future.set_exception(error)

    threading.Thread(target=run, name=function.__name__, daemon=True).start()
    return future
