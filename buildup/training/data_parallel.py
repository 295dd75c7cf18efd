"""The processes of one training, each with a GPU of its own and with its rows of every batch.

The effective batch stays that of one device: the same images in the same order, augmented and mixed by the same draws.
Gradients are averaged by torch's DistributedDataParallel, and batch norm takes its statistics over the rows of all
processes. So the result is that of one device, but for rounding and for the draws of dropout and dropped paths, which
each process makes for its own rows.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from timm.layers.norm_act import FrozenBatchNormAct2d
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode

from buildup.errors import ResourceError

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessGroup:
    """The processes of a training, seen from one of them. A process alone communicates nothing."""

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
        """Sum small tensors over all processes, in place."""
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
            elif getattr(module, "running_var", None) is not None and not isinstance(module, FrozenBatchNormAct2d):
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


def _packed(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _unpacked(data: bytes) -> Any:
    # What another process of this training packed, on this machine.
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=False)


def _with_shared_statistics(forward: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
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
