"""What a model does with an image: the functions of torch that it calls, and its modules as a tree of calls.

Every function whose result depends on the image is a node, and every tensor knows the node that it comes from. So a
chain of modules can be told from a sum or a concatenation. A model on the meta device runs without memory or
arithmetic.
"""

from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from buildup.errors import BaseError
from buildup.graph.network import Shape

NODE = "_buildup_node"
"""The attribute of a tensor that holds the number of the node that it comes from."""


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
    """The nodes whose results it read, in the order of its arguments."""
    modules: tuple[str, ...]
    """The modules around it, from the outermost on, which is the model itself."""
    site: Site
    shape: tuple[int, ...] | None
    """None for a call that gives out several tensors, or none."""
    kernel: int = 1
    """Of a convolution, the larger side of its kernel."""


@dataclass(kw_only=True, eq=False)
class Call:
    """One run of one module."""

    path: str
    """Its name in the model; empty for the model itself."""
    module: nn.Module
    parent: "Call | None"
    calls: list["Call"] = field(default_factory=list)
    """The runs of modules inside this one, in order."""
    first: int
    """The number of the first node that can be inside."""
    start: int
    """How many functions had run before it."""
    given: int
    """How many arguments that are not None it was called with."""
    reads: frozenset[str]
    """The blocks that its input was computed from, and `stem` where the picture reaches it around all of them."""
    inputs_of: Tensor | None
    took_node: int | None
    outputs_of: Tensor | None = None
    gave_node: int | None = None
    """None where it gives out no tensor that depends on the image, or several."""
    gave_from: frozenset[str] = frozenset()
    """The blocks that its output was computed from; itself where it is one."""

    @property
    def inside(self) -> Iterator["Call"]:
        """This call and all calls inside it, in order of their starts."""
        yield self
        for call in self.calls:
            yield from call.inside

    @property
    def above(self) -> Iterator["Call"]:
        """The calls that this one is inside of, from the nearest on."""
        call = self.parent
        while call is not None:
            yield call
            call = call.parent

    @cached_property
    def keeps_shape(self) -> bool:
        """Whether it turns one map into another of the same shape."""
        return (
            self.inputs_of is not None
            and self.outputs_of is not None
            and self.inputs_of.ndim == 4 == self.outputs_of.ndim
            and (self.inputs_of.shape == self.outputs_of.shape)
        )

    @cached_property
    def is_chain(self) -> bool:
        """Whether it does nothing but hand its input from one module to the next."""
        if not self.calls or self.inputs_of is None:
            return False
        node = self.took_node
        for call in self.calls:
            if call.inputs_of is None or call.took_node != node or call.outputs_of is None:
                return False
            node = call.gave_node
        return self.outputs_of is not None and self.gave_node == node

    @cached_property
    def has_spatial_conv(self) -> bool:
        """Whether there is a convolution in it whose windows overlap, unlike those that cut a picture into patches."""
        return _looks_around(self.module) or any(call.has_spatial_conv for call in self.calls)


