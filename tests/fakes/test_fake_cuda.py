"""The fake CUDA device finds what would fail or wait on a real one, and computes what the CPU computes."""

import copy
import inspect
import re
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fake_cuda import FakeCuda, FakeGraph, Wrong, fake_cuda

CUDA = torch.device("cuda:0")


@pytest.fixture
def cuda() -> Iterator[FakeCuda]:
    with fake_cuda(2) as found:
        yield found


def on_host() -> Tensor:
    return torch.ones(4, 4)


def on_device(index: int = 0) -> Tensor:
    return torch.ones(4, 4, device=f"cuda:{index}")


TWO_DEVICES: dict[str, Callable[[], object]] = {
    "sum": lambda: on_device() + on_host(),
    "sum in place": lambda: on_device().add_(on_host()),
    "product": lambda: on_host() @ on_device(),
    "concatenation": lambda: torch.cat([on_device(), on_host()]),
    "another device": lambda: on_device(0) + on_device(1),
    "indices": lambda: on_host()[torch.arange(2, device="cuda")],
    "a number on the device": lambda: on_host().add_(on_device().sum()),
    "a weight": lambda: F.linear(on_device(), on_host()),
    "a generator of the host": lambda: torch.rand(3, device="cuda", generator=torch.Generator()),
    "numpy": lambda: on_device().numpy(),
    "an index beyond the devices": lambda: on_host().to("cuda:2"),
}
WAITS: dict[str, Callable[[], object]] = {
    "item": lambda: on_device().sum().item(),
    "truth": lambda: bool(on_device().any()),
    "list": lambda: on_device().tolist(),
    "to the host": lambda: on_device().cpu(),
    "to the device": lambda: on_host().to("cuda"),
    "pageable": lambda: on_host().to("cuda", non_blocking=True),
    "copy": lambda: on_device().copy_(on_host()),
    "nonzero": lambda: on_device().nonzero(),
    "mask": lambda: on_device()[on_device() > 0],
    "indices of the host": lambda: on_device()[torch.arange(2)],
    "a list of indices": lambda: on_device()[[0, 1]],
    "a literal": lambda: torch.tensor([1.0], device="cuda"),
    "a number of classes that is unknown": lambda: F.one_hot(torch.arange(3, device="cuda")),
    "synchronize": torch.cuda.synchronize,
}
FREE: dict[str, Callable[[], object]] = {
    "pinned": lambda: on_host().pin_memory().to("cuda", non_blocking=True),
    "back": lambda: on_device().to("cpu", non_blocking=True),
    "a number of the host": lambda: on_device() * torch.tensor(2.0) + 1,
    "indices": lambda: on_device()[torch.arange(2, device="cuda")],
    "one_hot": lambda: F.one_hot(torch.arange(3, device="cuda"), 4),
    "between devices": lambda: on_device(0).to("cuda:1"),
    "a slice": lambda: on_device()[:, 1:].mul_(2),
}


@pytest.mark.parametrize("name", TWO_DEVICES)
def test_tensors_of_two_devices_may_not_meet(name: str, cuda: FakeCuda) -> None:
    with pytest.raises(Wrong):
        TWO_DEVICES[name]()


@pytest.mark.parametrize("name", WAITS)
def test_waits_are_recorded_and_refused(name: str, cuda: FakeCuda) -> None:
    waits = WAITS[name] if name != "synchronize" else lambda: torch.cuda.synchronize()
    waits()
    assert cuda.waits or name == "synchronize"
    with cuda.no_waits(), pytest.raises(Wrong, match="wait"):
        waits()


@pytest.mark.parametrize("name", FREE)
def test_what_does_not_wait_is_allowed(name: str, cuda: FakeCuda) -> None:
    with cuda.no_waits():
        FREE[name]()
    assert cuda.waits == []


def test_results_views_gradients_and_copies_stay_on_the_device(cuda: FakeCuda) -> None:
    layer = nn.Linear(4, 2).to("cuda")
    loss = layer(on_device()).square().sum()
    loss.backward()
    assert layer.weight.grad is not None
    found = [layer.weight, layer.weight.data, layer.weight.grad, loss, loss.detach()[None], torch.zeros_like(loss)]
    found += [copy.deepcopy(loss.detach()), next(copy.deepcopy(layer).parameters()), loss.new_zeros(3)]
    assert {tensor.device for tensor in found} == {CUDA}
    assert {tensor.device for tensor in (loss.cpu(), torch.zeros(2), torch.arange(3))} == {torch.device("cpu")}


