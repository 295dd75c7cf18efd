"""One training step: forward, backward, update, and sums of loss and hits. It never waits for the device.

On a GPU a step can be captured once as a CUDA graph and replayed: at 96 images of 32 px a ResNet-50 step took 22 ms
launched kernel by kernel and 6.2 ms compiled and captured (H200, torch 2.11).
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.optim._param_groups import param_groups_layer_decay
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.nn import functional as F

from buildup.errors import RecipeError
from buildup.graph.network import Network
from buildup.models.build import build
from buildup.models.dropout import add_dropout
from buildup.training.data_parallel import ALONE, ProcessGroup
from buildup.training.execution import no_kernel_search
from buildup.training.execution_words import Execution
from buildup.training.recipe import Recipe
from buildup.trials.training import Pretrained

WARM_UP = 3
"""Steps before a capture, in which kernels are chosen and buffers made."""
VARIANTS = 4096
"""The most compiled variants of a function. Every shape of a block and every rate of dropped paths is one, in all
candidates that a process trains; beyond torch's own limit of 8 it leaves blocks uncompiled, without an error."""


def create_training_model(
    network: Network, recipe: Recipe, *, seed: int, device: torch.device, start: Pretrained | None = None
) -> nn.Module:
    extra: dict[str, Any] = {"drop_path_rate": recipe.drop_path} if recipe.drop_path else {}
    try:
        model = build(network, seed=seed, device=device, start=start, **extra)
    except TypeError as error:
        if "drop_path_rate" not in str(error):
            raise
        raise RecipeError(
            f"recipe {recipe.name} drops paths (drop_path: {recipe.drop_path:g}), and timm's {network.base} can't. "
            "Use a recipe without drop_path."
        ) from None
    if recipe.dropout:
        add_dropout(model, network, recipe.dropout)
    return model


@torch.no_grad()
def nudge(model: nn.Module) -> None:
    for weight in model.parameters():
        weight.copy_(torch.nextafter(weight, torch.full_like(weight, torch.inf)))


def renew_last_block(model: nn.Module, network: Network, seed: int) -> None:
    path = network.stages[-1].blocks[-1].path
    drawn = build(network, seed=seed).get_submodule(path)
    model.get_submodule(path).load_state_dict(drawn.state_dict())


def prepare_model(model: nn.Module, network: Network, execution: Execution) -> nn.Module:
    """Give a model, in place, the memory format of an execution, and compile its blocks if that asks for it."""
    if execution.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if execution.steps == "compiled":
        limits: Any = torch._dynamo.config
        limits.recompile_limit = max(limits.recompile_limit, VARIANTS)
        limits.accumulated_recompile_limit = max(limits.accumulated_recompile_limit, VARIANTS)
        # Else every worker starts up to 32 processes to compile in.
        inductor: Any = torch._inductor.config
        inductor.compile_threads = min(inductor.compile_threads or 1, torch.get_num_threads())
        # Block by block, so that candidates that differ in one block share the others in torch's cache.
        for block in network.blocks:
            model.get_submodule(block.path).compile(dynamic=False)
    return model


def to_memory_format(images: Tensor, execution: Execution) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last if execution.channels_last else torch.contiguous_format)


