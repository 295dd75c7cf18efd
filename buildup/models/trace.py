"""Trace a model's forward pass on one image: the torch functions that it calls, and its modules as a tree of calls.

Every function whose result depends on the image is a node. Every tensor holds the number of its node, so a chain of
modules can be told from a sum or a concatenation. On the meta device the model runs without memory or arithmetic.

`evaluation_mode` and `hook_blocks` run a model without a trace, and leave it as it was.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from buildup.errors import BaseError
from buildup.graph.network import Shape

NODE = "_buildup_node"
"""The attribute of a tensor that holds the number of its node."""

BlockAction = Callable[[str, Tensor, Tensor], Tensor | None]
"""Receives a block's path, input and output. Returns a replacement of the output, or None to keep it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A place in a model's code that hooks can find again."""

    path: str
    """A module; empty for the model itself."""
    call: int | None = None
    """How many torch functions ran in the module before; None for the output of the module."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One call of a function of torch whose result depends on the image."""

    number: int
    function: str
    parents: tuple[int, ...]
    """The nodes of its arguments, in order."""
    modules: tuple[str, ...]
    """The modules around it; the first is the model itself."""
    site: Site
    before: int
    """How many torch functions ran in the model before it."""
    shape: tuple[int, ...] | None
    """None unless the result is one tensor."""
    kernel: int = 1
    """Of a convolution, the larger side of its kernel."""


@dataclass(kw_only=True, eq=False)
class Call:
    """One forward pass of one module."""

    path: str
    """Its name in the model; empty for the model itself."""
    module: nn.Module
    parent: "Call | None"
    calls: list["Call"] = field(default_factory=list)
    """The calls of modules directly inside this one, in order."""
    first: int
    """The number of the first node that can be inside."""
    start: int
    """How many functions had run before it."""
    num_inputs: int
    """How many arguments other than None it had."""
    input: Tensor | None
    """The first argument, if it is a tensor."""
    input_node: int | None
    input_blocks: frozenset[str]
    """The blocks that its input was computed from; `stem` stands for a path from the image past all blocks."""
    output: Tensor | None = None
    output_node: int | None = None
    """None unless the output is one tensor that depends on the image."""
    output_blocks: frozenset[str] = frozenset()
    """The blocks that its output was computed from; only itself if it is a block."""

    @property
    def inside(self) -> Iterator["Call"]:
        """This call and all calls inside it, in order of their starts."""
        yield self
        for call in self.calls:
            yield from call.inside

    @cached_property
    def keeps_shape(self) -> bool:
        if self.input is None or self.output is None:
            return False
        return self.input.ndim == 4 and self.input.shape == self.output.shape

    @cached_property
    def is_chain(self) -> bool:
        """Whether it only passes its input from one module to the next."""
        if not self.calls or self.input is None:
            return False
        node = self.input_node
        for call in self.calls:
            if call.input is None or call.input_node != node or call.output is None:
                return False
            node = call.output_node
        return self.output is not None and self.output_node == node

    @cached_property
    def has_spatial_conv(self) -> bool:
        """Whether it has a convolution whose windows overlap, unlike those that cut an image into patches."""
        conv = self.module
        if isinstance(conv, nn.Conv2d) and conv.kernel_size > conv.stride:
            return True
        return any(call.has_spatial_conv for call in self.calls)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode. Afterwards each module has its own mode again, also where they differed."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def hook_blocks(model: nn.Module, paths: Sequence[str], action: BlockAction) -> Iterator[None]:
    """Pass inputs and outputs of blocks to an action, which may replace the output. No hook is left afterwards."""
    inputs: dict[str, Tensor] = {}

    def before(path: str, module: nn.Module, args: Any) -> None:
        # A copy, because a block may overwrite its input.
        inputs[path] = args[0].clone()

    def after(path: str, module: nn.Module, args: Any, outputs: Tensor) -> Tensor | None:
        return action(path, inputs.pop(path), outputs)

    with ExitStack() as stack:
        for path in paths:
            block = model.get_submodule(path)
            stack.enter_context(block.register_forward_pre_hook(partial(before, path)))
            stack.enter_context(block.register_forward_hook(partial(after, path)))
        yield


