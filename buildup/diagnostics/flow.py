"""What a model computes from one image, as a graph of function calls, and where all of it goes through one tensor.

A tensor is a *cut* when every path from the image to the logits leads through it: the output of a ResNet block, the sum
after one attention branch of a ViT. What lies between two cuts is a model of its own, and all of them in a row are the
model.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from buildup.errors import BaseError

NODE = "_buildup_node"
"""The attribute of a tensor that holds the number of the call that made it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A place in a model's code that hooks can find again."""

    path: str
    """A module; empty for the model itself."""
    call: int | None = None
    """How many functions of torch ran since that module was entered; None for what the module gives out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One call of a function of torch whose result depends on the image."""

    number: int
    function: str
    parents: tuple[int, ...]
    """The calls whose results it read, in the order of its arguments."""
    modules: tuple[str, ...]
    """The modules around it, from the outermost on, which is the model itself."""
    site: Site
    shape: tuple[int, ...] | None
    """None for a call that gives out several tensors, or none."""
    kernel: int = 1
    """Of a convolution, the larger side of its kernel."""


@dataclass(kw_only=True)
class Run:
    """One run of one module."""

    path: str
    module: nn.Module
    first: int
    """The number of the first node that can be inside."""
    start: int
    """How many functions had run before it."""
    inputs_of: int | None = None
    outputs_of: int | None = None
    """The node of its only tensor; None where there are none or several."""
    last: int = -1


@dataclass(frozen=True, kw_only=True)
class Flow:
    """A traced model."""

    nodes: tuple[Node, ...]
    """In the order in which they ran; the first is the image."""
    runs: tuple[Run, ...]
    """In the order in which they began."""
    end: int
    """The node of the logits."""

    @cached_property
    def relevant(self) -> frozenset[int]:
        """The calls that the logits depend on."""
        found, waiting = {self.end}, [self.end]
        while waiting:
            for parent in self.nodes[waiting.pop()].parents:
                if parent not in found:
                    found.add(parent)
                    waiting.append(parent)
        return frozenset(found)

    @cached_property
    def cuts(self) -> tuple[int, ...]:
        """Calls that every path leads through, whose result is one tensor."""
        furthest, found = 0, []
        reach = dict.fromkeys(self.relevant, 0)
        for number in sorted(self.relevant):
            for parent in self.nodes[number].parents:
                reach[parent] = max(reach[parent], number)
        for number in sorted(self.relevant):
            # Nothing that ran earlier is read later: what is after this call knows of the image by its result alone.
            if furthest <= number and self.nodes[number].shape is not None:
                found.append(number)
            furthest = max(furthest, reach[number])
        return tuple(found)

    def between(self, first: int, last: int) -> tuple[Node, ...]:
        """The calls after one cut, up to and with another."""
        return tuple(self.nodes[number] for number in range(first + 1, last + 1) if number in self.relevant)

    def is_sum(self, number: int) -> bool:
        """Whether a call adds two things that both depend on the image and have the same shape."""
        node = self.nodes[number]
        return node.function in SUMS and len(node.parents) == 2 and node.parents[0] != node.parents[1]

    def is_concatenation(self, number: int) -> bool:
        """Whether a call puts several things that depend on the image side by side."""
        node = self.nodes[number]
        return node.function in ("cat", "concat") and len(set(node.parents)) > 1

    def is_map(self, number: int) -> bool:
        """Whether a result has axes beside those of images and channels."""
        return len(self.nodes[number].shape or ()) > 2

    def weight(self, number: int, since: int) -> int:
        """How many calls after a cut a result is made of."""
        found, waiting = set(), [number]
        while waiting:
            here = waiting.pop()
            if here > since and here not in found:
                found.add(here)
                waiting += self.nodes[here].parents
        return len(found)


SUMS = frozenset(("add", "add_", "__add__", "__iadd__", "__radd__"))


def trace(model: nn.Module, image: Tensor) -> Flow:
    """Run a model in evaluation mode on one image, and write down what calls what. Its mode is the caller's affair."""
    tracer = _Tracer()
    with torch.no_grad(), ExitStack() as hooks:
        for path, module in model.named_modules():
            enter, leave = tracer.hooks(path)
            hooks.enter_context(module.register_forward_pre_hook(enter, with_kwargs=True, prepend=True))
            hooks.enter_context(module.register_forward_hook(leave))
        picture = image.detach().clone()
        setattr(picture, NODE, 0)
        tracer.nodes.append(
            Node(number=0, function="image", parents=(), modules=(), site=Site(path=""), shape=tuple(picture.shape))
        )
        with tracer:
            logits = model(picture)
    if not isinstance(logits, Tensor) or not hasattr(logits, NODE):
        raise BaseError(
            f"{type(model).__name__} gives out {type(logits).__name__}, and one tensor of logits is needed that "
            "depends on the image."
        )
    return Flow(nodes=tuple(tracer.nodes), runs=tuple(tracer.runs), end=getattr(logits, NODE))


@dataclass(kw_only=True, eq=False)
class _Tracer(TorchFunctionMode):
    nodes: list[Node] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    open: list[Run] = field(default_factory=list)
    count: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    def hooks(self, path: str) -> tuple[Any, Any]:
        """What is to be called before and after a module."""

        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            run = Run(path=path, module=module, first=len(self.nodes), start=self.count)
            run.inputs_of = next(_numbers((args, kwargs)), None)
            self.runs.append(run)
            self.open.append(run)

        def leave(module: nn.Module, args: tuple[Any, ...], result: Any) -> None:
            run = self.open.pop()
            read = tuple(_numbers(args))
            if isinstance(result, Tensor):
                # Functions with a backward of their own are not seen by modes, but the modules around them are.
                if not hasattr(result, NODE) and read:
                    self._add(type(module).__name__, read, result, Site(path=path), run)
                run.outputs_of = getattr(result, NODE, None)
            run.last = len(self.nodes) - 1

        return enter, leave

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """What torch calls in place of each of its functions."""
        kwargs = kwargs or {}
        read = tuple(_numbers((args, kwargs)))
        number = self.count
        self.count += 1
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        changed = args[0] if name == "__setitem__" else result
        if read and any(True for _ in _tensors(changed)):
            run = self.open[-1]
            kernel = max(args[1].shape[2:], default=1) if name.startswith("conv") and len(args) > 1 else 1
            self._add(name, read, changed, Site(path=run.path, call=number - run.start), run, kernel)
        return result

    def _add(self, name: str, read: tuple[int, ...], result: Any, site: Site, run: Run, kernel: int = 1) -> None:
        node = Node(
            number=len(self.nodes),
            function=name,
            parents=read,
            modules=tuple(open.path for open in self.open) or (run.path,),
            site=site,
            shape=tuple(result.shape) if isinstance(result, Tensor) else None,
            kernel=kernel,
        )
        self.nodes.append(node)
        for tensor in _tensors(result):
            setattr(tensor, NODE, node.number)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)


def _numbers(value: Any) -> Iterator[int]:
    """The calls that tensors came from, those that do not depend on the image left out."""
    for tensor in _tensors(value):
        if hasattr(tensor, NODE):
            yield getattr(tensor, NODE)
