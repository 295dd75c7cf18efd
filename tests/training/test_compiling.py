"""Every block is compiled once and then used, whatever a process trains: shown by a backend that counts its graphs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from buildup.errors import RecipeError
from buildup.graph.network import Network
from buildup.models.read import read_network
from buildup.space.load import load
from buildup.strategies.moves import from_layout
from buildup.training.execution import torch_settings
from buildup.training.execution_words import Execution
from buildup.training.recipe import Recipe, load_recipe
from buildup.training.speed import measure_speed
from buildup.training.train_step import Stepper, create_training_model, make_optimizer, prepare_model

# torch itself looks at an inner gradient while it traces a block.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")

COMPILED = Execution(steps="compiled")
RECIPE = replace(load_recipe("quick"), batch_size=4)
DROPPING = replace(RECIPE, drop_path=0.1)
NARROW = {"channels": [8, 8, 8, 8], "stem_width": 8}


@dataclass
class Compiler:
    """A backend for torch.compile."""

    graphs: int = 0
    runs: int = 0

    def __call__(self, graph: Any, inputs: Any) -> Callable[..., Any]:
        self.graphs += 1

        def run(*arguments: Any) -> Any:
            self.runs += 1
            return graph(*arguments)

        return run

    def taken(self) -> tuple[int, int]:
        """Graphs and runs since the last call."""
        found, (self.graphs, self.runs) = (self.graphs, self.runs), (0, 0)
        return found


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[Compiler]:
    torch.compiler.reset()
    found = Compiler()
    limits: Any = torch._dynamo.config
    with limits.patch(recompile_limit=8, accumulated_recompile_limit=256):  # torch's own
        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=found))
        yield found
    torch.compiler.reset()


def basic_blocks(layers: list[int]) -> Network:
    settings = {**NARROW, "layers": layers}
    return read_network("resnet18", input_shape=(3, 16, 16), num_classes=5, stem="small", base_args=settings)


def train(network: Network, recipe: Recipe, sizes: list[int], compiler: Compiler) -> list[tuple[int, int]]:
    """The graphs and runs of each step, on batches of these sizes."""
    model = create_training_model(network, recipe, seed=0, device=torch.device("cpu"))
    model = prepare_model(model, network, COMPILED).train()
    stepper = Stepper(model, make_optimizer(model, recipe, COMPILED), recipe, COMPILED)
    stepper.capture(torch.zeros(4, 3, 16, 16), torch.zeros(4, 5))
    found = []
    for size in sizes:
        stepper(torch.randn(size, 3, 16, 16), torch.randn(size, 5).softmax(1), 0.01)
        found.append(compiler.taken())
    return found


def test_each_block_is_compiled_once_for_all_trainings_and_an_odd_batch_is_not(compiler: Compiler) -> None:
    # Dropped paths have another rate in each block, so these are 11 variants of one class.
    network = basic_blocks([3, 3, 3, 2])
    assert train(network, DROPPING, [4, 4, 3, 4], compiler) == [(11, 11), (0, 11), (0, 0), (0, 11)]
    assert train(network, DROPPING, [4, 3], compiler) == [(0, 11), (0, 0)]


def test_a_candidate_compiles_only_the_block_that_is_new(compiler: Compiler) -> None:
    # The second and third blocks of a stage are alike, and the first one changes channels or resolution.
    network = basic_blocks([3, 3, 1, 2])
    candidate = from_layout("CCC|CCC|C|CM", network, load("alternet"))
    assert train(network, RECIPE, [4], compiler) == [(7, 9)]
    assert train(candidate, RECIPE, [4, 4, 3], compiler) == [(1, 9), (0, 9), (0, 0)]


@pytest.mark.parametrize("layout", ["CC|CM|CG|CK", "CC|CS|CM|CM"])
def test_replaced_blocks_are_compiled_whole(layout: str, compiler: Compiler) -> None:
    network = from_layout(layout, basic_blocks([2, 2, 2, 2]), load("alternet"))
    (_, runs), (again, same) = train(network, RECIPE, [4, 4], compiler)
    assert (runs, again, same) == (8, 0, 8)


def test_what_is_measured_is_what_trains(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    network = basic_blocks([1, 1, 1, 1])
    recipe = replace(DROPPING, dropout=0.3)
    seen: list[nn.Module] = []
    call = Stepper.__call__

    def watched(self: Stepper, *arguments: Any) -> None:
        seen.append(self.model)
        call(self, *arguments)

    monkeypatch.setattr(Stepper, "__call__", watched)
    measure_speed(network, recipe, Execution(), device="cpu", threads=1)
    trained = create_training_model(network, recipe, seed=0, device=torch.device("cpu"))
    assert str(seen[0]) == str(trained)
    assert "DropPath" in str(trained)


def test_a_worker_compiles_in_no_more_processes_than_it_has_threads(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = basic_blocks([1, 1, 1, 1])
    inductor: Any = torch._inductor.config
    for before, threads, after in ((32, 1, 1), (1, 2, 1)):
        monkeypatch.setattr(inductor, "compile_threads", before)
        with torch_settings(threads, deterministic=False):
            prepare_model(create_training_model(network, RECIPE, seed=0, device=torch.device("cpu")), network, COMPILED)
        assert inductor.compile_threads == after


def test_a_base_without_dropped_paths_is_refused_by_name() -> None:
    network = read_network("repvit_m0_9", input_shape=(3, 32, 32), num_classes=5)
    with pytest.raises(RecipeError, match=r"drop_path: 0\.1.*repvit_m0_9 can't"):
        create_training_model(network, DROPPING, seed=0, device=torch.device("cpu"))
