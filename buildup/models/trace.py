"""What a timm model does with one image: its modules in the order in which they run, as a tree of calls.

A model on the meta device runs without memory or arithmetic. Which tensor goes from one module into the next is
known by identity, so that a chain of modules can be told from a sum or a concatenation.
"""

from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from buildup.errors import BaseError
from buildup.graph.network import Shape

SOURCES = "_buildup_sources"
"""The attribute of a tensor that holds the blocks that it was computed from."""


@dataclass(kw_only=True, eq=False)
class Call:
    """One run of one module."""

    path: str
    """Its name in the model; empty for the model itself."""
    module: nn.Module
    parent: "Call | None"
    calls: list["Call"] = field(default_factory=list)
    """The runs of modules inside this one, in order."""
    given: int
    """How many arguments that are not None it was called with."""
    reads: frozenset[str]
    """The blocks that its input was computed from, and `stem` where the picture reaches it around all of them."""
    inputs_of: Tensor | None
    took_version: int
    outputs_of: Tensor | None = None
    gave_version: int = 0

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
        tensor, version = self.inputs_of, self.took_version
        for call in self.calls:
            if call.inputs_of is not tensor or call.took_version != version or call.outputs_of is None:
                return False
            tensor, version = call.outputs_of, call.gave_version
        return self.outputs_of is tensor and self.gave_version == version

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
    roots: list[Call] = []
    open_calls: list[Call] = []

    def start(path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = [value for value in (*args, *kwargs.values()) if value is not None]
        inputs_of = given[0] if given and isinstance(given[0], Tensor) else None
        parent = open_calls[-1] if open_calls else None
        call = Call(
            path=path,
            module=module,
            parent=parent,
            given=len(given),
            reads=sources(given),
            inputs_of=inputs_of,
            took_version=_version(inputs_of),
        )
        (roots if parent is None else parent.calls).append(call)
        open_calls.append(call)

    def end(module: nn.Module, args: Any, result: Any) -> None:
        call = open_calls.pop()
        call.outputs_of = result if isinstance(result, Tensor) else None
        call.gave_version = _version(call.outputs_of)
        if call.path in blocks:
            _mark(result, frozenset([call.path]))

    training = model.training
    with ExitStack() as hooks, _Followed():
        for path, module in model.named_modules():
            hooks.enter_context(module.register_forward_pre_hook(partial(start, path), with_kwargs=True))
            hooks.enter_context(module.register_forward_hook(end))
        try:
            with torch.no_grad():
                picture = torch.empty(1, *input_shape, device="meta")
                _mark(picture, frozenset(["stem"]))
                model.eval()(picture)
        except (AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise BaseError(f"{name} cannot take images of shape {input_shape}: {error}") from error
        finally:
            model.train(training)
    return roots[0]


class _Followed(TorchFunctionMode):
    """Lets every tensor know which blocks it was computed from.

    Where a function keeps the shape, an empty tensor is the answer: what torch does on the meta device for these takes
    more than half of the time of all.
    """

    NORMS = frozenset(("batch_norm", "group_norm", "layer_norm"))
    KEEP_SHAPE = NORMS | {"dropout", "gelu", "hardsigmoid", "hardswish", "relu", "relu6", "relu_", "sigmoid", "silu"}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """What torch calls in place of each of its functions."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in self.KEEP_SHAPE:
            tensor = args[0] if args else kwargs["input"]
            result = tensor if kwargs.get("inplace") or name.endswith("_") else torch.empty_like(tensor)
        else:
            result = func(*args, **kwargs)
        if isinstance(result, Tensor | tuple | list):
            _mark(result, sources([*args, *kwargs.values()]))
        return result


def sources(values: Iterable[Any]) -> frozenset[str]:
    """The blocks that tensors were computed from, lists of tensors included."""
    found: frozenset[str] = frozenset()
    for value in values:
        if isinstance(value, Tensor):
            found |= getattr(value, SOURCES, frozenset())
        elif isinstance(value, list | tuple):
            found |= sources(value)
    return found


def _mark(value: Any, sources: frozenset[str]) -> None:
    if isinstance(value, Tensor):
        setattr(value, SOURCES, sources)
    elif isinstance(value, list | tuple):
        for item in value:
            _mark(item, sources)


def _version(tensor: Tensor | None) -> int:
    """Changes when a tensor is changed in place."""
    return 0 if tensor is None else tensor._version


def _looks_around(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.kernel_size > module.stride