def make_optimizer(model: nn.Module, recipe: Recipe, execution: Execution) -> torch.optim.Optimizer:
    """The optimiser of a recipe. Decay is for every parameter, norms and biases too, as in the paper."""
    captured = execution.steps != "eager"
    settings: dict[str, Any] = {
        # A captured step reads the rate from the device, where each step writes it.
        "lr": torch.tensor(recipe.lr, device=next(model.parameters()).device) if captured else recipe.lr,
        "weight_decay": recipe.weight_decay,
        "fused": True,
    }
    weights: Any = model.parameters()
    if recipe.layer_decay < 1:
        weights = param_groups_layer_decay(
            model, recipe.weight_decay, weight_decay_exclude_1d=False, layer_decay=recipe.layer_decay
        )
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(weights, momentum=recipe.momentum, nesterov=recipe.nesterov, **settings)
    return torch.optim.AdamW(weights, betas=recipe.betas, eps=recipe.eps, capturable=captured, **settings)


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
        group: ProcessGroup = ALONE,
        average: ModelEmaV3 | None = None,
    ) -> None:
        """Set up the steps without computing anything.

        Model and optimiser come from `prepare_model` and `make_optimizer` for the same execution. `parts` is the number
        of micro-batches of a batch, whose gradients are summed before the update. `group` are the processes that make
        the steps together, which are eager then. Each step updates the `average` of the weights, if there is one.
        """
        self.model = model
        self.kept: nn.Module = model if average is None else average.module
        """What is validated and kept: the model, or the average of its weights."""
        self.made = 0
        """How many steps were made from the start of the training on."""
        self._average = average
        self.images: int | None = None
        """How many images the next batch has over all processes, if they are not all in the inputs."""
        self._spread = group.spread(model)
        self._group = group
        self.optimizer = optimizer
        self._clip = recipe.clip_grad
        self._execution = execution
        self._parts = parts
        self._device = next(model.parameters()).device
        self._loss, self._hits = torch.zeros((), device=self._device), torch.zeros((), device=self._device)
        self._rates = [
            None if execution.steps == "eager" else torch.zeros((), device=self._device) for _ in optimizer.param_groups
        ]
        self._captured: _Captured | None = None
        self._replayed = False
        """Whether the last step was a captured one."""
        self._shape: torch.Size | None = None

    def __call__(self, inputs: Tensor, targets: Tensor, lr: float) -> None:
        """Make one step on a batch, or on this process' rows of it."""
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            own = lr * group.get("lr_scale", 1)
            group["lr"] = own if rate is None else rate.fill_(own)
        self._shape = self._shape or inputs.shape
        self._replayed = self._captured is not None and inputs.shape == self._shape
        if inputs.shape == self._shape:
            (self._captured.replay if self._captured else self._step)(inputs, targets)
        else:
            # Compiling blocks and searching for kernels for a smaller last batch would take longer than its steps.
            with torch.compiler.set_stance("force_eager"), no_kernel_search():
                self._step(inputs, targets)
        self.made += 1
        if self._average is not None:
            self._average.update(self.model, self.made)

    def take_sums(self) -> tuple[Tensor, Tensor]:
        """The losses and hits since the last call, summed over all processes, on the device."""
        taken = self._loss.clone(), self._hits.clone()
        self._loss.zero_()
        self._hits.zero_()
        self._group.sum(taken)
        return taken

    def dead_weights(self) -> int:
        """How many weight tensors had a gradient of zeros in the last step, from which no later step recovers."""
        gradients = self._captured.gradients if self._captured and self._replayed else _gradients(self.model)
        return sum(not value for value in torch.stack([gradient.any() for gradient in gradients]).tolist())

    def capture(self, inputs: Tensor, targets: Tensor) -> None:
        """Record a step as a CUDA graph for batches of this shape. Weights and optimiser are restored afterwards."""
        self._shape = inputs.shape
        if self._execution.steps == "eager" or self._device.type != "cuda":
            return
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate
        weights, state = copy.deepcopy((self.model.state_dict(), self.optimizer.state_dict()["state"]))
        # Streams and graphs belong to the current device, which need not be that of the model.
        with torch.cuda.device(self._device):
            self._captured = _Captured(self._step, to_memory_format(inputs, self._execution), targets)
            self._captured.gradients = _gradients(self.model)
        # In place, because the graph holds these tensors.
        with torch.no_grad():
            for name, tensor in self.model.state_dict().items():
                tensor.copy_(weights[name])
            parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
            for index, parameter in enumerate(parameters):
                for name, tensor in self.optimizer.state[parameter].items():
                    if isinstance(tensor, Tensor):
                        # State that only the warm-up made, such as momentum, starts at zero.
                        if index in state:
                            tensor.copy_(state[index][name])
                        else:
                            tensor.zero_()
        self.take_sums()

    def _step(self, inputs: Tensor, targets: Tensor) -> None:
        self.optimizer.zero_grad()
        inputs = to_memory_format(inputs, self._execution)
        # Gradients are averaged over the processes.
        images = len(inputs) if self.images is None else self.images / self._group.size
        for part, part_targets in zip(inputs.chunk(self._parts), targets.chunk(self._parts), strict=True):
            # A captured step must not reuse the casts of its first run.
            with torch.autocast(
                self._device.type,
                torch.bfloat16,
                enabled=self._execution.precision == "bf16",
                cache_enabled=self._execution.steps == "eager",
            ):
                logits = self._spread(part)
            loss = F.cross_entropy(logits.float(), part_targets, reduction="sum")
            (loss / images).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            self._loss += loss.detach()
            self._hits += (logits.detach().argmax(1) == part_targets.argmax(1)).sum()
        if self._clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self._clip)
        self.optimizer.step()


def _gradients(model: nn.Module) -> list[Tensor]:
    """Those of a model's weights, without vectors."""
    return [weight.grad for weight in model.parameters() if weight.ndim > 1 and weight.grad is not None]


class _Captured:
    """A step as a CUDA graph."""

    gradients: Sequence[Tensor] = ()
    """What replays write. The weights may have lost them since, by another optimiser."""

    def __init__(self, step: Callable[[Tensor, Tensor], None], inputs: Tensor, targets: Tensor) -> None:
        self._inputs, self._targets = inputs.clone(memory_format=torch.preserve_format), targets.clone()
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                step(self._inputs, self._targets)
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        # Its default stream belongs to the device of the first capture of the process.
        with torch.cuda.graph(self._graph, stream=aside):
            step(self._inputs, self._targets)

    def replay(self, inputs: Tensor, targets: Tensor) -> None:
        self._inputs.copy_(inputs)
        self._targets.copy_(targets)
        self._graph.replay()
