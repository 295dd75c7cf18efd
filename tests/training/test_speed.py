"""The execution follows from recipe and device, and whatever it is, the same training comes out."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from buildup.graph.network import Network
from buildup.models.build import build
from buildup.models.read import read_network
from buildup.training.execution import has_matrix_units
from buildup.training.execution_words import Execution
from buildup.training.recipe import Recipe, load_recipe
from buildup.training.speed import choose_execution, default_execution
from buildup.training.train_step import Stepper, make_optimizer, prepare_model

QUICK = replace(load_recipe("quick"), batch_size=8)
CPU = torch.device("cpu")


@cache
def tiny() -> Network:
    return read_network("resnet10t", input_shape=(3, 16, 16), num_classes=5)


def losses(execution: Execution, recipe: Recipe = QUICK, device: str = "cpu", steps: int = 4) -> list[float]:
    """The loss of each step of a short training on the same batch."""
    place = torch.device(device)
    model = prepare_model(build(tiny(), seed=0, device=place), tiny(), execution).train()
    stepper = Stepper(model, make_optimizer(model, recipe, execution), recipe, execution)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(8, 3, 16, 16, generator=generator).to(place)
    targets = torch.randn(8, 5, generator=generator).softmax(1).to(place)
    stepper.capture(inputs, targets)
    found = []
    for _ in range(steps):
        stepper(inputs, targets, recipe.lr / 40)
        found.append(stepper.take_sums()[0].item() / 8)
    assert found[-1] < found[0]
    return found


@pytest.mark.parametrize("recipe", ["quick", "paper"])
def test_each_execution_makes_the_same_training(recipe: str) -> None:
    settings = replace(load_recipe(recipe), batch_size=8, lr=0.04)
    plain = losses(Execution(), settings)
    assert losses(Execution(channels_last=True), settings) == pytest.approx(plain, rel=1e-3)
    assert losses(Execution(precision="bf16", channels_last=True), settings) == pytest.approx(plain, rel=0.05)
    assert losses(Execution(), settings) == plain


@pytest.mark.slow
# torch itself looks at an inner gradient while it traces a block.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_compiled_blocks_make_the_same_training() -> None:
    assert losses(Execution(steps="compiled")) == pytest.approx(losses(Execution()), rel=1e-4)


@pytest.mark.gpu
# torch itself looks at an inner gradient while it traces a block.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("steps", ["captured", "compiled"])
@pytest.mark.parametrize("recipe", ["quick", "paper"])
def test_captured_steps_make_the_same_training(steps: str, recipe: str) -> None:
    settings = replace(load_recipe(recipe), batch_size=8, drop_path=0.0)
    plain = losses(Execution(), settings, "cuda")
    execution = Execution(steps=steps)  # type: ignore[arg-type]
    assert losses(execution, settings, "cuda") == pytest.approx(plain, rel=1e-3)


def test_a_cpu_has_one_execution_which_follows_from_the_recipe_and_its_units() -> None:
    (found,) = choose_execution(tiny(), QUICK, device="cpu", threads=1, steps=100)
    assert found.execution == default_execution(QUICK, "cpu")
    assert found.execution.channels_last
    assert (found.execution.precision == "bf16") == has_matrix_units(CPU)
    assert found.train > 0
    assert found.evaluate > 0


def test_a_recipe_without_mixed_precision_gets_none() -> None:
    strict = replace(QUICK, amp=False)
    assert {default_execution(strict, device).precision for device in ("cpu", "cuda")} == {"float32"}
    assert default_execution(QUICK, "cuda:1").precision == "bf16"


def test_convolutions_are_channels_last_but_on_an_apple_gpu() -> None:
    found = {device: default_execution(QUICK, device).channels_last for device in ("cpu", "cuda", "cuda:1", "mps")}
    assert found == {"cpu": True, "cuda": True, "cuda:1": True, "mps": False}


def test_what_was_asked_for_is_measured() -> None:
    settled = {"precision": "float32", "deterministic": True, "channels_last": False}
    (found,) = choose_execution(tiny(), QUICK, device="cpu", threads=1, steps=9, settled=settled)
    assert found.execution == Execution(deterministic=True)


def test_measuring_leaves_the_threads_and_the_generators_as_they_were() -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(2)
    try:
        choose_execution(tiny(), QUICK, device="cpu", threads=1, steps=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), state)
