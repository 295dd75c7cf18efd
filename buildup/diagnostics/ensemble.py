"""Monte Carlo dropout (paper.md 9): predictions averaged over passes in which values are dropped as in the training.

All else is as in evaluation mode. Each dropout has a generator of its own for each pass, from which the images take
their draws in their order, so the size of the batches changes nothing (on a CPU; a GPU draws in blocks).
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from buildup.diagnostics.hooks import evaluating
from buildup.diagnostics.predictions import Labelled
from buildup.training.metrics import Metrics, measure


def drops(model: nn.Module) -> dict[str, nn.Dropout]:
    """The places of a model where values are dropped, by their paths."""
    return {path: module for path, module in model.named_modules() if isinstance(module, nn.Dropout) and module.p}


def ensemble(model: nn.Module, batches: Callable[[], Labelled], passes: int, *, seed: int) -> Iterator[Metrics]:
    """What the mean probabilities of the first 1, 2, ... passes are worth.

    Args:
        model: On the device where it is to run; its mode and weights stay as they are.
        batches: The same images, each time it is called.
        passes: How many passes there are.
        seed: Of what is dropped.
    """
    summed: Tensor | None = None
    for number in range(passes):
        found, labels = [], []
        with torch.no_grad(), evaluating(model), dropping(model, f"{seed}/{number}"):
            for images, own in batches():
                logits = model(images.to(next(model.parameters()).device))
                found.append(logits.cpu().double().log_softmax(1))
                labels.append(own)
        # Of logarithms, or a probability that float32 has no number for would become zero.
        summed = torch.cat(found) if summed is None else torch.logaddexp(summed, torch.cat(found))
        yield measure(summed, torch.cat(labels))


@contextmanager
def dropping(model: nn.Module, seed: str) -> Iterator[None]:
    """Drop values at every dropout of a model in evaluation mode, from draws of their own."""
    device = next(model.parameters()).device
    with ExitStack() as stack:
        for path, module in drops(model).items():
            stack.enter_context(module.register_forward_hook(_drop(module.p, f"{seed}/{path}", device)))
        yield


def _drop(rate: float, seed: str, device: torch.device) -> Callable[..., Tensor]:
    number = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8])
    generator = torch.Generator(device).manual_seed(number)

    def hook(module: nn.Module, args: Any, result: Tensor) -> Tensor:
        kept = torch.rand(result.shape, generator=generator, device=device) >= rate
        return result * kept / (1 - rate)

    return hook