def test_values_are_those_of_the_cpu(cuda: FakeCuda) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 4, generator=generator)
    assert torch.equal((x.to("cuda").softmax(1) @ x.to("cuda")).cpu(), x.softmax(1) @ x)
    assert torch.equal(F.one_hot(torch.arange(3, device="cuda"), 4).cpu(), F.one_hot(torch.arange(3), 4))


def test_launches_are_counted_and_views_are_none(cuda: FakeCuda) -> None:
    x = on_device()
    cuda.clear()
    torch._foreach_add_([x[0], x[1]], 1.0)
    (x.view(16)[:8] + 1).relu_()
    assert [name.split(".")[1] for name in cuda.launches] == ["_foreach_add_", "add", "relu_"]


def test_a_kernel_that_cuda_lacks_is_refused(cuda: FakeCuda) -> None:
    if not torch._C._dispatch_has_kernel_for_dispatch_key("aten::add.Tensor", "CUDA"):
        pytest.skip("a torch for CPUs alone does not know the kernels of CUDA")
    with pytest.raises(Wrong, match="no CUDA kernel"):
        torch.histogram(on_device(), 3)


def test_a_graph_replays_into_the_same_memory_and_keeps_what_the_host_said(cuda: FakeCuda) -> None:
    x, rate, total, factor = on_device(), torch.ones((), device="cuda"), torch.zeros((), device="cuda"), 2.0
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = x * factor + rate
        total += y.sum()
    assert isinstance(graph, FakeGraph)
    assert total.item() == 0  # captured, not run
    for own, device_rate in ((1.0, 1.0), (3.0, 10.0)):
        x.fill_(own)
        rate.fill_(device_rate)
        factor = 100.0  # too late
        graph.replay()
        assert torch.equal(y.cpu(), torch.full((4, 4), 2 * own + device_rate))
    assert total.item() == 16 * 3.0 + 16 * 16.0


@pytest.mark.parametrize("inside", [lambda x: x.sum().item(), lambda x: x.cpu()], ids=["read", "copy"])
def test_a_graph_refuses_what_waits(inside: Callable[[Tensor], object], cuda: FakeCuda) -> None:
    x = on_device()
    with torch.cuda.graph(torch.cuda.CUDAGraph()), pytest.raises(Wrong, match="while a graph is captured"):
        inside(x)


def test_a_graph_of_another_device_is_refused(cuda: FakeCuda) -> None:
    x = on_device(1)
    with torch.cuda.graph(torch.cuda.CUDAGraph()), pytest.raises(Wrong, match="while device 0 captures"):
        x + 1
    # torch's own stream for captures belongs to the device of the first one.
    with torch.cuda.device(1), torch.cuda.graph(torch.cuda.CUDAGraph()), pytest.raises(Wrong, match="while device 0"):
        x + 1
    with torch.cuda.device(1), torch.cuda.graph(torch.cuda.CUDAGraph(), stream=torch.cuda.Stream()):  # type: ignore[no-untyped-call]
        x + 1


TAKES_A_DEVICE = (
    "current_stream",
    "get_device_properties",
    "mem_get_info",
    "set_per_process_memory_fraction",
    "synchronize",
)


def test_a_device_without_a_number_is_refused_where_torch_refuses_it() -> None:
    """By torch's own sources: most functions take "cuda" for the current device, and one does not."""
    sources = {name: inspect.getsource(getattr(torch.cuda, name)) for name in TAKES_A_DEVICE}
    strict = {name for name, source in sources.items() if re.search(r"_get_device_index\(device\)", source)}
    assert strict == {"set_per_process_memory_fraction"}
    with fake_cuda(2):
        for name in TAKES_A_DEVICE:
            function = getattr(torch.cuda, name)
            arguments = (0.5, "cuda") if name in strict else ("cuda",)
            if name in strict:
                with pytest.raises(ValueError, match="with a specified index"):
                    function(*arguments)
            else:
                function(*arguments)
