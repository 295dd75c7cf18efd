"""One training in several processes, each with a GPU of its own and with its rows of every batch.

The effective batch stays that of one device: the same images in the same order, augmented and mixed by the same draws.
Gradients are averaged by torch's DistributedDataParallel, and batch norm takes its statistics over the rows of all
processes. So the result is that of one device, but for rounding and for the draws of dropout and dropped paths, which
each process makes for its own rows.

The process that asks for the training trains nothing. It starts the others, passes on what the first one reports, and
ends all of them when one fails: a process that waits for a dead one on a GPU would wait for minutes. The first process
alone writes files.
"""

import io
import multiprocessing
import os
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
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode

from buildup.errors import ResourceError
from buildup.trials.outcome import Epoch, Failed, Reason, Score

T = TypeVar("T")

ALIVE_INTERVAL = 1.0
"""Seconds between two looks whether all processes are alive."""
LAST_WORDS = 2.0
"""Seconds in which the other processes may tell their errors after the first one has. The earliest is the cause."""
LONGEST_WAIT = timedelta(minutes=30)
"""How long a process waits for the others, which may read their data at different speeds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessGroup:
    """The processes of a training, seen from one of them. One alone does nothing of all this."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def rows(self, batch: int) -> NDArray[np.int64]:
        """The rows of a batch of so many images that this process computes.

        Mixup mixes a batch with its reverse, so the two images of a pair are on one process, and the rows reversed are
        their partners.

        >>> [ProcessGroup(rank=rank, size=2).rows(7).tolist() for rank in (0, 1)]
        [[0, 1, 5, 6], [2, 3, 4]]
        """
        pairs = np.array_split(np.arange(batch // 2), self.size)[self.rank]
        middle = np.arange(batch // 2, batch - batch // 2)[: int(self.rank == self.size - 1)]
        return np.concatenate((pairs, middle, batch - 1 - pairs[::-1]))

    def sum(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """The sums of small tensors over all processes."""
        if self.size > 1:
            for tensor in tensors:
                distributed.all_reduce(tensor)
        return tensors

    def gather(self, value: T) -> list[T]:
        """The values of all processes, with their tensors on the host."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        distributed.all_gather_object(found, _packed(value))
        return [_unpacked(one) for one in found]

    def share(self, value: T) -> T:
        """The value of the first process, with its tensors on the host."""
        if self.size == 1:
            return value
        found = [_packed(value) if self.leads else b""]
        distributed.broadcast_object_list(found, src=0)
        return value if self.leads else _unpacked(found[0])

    def spread(self, model: nn.Module) -> nn.Module:
        """The model as the steps call it. Weights, buffers and their updates are the same on all processes."""
        if self.size == 1:
            return model
        for path, module in model.named_modules():
            if isinstance(module, _BatchNorm):
                forward = partial(_with_shared_statistics, module.forward)
                module.forward = forward  # type: ignore[method-assign]
            elif isinstance(getattr(module, "running_var", None), Tensor):
                raise ResourceError(
                    f"{path} is a {type(module).__name__}, whose statistics over a batch can't be taken over several "
                    "GPUs. Train this network with one GPU a training."
                )
        device = next(model.parameters()).device
        # A static graph may have parameters that get no gradient, as some of timm's models have.
        spread = DistributedDataParallel(model, [device] if device.type == "cuda" else None, static_graph=True)
        # Buffers need not be sent at each step: the statistics of batch norm are equal as they are.
        spread.require_forward_param_sync = False
        return spread


ALONE = ProcessGroup()


def in_processes(
    train: Callable[[ProcessGroup], Generator[Epoch, None, Score]], size: int, device: str, yielded: list[Epoch]
) -> Generator[Epoch, None, Score]:
    """Run a training in so many processes, yield the epochs of the first one and return its score.

    Args:
        train: Trains as one process of a group. It is sent to the processes.
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
                ranks[0].end_in_order()
                raise
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
        """Read a message; returns it if it belongs to the training."""
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

    def end_in_order(self) -> None:
        """Let the first process write the state after the last epoch, which takes as long as it takes."""
        with suppress(OSError):  # it has died meanwhile
            self.connection.send(False)
        self.process.join()


@contextmanager
def _started(
    train: Callable[[ProcessGroup], Generator[Epoch, None, Score]], size: int, device: str
) -> Iterator[list[_Rank]]:
    """The processes of a group. At the end none is left."""
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
    """The processes that have said something or ended, waiting for it for a time."""
    ready = wait([rank.connection for rank in ranks if not rank.finished], timeout)
    return [rank for rank in ranks if rank.connection in ready]


def _cause(ranks: Sequence[_Rank]) -> BaseException:
    """The first error, unless a process died: then all others failed for want of it."""
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


def _run_rank(
    train: Callable[[ProcessGroup], Generator[Epoch, None, Score]],
    group: ProcessGroup,
    device: str,
    folder: str,
    connection: Connection,
) -> None:
    """The main function of a process."""
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
    """An error that can be sent, with its traceback for people."""
    lines = "".join(traceback.format_exception(error))
    try:
        _unpacked(_packed(error))
    except Exception:  # noqa: BLE001 - whatever makes it unfit to be sent
        error = RuntimeError(f"{type(error).__name__}: {error}")
    if not isinstance(error, Failed):
        error.add_note(f"In a process of the training:\n{lines}")
    return error


def _packed(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _unpacked(data: bytes) -> Any:
    # What another process of this training packed, on this machine.
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=False)


def _with_shared_statistics(forward: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """The forward pass of a batch norm of torch or timm, with statistics over the rows of all processes."""
    with _SharedStatistics():
        return forward(images)


class _SharedStatistics(TorchFunctionMode):
    """Replaces `F.batch_norm`, which torch's and timm's classes of batch norm all call."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return (_batch_norm if func is F.batch_norm else func)(*args, **(kwargs or {}))


def _batch_norm(
    images: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`F.batch_norm` over the rows of all processes."""
    if not training:
        return F.batch_norm(images, running_mean, running_var, weight, bias, False, momentum, eps)
    found: Tensor
    found, mean, var, count = _SharedBatchNorm.apply(images, weight, bias, eps)
    if running_mean is not None and running_var is not None:
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(var * (count / (count - 1)), momentum)
    return found


class _SharedBatchNorm(torch.autograd.Function):
    """Normalises by the mean and the variance of all processes. torch's own SyncBatchNorm refuses a CPU."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, ...]:
        channels, axes = images.shape[1], _all_but_channels(images)
        var, mean = torch.var_mean(images.float(), axes, correction=0)
        own = torch.cat((mean, var, torch.full_like(mean[:1], images.numel() // channels)))
        everyone = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
        distributed.all_gather(everyone, own)
        means, variances, counts = torch.split(torch.stack(everyone), [channels, channels, 1], dim=1)
        count = counts.sum()
        mean = (means * counts).sum(0) / count
        var = ((variances + (means - mean).square()) * counts).sum(0) / count
        ctx.save_for_backward(images, weight, mean, var, count)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, var, count)
        return F.batch_norm(images, mean, var, weight, bias, False, 0.0, eps), mean, var, count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        images, weight, mean, var, count = ctx.saved_tensors
        axes, shape = _all_but_channels(images), (1, -1, *[1] * (images.ndim - 2))
        gradient, scale = gradients[0].float(), (var + ctx.eps).rsqrt()
        normed = (images.float() - mean.view(shape)) * scale.view(shape)
        own = torch.stack((gradient.sum(axes), (gradient * normed).sum(axes)))
        # The gradients of weight and bias are those of the own rows: they are summed like all others.
        distributed.all_reduce(total := own.clone())
        total = total / count
        centred = gradient - total[0].view(shape) - normed * total[1].view(shape)
        moved = centred * (scale if weight is None else scale * weight).view(shape)
        return moved.to(images.dtype), *((None, None) if weight is None else (own[1], own[0])), None


def _all_but_channels(images: Tensor) -> list[int]:
    return [0, *range(2, images.ndim)]
