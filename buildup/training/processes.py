"""Starts the processes of one training and ends them; `data_parallel.py` is what they do together.

The process that asks for the training trains nothing. It starts the others, passes on what the first one reports, and
ends all of them when one fails: a process that waits for a dead one on a GPU would wait for minutes. The first process
alone writes files.
"""

import multiprocessing
import os
import pickle
import signal
import socket
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from torch import distributed

from buildup.training.data_parallel import ProcessGroup
from buildup.trials.outcome import Epoch, Failed, Reason, Score

_Train = Callable[[ProcessGroup], Generator[Epoch, None, Score]]
"""Trains as one process of a group."""

ALIVE_INTERVAL = 1.0
"""Seconds between two looks whether all processes are alive."""
LAST_WORDS = 2.0
"""Seconds in which the other processes may tell their errors after the first one has. The earliest is the cause."""
LONGEST_WAIT = timedelta(minutes=30)
"""How long a process waits for the others, which may read their data at different speeds."""


def in_processes(train: _Train, size: int, device: str, yielded: list[Epoch]) -> Generator[Epoch, None, Score]:
    """Run a training in so many processes, yield the epochs of the first one and return its score.

    Args:
        train: Trains as one of them. It is sent to each.
        size: How many processes there are.
        device: `cpu`, or `cuda` for the first GPUs that this process sees.
        yielded: Gets each epoch before it is yielded.

    Raises:
        Failed: A process died.
    """
    with _started(train, size, device) as ranks:
        while isinstance(update := _next_update(ranks), Epoch):
            yielded.append(update)
            try:
                yield update
            except GeneratorExit:
                # The first process writes the state after the last epoch, which takes as long as it takes.
                with suppress(OSError):  # it has died meanwhile
                    ranks[0].connection.send(False)
                ranks[0].process.join()
                raise
            with suppress(OSError):  # it has died, which the next look tells
                ranks[0].connection.send(True)
        assert isinstance(update, Score)
        return update


@dataclass(frozen=True, slots=True, kw_only=True)
class _Raised:
    """An exception of a process, and when it was raised: others follow when a process no longer takes part."""

    error: BaseException
    at: float


@dataclass(slots=True, kw_only=True)
class _Rank:
    """A process of the group, as the one that started them sees it."""

    process: BaseProcess
    connection: Connection
    raised: _Raised | None = None
    finished: bool = False

    def receive(self) -> Epoch | Score | None:
        """Read an epoch or the score. None for an error, which is kept, and for a process that has ended."""
        try:
            message = self.connection.recv()
        except (EOFError, OSError):  # it has ended
            self.finished = True
            return None
        if isinstance(message, _Raised):
            self.raised = message
            return None
        assert isinstance(message, Epoch | Score)
        return message


@contextmanager
def _started(train: _Train, size: int, device: str) -> Iterator[list[_Rank]]:
    context = multiprocessing.get_context("spawn")
    ranks: list[_Rank] = []
    with tempfile.TemporaryDirectory(prefix="buildup-ranks-", ignore_cleanup_errors=True) as folder:
        try:
            for number in range(size):
                ours, theirs = context.Pipe()
                arguments = (train, ProcessGroup(rank=number, size=size), device, folder, theirs)
                process = context.Process(target=_run_rank, args=arguments, name=f"rank {number}")
                process.start()
                theirs.close()
                ranks.append(_Rank(process=process, connection=ours))
            yield ranks
        finally:
            for rank in ranks:
                rank.process.kill()
            for rank in ranks:
                rank.process.join()
                rank.connection.close()


def _next_update(ranks: Sequence[_Rank]) -> Epoch | Score:
    """What the first process reports next. Raises the error of the process that failed first."""
    while True:
        for rank in _with_messages(ranks, ALIVE_INTERVAL):
            if update := rank.receive():
                return update
        if any(rank.raised or rank.process.exitcode for rank in ranks) or ranks[0].finished:
            raise _cause(ranks)


def _with_messages(ranks: Sequence[_Rank], timeout: float) -> list[_Rank]:
    """The processes that have sent a message or ended, after a wait of at most `timeout` seconds."""
    ready = wait([rank.connection for rank in ranks if not rank.finished], timeout)
    return [rank for rank in ranks if rank.connection in ready]


def _cause(ranks: Sequence[_Rank]) -> BaseException:
    """The earliest error; but if a process died, its death, since the others failed for lack of it."""
    end = time.monotonic() + LAST_WORDS
    while time.monotonic() < end and any(rank.process.is_alive() for rank in ranks):
        for rank in _with_messages(ranks, 0.1):
            rank.receive()
    for number, rank in enumerate(ranks, start=1):
        code = rank.process.exitcode or 0
        if not rank.raised and (code or (rank is ranks[0] and rank.finished)):
            how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
            return Failed(
                Reason.LOST, f"process {number} of {len(ranks)} of the training (pid {rank.process.pid}) ended {how}"
            )
    return min((rank.raised for rank in ranks if rank.raised), key=lambda raised: raised.at).error


def _run_rank(train: _Train, group: ProcessGroup, device: str, folder: str, connection: Connection) -> None:
    # A Ctrl-C or a stop that reaches all processes is for the one that started them, which ends them in order.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    # It comes with networks of one channel, and says of itself that it is no error.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    try:
        _join(group, device, folder)
        with closing(train(group)) as steps:
            _report(steps, connection if group.leads else None)
    except BaseException as error:  # noqa: BLE001 - whatever it is, the process that started this one raises it
        connection.send(_Raised(error=_told(error), at=time.monotonic()))
    # Without the ends of threads and streams, which may wait for the other processes.
    connection.close()
    os._exit(0)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _join(group: ProcessGroup, device: str, folder: str) -> None:
    """Meet the other processes, which are all on this machine: no other one can reach them."""
    names = {name for _, name in socket.if_nameindex()}
    for loopback in ("lo", "lo0"):
        if loopback in names:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", loopback)
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(group.rank)
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        init_method=f"file://{Path(folder) / 'meeting'}",
        rank=group.rank,
        world_size=group.size,
        timeout=LONGEST_WAIT,
    )


def _report(steps: Generator[Epoch, None, Score], connection: Connection | None) -> None:
    """Follow a training to its end. Each epoch is reported, and the next one begins when that is asked for."""
    while True:
        try:
            epoch = next(steps)
        except StopIteration as end:
            if connection:
                connection.send(end.value)
            return
        if connection:
            connection.send(epoch)
            if not connection.recv():
                return


def _told(error: BaseException) -> BaseException:
    """The error in a form that can be pickled; unless it is a `Failed`, with its traceback as a note."""
    lines = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - whatever makes it unfit to be sent
        error = RuntimeError(f"{type(error).__name__}: {error}")
    if not isinstance(error, Failed):
        error.add_note(f"In a process of the training:\n{lines}")
    return error