def trace_calls(name: str, model: nn.Module, input_shape: Shape, blocks: Collection[str] = ()) -> Call:
    """Trace a model on the meta device in evaluation mode, and restore its mode.

    `input_blocks` and `output_blocks` name the modules at the paths in `blocks`. Errors call the model by `name`.
    """
    try:
        with evaluation_mode(model):
            return run_traced(model, torch.empty(1, *input_shape, device="meta"), blocks)[1]
    except (AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise BaseError(f"{name} cannot take images of shape {input_shape}: {error}") from error


def run_traced(model: nn.Module, images: Tensor, blocks: Collection[str] = ()) -> tuple[tuple[Node, ...], Call, Any]:
    """Run a model under the tracer, in the mode that it has, on images that it can't change.

    Returns:
        The nodes in the order in which they ran, the first of them the image; the model's call; its output.
    """
    tracer = _Tracer(frozenset(blocks))
    picture = images.detach().clone()
    tracer.add("image", (), picture, Site(path=""), 0)
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
    """Records functions as nodes and modules as calls while a model runs inside of it.

    On the meta device, functions that keep the shape are replaced by an empty tensor: torch's own implementations take
    more than half of the total time there.
    """

    NORMS = frozenset(("batch_norm", "group_norm", "layer_norm"))
    KEEP_SHAPE = NORMS | {"dropout", "gelu", "hardsigmoid", "hardswish", "relu", "relu6", "relu_", "sigmoid", "silu"}

    def __init__(self, blocks: frozenset[str]) -> None:
        super().__init__()
        self.blocks = blocks
        self.nodes: list[Node] = []
        self.blocks_of: list[frozenset[str]] = []
        """The blocks that each node was computed from."""
        self.root: Call | None = None
        self.open: list[Call] = []
        self.count = 0

    def start(self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = [value for value in (*args, *kwargs.values()) if value is not None]
        read = node_numbers(given)
        call = Call(
            path=path,
            module=module,
            parent=self.open[-1] if self.open else None,
            first=len(self.nodes),
            start=self.count,
            num_inputs=len(given),
            input=given[0] if given and isinstance(given[0], Tensor) else None,
            input_node=read[0] if read else None,
            input_blocks=self._merged(read),
        )
        if call.parent is None:
            self.root = call
        else:
            call.parent.calls.append(call)
        self.open.append(call)

    def end(self, module: nn.Module, args: tuple[Any, ...], result: Any) -> None:
        call = self.open.pop()
        read = node_numbers(args)
        if isinstance(result, Tensor):
            # Function modes do not see functions with a custom backward, but hooks see the modules around them.
            if not hasattr(result, NODE) and read:
                count = self.count
                self.add(type(module).__name__, read, result, Site(path=call.path), count)
                self.count = count  # reading a shape counts as a function, but the model did not call it
            call.output, call.output_node = result, getattr(result, NODE, None)
        made = node_numbers(result)
        if call.path in self.blocks:
            for number in made:
                self.blocks_of[number] = frozenset([call.path])
        call.output_blocks = self._merged(made)

    def add(self, function: str, read: tuple[int, ...], result: Any, site: Site, before: int, kernel: int = 1) -> None:
        node = Node(
            number=len(self.nodes),
            function=function,
            parents=read,
            modules=tuple(call.path for call in self.open),
            site=site,
            before=before,
            shape=tuple(result.shape) if isinstance(result, Tensor) else None,
            kernel=kernel,
        )
        self.nodes.append(node)
        self.blocks_of.append(self._merged(read) if read else frozenset(["stem"]))
        for tensor in _tensors(result):
            setattr(tensor, NODE, node.number)

    def _merged(self, numbers: tuple[int, ...]) -> frozenset[str]:
        return frozenset().union(*(self.blocks_of[number] for number in numbers))

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Torch calls this in place of each of its functions."""
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
            self.add(name, read, changed, Site(path=call.path, call=number - call.start), number, kernel)
        return result


def node_numbers(value: Any) -> tuple[int, ...]:
    """The nodes of all tensors in a value; tensors that do not depend on the image have none."""
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
