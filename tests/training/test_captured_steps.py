"""A captured step is the eager one. The graph is a fake that replays on the CPU, so nothing here needs a GPU."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor

from buildup.graph.network import Network
from buildup.models.read import read_network
from buildup.training import train_step
from buildup.training.execution_words import Execution, Steps
from buildup.training.recipe import Recipe, load_recipe
from buildup.training.train_step import Stepper, create_training_model, make_optimizer, prepare_model
from fake_cuda import FakeCuda, fake_cuda

RATES = (0.02, 0.05, 0.01, 0.03)
SIZES = (8, 8, 6, 8)
"""Images of each step; the third is a smaller last batch."""
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Trained:
    """What a few steps leave."""

    tensors: dict[str, Tensor]
    """Weights, statistics of norms, and the state of the optimiser."""
    sums: list[float]
    """Loss and hits of each step."""


@pytest.fixture(autouse=True)
def cuda() -> Iterator[FakeCuda]:
    with fake_cuda(2) as found:
        yield found


@cache
def tiny() -> Network:
    narrow = {"channels": [8, 16, 16, 32], "stem_width": 8}
    return read_network("resnet10t", input_shape=(3, 16, 16), num_classes=5, base_args=narrow)


def recipe_of(name: str, **changes: Any) -> Recipe:
    return replace(load_recipe(name), batch_size=8, drop_path=0.0, **changes)


def train(recipe: Recipe, steps: Steps, *, parts: int = 1, device: str = "cuda:0", captures_at: int = 0) -> Trained:
    """Make a few steps, and capture before one of them."""
    execution, place = Execution(steps=steps), torch.device(device)
    model = prepare_model(create_training_model(tiny(), recipe, seed=0, device=place), tiny(), execution).train()
    optimizer = make_optimizer(model, recipe, execution)
    average = ModelEmaV3(model, recipe.ema, use_warmup=True) if recipe.ema else None
    stepper = Stepper(model, optimizer, recipe, execution, parts=parts, average=average)
    generator = torch.default_generator.__class__().manual_seed(0)
    sums: list[float] = []
    for number, (rate, size) in enumerate(zip(RATES, SIZES, strict=True)):
        inputs = torch.randn(size, 3, 16, 16, generator=generator).to(place)
        targets = torch.randn(size, 5, generator=generator).softmax(1).to(place)
        if number == captures_at:
            # As `fit` does it: with a batch that is not one of the training's.
            stepper.capture(torch.zeros(8, 3, 16, 16, device=place), torch.zeros(8, 5, device=place))
        stepper(inputs, targets, rate)
        sums += [total.item() for total in stepper.take_sums()]
    tensors = dict(model.state_dict())
    if average:
        tensors |= {f"average of {name}": value for name, value in average.module.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"{index}.{name}": value for name, value in state.items() if isinstance(value, Tensor)}
    return Trained(tensors={name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}, sums=sums)


def difference(one: Trained, other: Trained) -> float:
    """The largest difference of two trainings."""
    assert one.tensors.keys() == other.tensors.keys()
    gaps = [(one.tensors[name].double() - other.tensors[name].double()).abs().max().item() for name in one.tensors]
    return max([*gaps, *(abs(a - b) / 8 for a, b in zip(one.sums, other.sums, strict=True))])


CASES: dict[str, dict[str, Any]] = {
    "sgd": {"recipe": recipe_of("quick")},
    "adamw": {"recipe": recipe_of("quick-adamw")},
    "clipping": {"recipe": recipe_of("quick", clip_grad=0.5)},
    "two parts": {"recipe": recipe_of("quick"), "parts": 2},
    "adamw, clipping, two parts": {"recipe": recipe_of("quick-adamw", clip_grad=0.5), "parts": 2},
    "averaged weights": {"recipe": recipe_of("quick-adamw", ema=0.9)},
    "resumed, averaged weights": {"recipe": recipe_of("quick-adamw", ema=0.9), "captures_at": 1},
    "rates of layers": {"recipe": recipe_of("quick-adamw", layer_decay=0.5)},
    "the second device": {"recipe": recipe_of("quick"), "device": "cuda:1"},
    "resumed sgd": {"recipe": recipe_of("quick"), "captures_at": 1},
    "resumed adamw": {"recipe": recipe_of("quick-adamw"), "captures_at": 1},
}


@pytest.mark.parametrize("name", CASES)
def test_captured_steps_are_the_eager_ones(name: str, cuda: FakeCuda) -> None:
    eager, captured = (train(steps=steps, **CASES[name]) for steps in ("eager", "captured"))
    assert ("graph", 1 if "second" in name else 0) in cuda.calls
    assert difference(eager, captured) <= TOLERANCE
    assert any(value != 0 for value in captured.sums)


@pytest.mark.parametrize("size", [8, 6], ids=["a captured step", "an eager step"])
def test_weights_without_a_gradient_are_counted_alike(size: int) -> None:
    """Also those of blocks that another optimiser trained after the capture, as imitating ones, and left without."""
    counts = []
    for steps in ("eager", "captured"):
        place, recipe = torch.device("cuda:0"), recipe_of("quick")
        execution = Execution(steps=steps)
        model = prepare_model(create_training_model(tiny(), recipe, seed=0, device=place), tiny(), execution).train()
        stepper = Stepper(model, make_optimizer(model, recipe, execution), recipe, execution)
        stepper.capture(torch.zeros(8, 3, 16, 16, device=place), torch.zeros(8, 5, device=place))
        block = model.get_submodule("layer4.0")
        for module in block.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.zeros_(module.weight)
        for weight in block.parameters():
            weight.grad = None
        generator = torch.default_generator.__class__().manual_seed(0)
        inputs = torch.randn(size, 3, 16, 16, generator=generator).to(place)
        stepper(inputs, torch.randn(size, 5, generator=generator).softmax(1).to(place), 0.01)
        counts.append(stepper.dead_weights())
    assert counts[0] == counts[1] > 1


def host_rate(self: Stepper, inputs: Tensor, targets: Tensor, lr: float) -> None:
    """A mutant: the rate that the optimiser reads is a number of the host."""
    for group in self.optimizer.param_groups:
        group["lr"] = lr
    if self._captured is not None and inputs.shape == self._shape:
        self._captured.replay(inputs, targets)
    else:
        self._step(inputs, targets)


CAPTURE = Stepper.capture


def host_rate_capture(self: Stepper, inputs: Tensor, targets: Tensor) -> None:
    self._rates = [RATES[0]]  # type: ignore[list-item]
    CAPTURE(self, inputs, targets)


def unrestored(self: Stepper, inputs: Tensor, targets: Tensor) -> None:
    """A mutant: the optimiser's state that the warm-up left stays."""
    left: list[dict[Any, Any]] = []

    class Watched(train_step._Captured):
        def __init__(made, *arguments: Any) -> None:
            super().__init__(*arguments)
            left.extend(copy.deepcopy(list(self.optimizer.state.values())))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_step, "_Captured", Watched)
        CAPTURE(self, inputs, targets)
    for state, before in zip(self.optimizer.state.values(), left, strict=True):
        for name, value in before.items():
            state[name].copy_(value)


def uncopied(self: Any, inputs: Tensor, targets: Tensor) -> None:
    """A mutant: the graph reads the batch that it was captured with."""
    self._graph.replay()


@pytest.mark.parametrize("recipe", ["quick", "quick-adamw"])
@pytest.mark.parametrize("mutant", ["rate", "state", "inputs"])
def test_mutants_differ(mutant: str, recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = recipe_of(recipe)
    eager = train(settings, "eager")
    if mutant == "rate":
        monkeypatch.setattr(Stepper, "__call__", host_rate)
        monkeypatch.setattr(Stepper, "capture", host_rate_capture)
    elif mutant == "state":
        monkeypatch.setattr(Stepper, "capture", unrestored)
    else:
        monkeypatch.setattr(train_step._Captured, "replay", uncopied)
    assert difference(eager, train(settings, "captured")) > 100 * TOLERANCE
