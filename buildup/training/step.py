"""One step of training: forward, backward, update, and the sums that an epoch reports. It never waits for the device.

On a GPU a step can be captured once as a CUDA graph and replayed: at 96 images of 32 px a ResNet-50 step took 22 ms
launched kernel by kernel and 6.2 ms compiled and captured (H200, torch 2.11).
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from buildup.graph.network import Network
from buildup.models.build import build
from buildup.models.dropout import add_dropout
from buildup.models.pretrained import Pretrained
from buildup.training.execution import Execution
from buildup.training.recipe import Recipe

WARM_UP = 3
"""Steps before a capture: kernels are chosen and buffers made in them."""


def create_training_model(
    network: Network,
    recipe: Recipe,
    *,
    seed: int,
    device: torch.device,
    start: Pretrained | None = None,
) -> nn.Module:
    """The model that a recipe trains: that of the network, with what the recipe drops of it in each step."""
    extra: dict[str, Any] = {"drop_path_rate": recipe.drop_path} if recipe.drop_path else {}
    model = build(network, seed=seed, device=device, start=start, **extra)
    if recipe.dropout:
        add_dropout(model, network, recipe.dropout)
    return model


def prepare(model: nn.Module, network: Network, execution: Execution) -> nn.Module:
    """A model made ready for an execution, in place."""
    if execution.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if execution.steps == "compiled":
        # Block by block, so that candidates that differ in one block find the others in torch's cache.
        for block in network.blocks:
            model.get_submodule(block.path).compile(dynamic=False)
    return model


def laid_out(images: Tensor, execution: Execution) -> Tensor:
    """Images in memory as the execution says."""
    return images.contiguous(memory_format=torch.channels_last if execution.channels_last else torch.contiguous_format)


def make_optimizer(model: nn.Module, recipe: Recipe, execution: Execution) -> torch.optim.Optimizer:
    """The optimiser of a recipe. Decay is for every parameter, norms and biases too, as in the paper."""
    device = next(model.parameters()).device
    captured = execution.steps != "eager"
    # A captured step reads the rate from the device, where each step puts it.
    rate = torch.tensor(recipe.lr, device=device) if captured else recipe.lr
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(),
            lr=rate,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
    return torch.optim.AdamW(
        model.parameters(),
        lr=rate,
        betas=recipe.betas,
        eps=recipe.eps,
        weight_decay=recipe.weight_decay,
        fused=True,
        capturable=captured,
    )


class Stepper:
    """Makes the steps of one training."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        recipe: Recipe,
        execution: Execution,
        *,
        parts: int = 1,
    ) -> None:
        """Nothing is computed yet.

        Args:
            model: In training mode, on its device, its memory laid out as the execution says.
            optimizer: Made by `make_optimizer` for the same execution.
            recipe: For the clipping.
            execution: How.
            parts: Micro-batches that a batch is cut into; their gradients are added up before the update.
        """
        self.model = model
        self.optimizer = optimizer
        self._clip = recipe.clip_grad
        self._execution = execution
        self._parts = parts
        self._device = next(model.parameters()).device
        self._loss, self._hits = torch.zeros((), device=self._device), torch.zeros((), device=self._device)
        self._rate = None if execution.steps == "eager" else torch.zeros((), device=self._device)
        self._captured: _Captured | None = None

    def __call__(self, inputs: Tensor, targets: Tensor, lr: float) -> None:
        """One step on a batch."""
        if self._rate is not None:
            self._rate.fill_(lr)
        for group in self.optimizer.param_groups:
            group["lr"] = lr if self._rate is None else self._rate
        if self._captured is not None and inputs.shape == self._captured.inputs.shape:
            self._captured.replay(inputs, targets)
        else:  # also for a smaller last batch
            self._step(inputs, targets)

    def take_sums(self) -> tuple[Tensor, Tensor]:
        """Summed losses and hits of the images since the last time, still on the device."""
        taken = self._loss.clone(), self._hits.clone()
        self._loss.zero_()
        self._hits.zero_()
        return taken

    def dead_weights(self) -> int:
        """How many weight tensors got a gradient of nothing but zeros in the last step: no later step can wake them."""
        gradients = [
            parameter.grad for parameter in self.model.parameters() if parameter.ndim > 1 and parameter.grad is not None
        ]
        return sum(not value for value in torch.stack([gradient.any() for gradient in gradients]).tolist())

    def capture(self, inputs: Tensor, targets: Tensor) -> None:
        """Record a step on batches of this form. Weights and optimiser are afterwards as they were."""
        if self._execution.steps == "eager" or self._device.type != "cuda":
            return
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate
        before = copy.deepcopy((self.model.state_dict(), self.optimizer.state_dict()["state"]))
        self._captured = _Captured(self._step, laid_out(inputs, self._execution), targets)
        self._restore(*before)
        self.take_sums()

    def _step(self, inputs: Tensor, targets: Tensor) -> None:
        self.optimizer.zero_grad()
        inputs = laid_out(inputs, self._execution)
        for some, their in zip(inputs.chunk(self._parts), targets.chunk(self._parts), strict=True):
            # Without the cache of casts: a captured step would keep those of its first run.
            with torch.autocast(
                self._device.type,
                torch.bfloat16,
                enabled=self._execution.precision == "bf16",
                cache_enabled=self._execution.steps == "eager",
            ):
                logits = self.model(some)
            loss = F.cross_entropy(logits.float(), their, reduction="sum")
            (loss / len(inputs)).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            self._loss += loss.detach()
            self._hits += (logits.detach().argmax(1) == their.argmax(1)).sum()
        if self._clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self._clip)
        self.optimizer.step()

    def _restore(self, weights: dict[str, Tensor], state: dict[int, dict[str, Tensor]]) -> None:
        """In place, for the graph knows these very tensors."""
        with torch.no_grad():
            for name, tensor in self.model.state_dict().items():
                tensor.copy_(weights[name])
            parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
            for index, parameter in enumerate(parameters):
                for name, tensor in self.optimizer.state[parameter].items():
                    if isinstance(tensor, Tensor):
                        # What the warm-up made was not there before: momentum and its kin start at zero.
                        if index in state:
                            tensor.copy_(state[index][name])
                        else:
                            tensor.zero_()


class _Captured:
    """A step as a CUDA graph."""

    def __init__(self, step: Callable[[Tensor, Tensor], None], inputs: Tensor, targets: Tensor) -> None:
        self.inputs, self._targets = inputs.clone(memory_format=torch.preserve_format), targets.clone()
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                step(self.inputs, self._targets)
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            step(self.inputs, self._targets)

    def replay(self, inputs: Tensor, targets: Tensor) -> None:
        self.inputs.copy_(inputs)
        self._targets.copy_(targets)
        self._graph.replay()