def trace(name: str, model: nn.Module, input_shape: Shape, blocks: Collection[str] = ()) -> Call:
    """The call of a model on the meta device, in evaluation mode, with one image.

    Args:
        name: The model's name, for errors.
        model: It runs with its mode and its weights as they are.
        input_shape: The shape of the image.
        blocks: Paths of modules that `reads` is to tell of.
    """
    training = model.training
    try:
        return follow(model.eval(), torch.empty(1, *input_shape, device="meta"), blocks)[1]
    except (AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise BaseError(f"{name} cannot take images of shape {input_shape}: {error}") from error
    finally:
        model.train(training)


def follow(model: nn.Module, images: Tensor, blocks: Collection[str] = ()) -> tuple[tuple[Node, ...], Call, Any]:
    """The nodes of a model in the order in which they ran, the first of them the image; its call; what it gives out.

    Args:
        model: It runs as it is; its mode is the caller's affair.
        images: What it runs on; they stay as they are.
        blocks: Paths of modules that `reads` is to tell of.
    """
    tracer = _Tracer(frozenset(blocks))
    picture = images.detach().clone()
    tracer.add("image", (), picture, Site(path=""))
    with torch.no_grad(), ExitStack() as hooks:
        for path, module in model.named_modules():
            start = module.register_forward_pre_hook(partial(tracer.start, path), with_kwargs=True, prepend=True)
            hooks.enter_context(start)
            hooks.enter_context(module.register_forward_hook(tracer.end))
        with tracer:
            result = model(picture)
    assert tracer.root is not None
    return tuple(tracer.nodes), tracer.root, result


class _Tracer(TorchFunctionMode):
    """Makes nodes of functions and calls of modules, while a model runs inside of it.

    On the meta device an empty tensor is the answer of a function that keeps the shape: what torch does there for these
    takes more than half of the time of all.
    """

    NORMS = frozenset(("batch_norm", "group_norm", "layer_norm"))
    KEEP_SHAPE = NORMS | {"dropout", "gelu", "hardsigmoid", "hardswish", "relu", "relu6", "relu_", "sigmoid", "silu"}

    def __init__(self, blocks: frozenset[str]) -> None:
        super().__init__()
        self.blocks = blocks
        self.nodes: list[Node] = []
        self.sources: list[frozenset[str]] = []
        """For each node the blocks that it was computed from."""
        self.root: Call | None = None
        self.open: list[Call] = []
        self.count = 0

    def start(self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Called before a module."""
        given = [value for value in (*args, *kwargs.values()) if value is not None]
        read = node_numbers(given)
        call = Call(
            path=path,
            module=module,
            parent=self.open[-1] if self.open else None,
            first=len(self.nodes),
            start=self.count,
            given=len(given),
            reads=self._sources(read),
            inputs_of=given[0] if given and isinstance(given[0], Tensor) else None,
            took_node=read[0] if read else None,
        )
        if call.parent is None:
            self.root = call
        else:
            call.parent.calls.append(call)
        self.open.append(call)

    def end(self, module: nn.Module, args: tuple[Any, ...], result: Any) -> None:
        """Called after a module."""
        call = self.open.pop()
        read = node_numbers(args)
        if isinstance(result, Tensor):
            # Functions with a backward of their own are not seen by modes, but the modules around them are.
            if not hasattr(result, NODE) and read:
                count = self.count
                self.add(type(module).__name__, read, result, Site(path=call.path))
                self.count = count  # to read a shape is a function, too, but not one of the model's
            call.outputs_of, call.gave_node = result, getattr(result, NODE, None)
        made = node_numbers(result)
        if call.path in self.blocks:
            for number in made:
                self.sources[number] = frozenset([call.path])
        call.gave_from = self._sources(made)

    def add(self, function: str, read: tuple[int, ...], result: Any, site: Site, kernel: int = 1) -> None:
        """Make a node, and let its tensors know it."""
        node = Node(
            number=len(self.nodes),
            function=function,
            parents=read,
            modules=tuple(call.path for call in self.open),
            site=site,
            shape=tuple(result.shape) if isinstance(result, Tensor) else None,
            kernel=kernel,
        )
        self.nodes.append(node)
        self.sources.append(self._sources(read) if read else frozenset(["stem"]))
        for tensor in _tensors(result):
            setattr(tensor, NODE, node.number)

    def _sources(self, numbers: tuple[int, ...]) -> frozenset[str]:
        return frozenset().union(*(self.sources[number] for number in numbers))

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """What torch calls in place of each of its functions."""
        kwargs = kwargs or {}
        read = node_numbers((args, kwargs))
        number = self.count
        self.count += 1
        name = getattr(func, "__name__", "")
        tensor = (args[0] if args else kwargs.get("input")) if name in self.KEEP_SHAPE else None
        if tensor is not None and tensor.is_meta:
            result = tensor if kwargs.get("inplace") or name.endswith("_") else torch.empty_like(tensor)
        else:
            result = func(*args, **kwargs)
        changed = args[0] if name == "__setitem__" else result
        if read and any(True for _ in _tensors(changed)):
            call = self.open[-1]
            kernel = max(args[1].shape[2:], default=1) if name.startswith("conv") and len(args) > 1 else 1
            self.add(name, read, changed, Site(path=call.path, call=number - call.start), kernel)
        return result


def node_numbers(value: Any) -> tuple[int, ...]:
    """The nodes that tensors come from, those that do not depend on the image left out."""
    return tuple(getattr(tensor, NODE) for tensor in _tensors(value) if hasattr(tensor, NODE))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)


def _looks_around(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.kernel_size > module.stride
