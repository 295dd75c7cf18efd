"""A CUDA device that is made up on the CPU, so that CUDA paths run, with real values, where there is no GPU.

A tensor on the fake device is a CPU tensor whose storage bears a label. `Tensor.device` tells the label, a mode sees
every operation of torch and reads the labels, and the functions of `torch.cuda` that this package uses are replaced.
Autograd and optimisers run as they are, since for them the tensors are on the CPU.

    with fake_cuda() as cuda:
        total = torch.ones(3, device="cuda") + 1
        cuda.launches  # ["aten.fill_.Scalar", "aten.add.Tensor"], or what torch makes of it

What it finds: operations on tensors of two devices, by torch's rules; copies between devices, and whether the host
waits for them; values that the host reads; operations that have no CUDA kernel in this build of torch; the number of
launches; the current device that streams and captures use. A captured graph replays: see `FakeGraph`.

What it can't find: whether a kernel of CUDA computes the same or needs more memory, the order of work on two streams,
the cost of anything, and what torch decides in C++ by the device (the choice of an attention kernel, cuDNN, autocast,
which here is that of the CPU). Compiled code is not seen.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

CPU = torch.device("cpu")
ANYWHERE = torch.device("meta")
"""The label of what torch made by itself inside of a call, on whatever device the call works."""
MEMORY = 1 << 34
"""Bytes that the fake device claims to have free."""

VIEWS = frozenset(("alias", "detach", "_reshape_alias", "_unsafe_view", "lift_fresh", "empty_like", "new_empty"))
"""What launches nothing although torch does not call it a view."""
ALLOCATIONS = frozenset(("empty", "empty_strided", "new_empty_strided", "empty_permuted", "_efficientzerotensor"))
READS = frozenset(
    ("_local_scalar_dense", "nonzero", "masked_select", "equal", "bincount", "repeat_interleave", "_unique2")
)
"""Operations that wait for the device, because the host needs a value or a shape depends on one."""
TO_HOST = frozenset(("tolist", "numpy", "__array__", "__dlpack__"))
"""Methods that read memory without an operation."""
ON_CPU_ONLY = ("mkldnn", "_for_cpu", "_nnpack")
"""Parts of the names of operations that torch chose because the tensors are in truth on the CPU."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy between two devices."""

    name: str
    source: torch.device
    target: torch.device
    waits: bool
    """Whether the host waits for it."""


class Wrong(AssertionError):
    """What would fail, or wait where it must not, on a CUDA device."""


@dataclass(kw_only=True)
class FakeCuda:
    """What happened on the fake device."""

    count: int = 1
    """How many devices there are."""
    launches: list[str] = field(default_factory=list)
    copies: list[Copy] = field(default_factory=list)
    reads: list[str] = field(default_factory=list)
    calls: list[tuple[str, int]] = field(default_factory=list)
    """Calls of `torch.cuda`, with the device that they were for."""
    current: int = 0
    capturing: "FakeGraph | None" = None
    captures_on: "_FakeStream | None" = None
    """The stream of captures that name none. torch makes it once, on the device that is current then."""
    made: torch.device = CPU
    """The label of what is made from nothing."""
    is_silent: bool = False
    """Whether nothing is recorded, since the harness itself is at work."""
    _refuses_waits: bool = False
    _labels: dict[int, tuple[StorageWeakRef, torch.device, bool]] = field(default_factory=dict)

    def clear(self) -> None:
        """Forget what happened so far."""
        self.launches, self.copies, self.reads, self.calls = [], [], [], []

    @property
    def waits(self) -> list[str]:
        """What made the host wait: reads and copies."""
        return self.reads + [f"{copy.name} {copy.source} to {copy.target}" for copy in self.copies if copy.waits]

    @contextmanager
    def no_waits(self) -> Iterator[None]:
        """Refuse whatever makes the host wait for the device."""
        before, self._refuses_waits = self._refuses_waits, True
        try:
            yield
        finally:
            self._refuses_waits = before

    def device(self, given: Any) -> torch.device | None:
        """What a `device` argument means, with an index; None for None and the meta device."""
        if given is None:
            return None
        device = torch.device("cuda", given) if isinstance(given, int) else torch.device(given)
        if device.type != "cuda":
            return device
        index = self.current if device.index is None else device.index
        if index >= self.count:
            raise Wrong(f"device {index} of {self.count}")
        return torch.device("cuda", index)

    def label(self, tensor: Tensor) -> torch.device:
        """Where a tensor is. Without a label it is on the host."""
        known = self._labels.get(_key(tensor))
        return known[1] if known else CPU

    def put(self, tensor: Tensor, device: torch.device, *, pinned: bool = False) -> Tensor:
        """Label the memory of a tensor."""
        key = _key(tensor)
        if key:
            if len(self._labels) > 20_000:
                self._labels = {key: each for key, each in self._labels.items() if not each[0].expired()}  # type: ignore[no-untyped-call]
            # The weak reference keeps the address from being used again.
            memory = StorageWeakRef(_plain(tensor).untyped_storage())  # type: ignore[no-untyped-call]
            self._labels[key] = (memory, device, pinned)
        return tensor

    def is_pinned(self, tensor: Tensor) -> bool:
        """Whether a tensor is in pinned memory."""
        known = self._labels.get(_key(tensor))
        return bool(known and known[2])

    def copied(self, name: str, source: Tensor, target: torch.device, *, non_blocking: bool) -> None:
        """Record a copy from one device to another."""
        start = self.label(source)
        if start in (ANYWHERE, target) or target == ANYWHERE:
            return
        pageable = start == CPU and not self.is_pinned(source)
        waits = (not non_blocking or pageable) and CPU in (start, target)
        self.copies.append(Copy(name, start, target, waits))
        if waits:
            self.wait(f"{name} from {start} to {target}")

    def read(self, name: str) -> None:
        """Record that the host reads a value."""
        self.reads.append(name)
        self.wait(name)

    def wait(self, what: str) -> None:
        """Raise where the host must not wait."""
        if self.capturing is not None:
            raise Wrong(f"{what} while a graph is captured")
        if self._refuses_waits:
            raise Wrong(f"{what} makes the host wait")


@contextmanager
def fake_cuda(count: int = 1) -> Iterator[FakeCuda]:
    """Pretend that this machine has CUDA devices."""
    cuda = FakeCuda(count=count)
    with ExitStack() as stack:
        for target, replacement in _patches(cuda).items():
            stack.enter_context(patch(target, replacement))
        stack.enter_context(_Operations(cuda))
        stack.enter_context(_Functions(cuda))
        yield cuda


def _plain(tensor: Tensor) -> Tensor:
    """The tensor inside of what vmap and grad wrap around it."""
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(tensor):
        tensor = functorch.get_unwrapped(tensor)
    return tensor


def _key(tensor: Tensor) -> int:
    with torch._C.DisableTorchFunction(), suppress(NotImplementedError, RuntimeError):
        plain = _plain(tensor)
        return 0 if plain.is_meta else plain.untyped_storage()._cdata
    return 0


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return []
    return [tensor for each in value for tensor in _tensors(each)]


class _Functions(TorchFunctionMode):
    """Sees calls of Python: devices are named here, and memory is read here."""

    def __init__(self, cuda: FakeCuda) -> None:
        super().__init__()
        self.cuda = cuda

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        cuda, kwargs = self.cuda, dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name == "__get__":
            name = getattr(getattr(func, "__self__", None), "__name__", "")
            if name in ("device", "is_cuda"):
                return self._where(name, func, args)
            return func(*args, **kwargs)
        if name in ("to", "cuda", "cpu", "pin_memory", "is_pinned", "get_device", "__deepcopy__"):
            return getattr(self, f"_{name.strip('_')}")(func, args, kwargs)
        if name == "one_hot" and cuda.label(args[0]).type == "cuda" and len(args) + len(kwargs) > 1:
            return self._one_hot(*args, **kwargs)
        if name in TO_HOST and args and isinstance(args[0], Tensor) and cuda.label(args[0]).type == "cuda":
            if name != "tolist":
                raise Wrong(f"{name} of a CUDA tensor")
            cuda.read(name)
        asked = cuda.device(kwargs.get("device"))
        tensors = _tensors((args, kwargs))
        if isinstance(generator := kwargs.get("generator"), torch.Generator):
            place = asked or (cuda.label(tensors[0]) if tensors else CPU)
            if cuda.device(generator.device) != place:
                raise Wrong(f"{name}: a generator of {generator.device} for {place}")
        if asked is not None and asked.type == "cuda":
            kwargs["device"] = CPU
            if name in ("tensor", "as_tensor", "asarray", "new_tensor"):
                cuda.copies.append(Copy(name, CPU, asked, True))
                cuda.wait(f"torch.{name}")
        elif name == "new_tensor" and cuda.label(args[0]).type == "cuda":
            asked = cuda.label(args[0])
            cuda.copies.append(Copy(name, CPU, asked, True))
            cuda.wait(name)
        before, cuda.made = cuda.made, asked or (ANYWHERE if tensors else CPU)
        try:
            result = func(*args, **kwargs)
        finally:
            cuda.made = before
        if asked is not None and isinstance(result, Tensor) and asked.type != "meta":
            cuda.put(result, asked)
        return result

    def _where(self, name: str, func: Any, args: tuple[Any, ...]) -> Any:
        label = self.cuda.label(args[0])
        if label == ANYWHERE:
            label = torch.device("cuda", self.cuda.current)
        if label.type == "cuda":
            return label if name == "device" else True
        return func(*args)

    def _get_device(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        label = self.cuda.label(args[0])
        return label.index if label.type == "cuda" else func(*args, **kwargs)

    def _to(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tensor, *others = args
        target = kwargs.pop("device", None)
        for other in list(others):
            if isinstance(other, str | torch.device) or (isinstance(other, int) and not isinstance(other, bool)):
                target = other
                others.remove(other)
            elif isinstance(other, Tensor):
                target = self.cuda.label(other)
                others[others.index(other)] = other.dtype
        if "other" in kwargs:
            other = kwargs.pop("other")
            target, kwargs["dtype"] = self.cuda.label(other), other.dtype
        dtype = next((other for other in others if isinstance(other, torch.dtype)), kwargs.get("dtype"))
        flags = [other for other in others if isinstance(other, bool)]
        non_blocking = flags[0] if flags else bool(kwargs.get("non_blocking"))
        copy = flags[1] if len(flags) > 1 else bool(kwargs.get("copy"))
        layout = {name: kwargs[name] for name in ("memory_format",) if name in kwargs}
        return self._moved(tensor, target, dtype, non_blocking=non_blocking, copy=copy, **layout)

    def _cuda(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        target = args[1] if len(args) > 1 else kwargs.get("device", "cuda")
        return self._moved(args[0], target, None, non_blocking=bool(kwargs.get("non_blocking")))

    def _cpu(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._moved(args[0], CPU, None)

    def _moved(
        self,
        tensor: Tensor,
        target: Any,
        dtype: torch.dtype | None,
        *,
        non_blocking: bool = False,
        copy: bool = False,
        **layout: Any,
    ) -> Tensor:
        cuda, start = self.cuda, self.cuda.label(tensor)
        goal = cuda.device(target) or start
        if goal.type == "meta" or tensor.is_meta:
            return tensor.to(goal, dtype or tensor.dtype, copy=copy, **layout)
        moves = goal not in (start, ANYWHERE) and start != ANYWHERE
        if moves:
            cuda.copied("to", tensor, goal, non_blocking=non_blocking)
        with _silent(cuda) if moves else ExitStack():
            result = tensor.to(dtype or tensor.dtype, copy=copy or moves, **layout)
        return cuda.put(result, goal) if moves else result

    def _one_hot(self, labels: Tensor, num_classes: int) -> Tensor:
        """As torch does it on CUDA; on a CPU it reads the largest label."""
        with self:
            return labels.new_zeros(*labels.shape, num_classes).scatter_(-1, labels.unsqueeze(-1), 1)

    def _pin_memory(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.cuda.label(args[0]).type == "cuda":
            raise Wrong("only tensors of the host can be pinned")
        with _silent(self.cuda):
            return self.cuda.put(args[0].clone(), CPU, pinned=True)

    def _is_pinned(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.cuda.is_pinned(args[0])

    def _deepcopy(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        found = func(*args, **kwargs)
        return self.cuda.put(found, self.cuda.label(args[0])) if isinstance(found, Tensor) else found


@contextmanager
def _silent(cuda: FakeCuda) -> Iterator[None]:
    """Make no record of what happens inside."""
    before, cuda.is_silent = cuda.is_silent, True
    try:
        yield
    finally:
        cuda.is_silent = before


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees operations, also those of autograd: labels go from arguments to results here, and devices meet here."""

    def __init__(self, cuda: FakeCuda) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.cuda = cuda
        # A torch for CPUs alone has none registered.
        self.knows_kernels = _has_kernel("aten::add.Tensor")

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        cuda, kwargs = self.cuda, kwargs or {}
        given = _tensors((args, kwargs))
        if cuda.is_silent or any(tensor.is_meta for tensor in given):
            return func(*args, **kwargs)
        place = self._place(func, args, kwargs, given)
        on_device = place.type == "cuda"
        name = func.overloadpacket.__name__
        if on_device:
            if name in READS or (name in ("index", "index_put", "index_put_") and _has_mask(args)):
                cuda.read(name)
            if self.knows_kernels and not _has_kernel(func.name()) and not any(part in name for part in ON_CPU_ONLY):
                raise Wrong(f"{func} has no CUDA kernel")
        if on_device and cuda.capturing is not None:
            result = cuda.capturing.record(func, args, kwargs, place)
        else:
            result = func(*args, **kwargs)
        if on_device and not func.is_view and name not in VIEWS | ALLOCATIONS:
            cuda.launches.append(str(func))
        for tensor in _tensors(result):
            if not any(tensor is each for each in given) and not tensor.is_meta:
                self._label_result(tensor, given, place)
        return result

    def _label_result(self, tensor: Tensor, given: Sequence[Tensor], place: torch.device) -> None:
        if any(_key(tensor) == _key(each) for each in given):
            return  # a view
        self.cuda.put(tensor, place)

    def _place(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], given: Sequence[Tensor]) -> torch.device:
        """The device of an operation, by torch's rules on operands of two devices."""
        cuda, name = self.cuda, func.overloadpacket.__name__
        if not given:
            return cuda.made
        labels = [cuda.label(tensor) for tensor in given]
        places = set(labels) - {ANYWHERE}
        if len(places) < 2:
            return next(iter(places), ANYWHERE)
        if name in ("copy_", "_foreach_copy_", "copy"):
            flag = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
            cuda.copied(name, given[-1], labels[0], non_blocking=bool(flag))
            return labels[0]
        if name in ("index", "index_put", "index_put_", "_unsafe_index"):
            return self._indexed(func, args, labels[0])
        # A number on the host goes along with the launch.
        by_value = torch.Tag.pointwise in func.tags or name in ("where", "masked_fill", "masked_fill_", "fill_", "lerp")
        rest = {
            label for label, tensor in zip(labels, given, strict=True) if not (label == CPU and tensor.ndim == 0)
        } - {ANYWHERE}
        if by_value and len(rest) == 1 and labels[0] in rest | {ANYWHERE, CPU}:
            if name.endswith("_") and labels[0] == CPU and rest != {CPU}:
                raise Wrong(f"{func} writes into a number on the host from {rest}")
            return rest.pop()
        raise Wrong(f"{func} on tensors of {sorted(map(str, places))}")

    def _indexed(self, func: Any, args: tuple[Any, ...], own: torch.device) -> torch.device:
        for index in (index for index in args[1] if index is not None):
            place = self.cuda.label(index)
            if place.type == "cuda" and place != own:
                raise Wrong(f"{func}: indices on {place}, and the indexed tensor on {own}")
            if place == CPU != own:
                self.cuda.copied("index", index, own, non_blocking=False)
        values = args[2] if len(args) > 2 else None
        if values is not None and values.ndim and self.cuda.label(values) not in (own, ANYWHERE):
            raise Wrong(f"{func}: values on {self.cuda.label(values)}, and the indexed tensor on {own}")
        return own


def _has_mask(args: tuple[Any, ...]) -> bool:
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])


@cache
def _has_kernel(name: str) -> bool:
    keys = ("CUDA", "CompositeExplicitAutograd", "CompositeImplicitAutograd", "CompositeExplicitAutogradNonFunctional")
    return any(torch._C._dispatch_has_kernel_for_dispatch_key(name, key) for key in keys)


class FakeGraph:
    """A CUDA graph: it records operations with the memory that they read and write, and runs them again into it.

    As on a device, what the host computes is part of the record and stays as it was, an operation in place is only
    recorded and not run, and the results of the others mean nothing before the first replay. Numbers that are drawn
    differ in each replay.
    """

    def __init__(self, keep_graph: bool = False) -> None:
        self.operations: list[tuple[Any, tuple[Any, ...], dict[str, Any], list[Tensor]]] = []
        self.device: int | None = None

    def record(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], place: torch.device) -> Any:
        """Record an operation, and run it unless it is in place."""
        if place.type == "cuda" and place.index != self.device:
            raise Wrong(f"{func} on {place} while device {self.device} captures")
        schema = func._schema
        written = [number for number, one in enumerate(schema.arguments) if one.alias_info and one.alias_info.is_write]
        if func.is_view:
            return func(*args, **kwargs)
        if written:
            self.operations.append((func, args, kwargs, []))
            if not schema.returns:
                return None
            if len(schema.returns) == len(written) == 1:
                return args[written[0]] if written[0] < len(args) else kwargs[schema.arguments[written[0]].name]
        result = func(*args, **kwargs)
        if not written:
            self.operations.append((func, args, kwargs, _tensors(result)))
        return result

    @torch.no_grad()
    def replay(self) -> None:
        """Run all operations again, in their memory."""
        with torch._C.DisableTorchFunction(), torch.utils._python_dispatch._disable_current_modes():
            for func, args, kwargs, results in self.operations:
                again = _tensors(func(*args, **kwargs))
                for old, new in zip(results, again if results else [], strict=True):
                    old.detach().copy_(new)


class _FakeStream:
    """A stream of the device that was current when it was made. All work is done at once."""

    def __init__(self, cuda: FakeCuda, device: Any = None) -> None:
        self.device = cuda.device("cuda" if device is None else device)
        self._cuda = cuda
        cuda.calls.append(("Stream", self.device.index if self.device and self.device.index is not None else 0))

    def wait_stream(self, other: "_FakeStream") -> None:
        if self.device != other.device:
            raise Wrong(f"a stream of {self.device} waits for one of {other.device}")

    def synchronize(self) -> None:
        self._cuda.wait("Stream.synchronize")

    def is_capturing(self) -> bool:
        return self._cuda.capturing is not None


class _FakeGenerator(torch.Generator):
    """A generator that says that it is on the fake device."""

    def __new__(cls, device: Any = "cpu") -> "_FakeGenerator":
        place = "cpu" if torch.device(device).type == "cuda" else device
        return super().__new__(cls, place)  # type: ignore[call-arg]

    def __init__(self, device: Any = "cpu") -> None:
        self._place = torch.device(device)

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self._place


def _patches(cuda: FakeCuda) -> dict[str, Any]:
    """The replacements of functions of torch, by their paths."""

    @contextmanager
    def current(index: int) -> Iterator[None]:
        before, cuda.current = cuda.current, index
        try:
            yield
        finally:
            cuda.current = before

    def index_of(device: Any) -> int:
        found = cuda.device("cuda" if device is None else device)
        assert found is not None
        return found.index

    @contextmanager
    def use_stream(stream: _FakeStream) -> Iterator[None]:
        assert stream.device is not None
        with current(stream.device.index):
            yield

    def share(fraction: float, device: Any = None) -> None:
        if not isinstance(fraction, float):
            raise TypeError("Invalid type for fraction argument, must be `float`")
        if isinstance(device, str | torch.device) and torch.device(device).index is None:
            raise ValueError(f"Expected a torch.device with a specified index or an integer, but got: {device}")
        cuda.calls.append((f"memory {fraction:g}", index_of(device)))

    @contextmanager
    def capture(graph: FakeGraph, stream: _FakeStream | None = None) -> Iterator[None]:
        cuda.captures_on = cuda.captures_on or _FakeStream(cuda, None)
        device = (stream or cuda.captures_on).device
        assert device is not None
        graph.device, cuda.capturing = device.index, graph
        cuda.calls.append(("graph", device.index))
        with current(device.index):
            try:
                yield
            finally:
                cuda.capturing = None

    def synchronize(device: Any = None) -> None:
        cuda.calls.append(("synchronize", index_of(device)))
        cuda.wait("synchronize")

    def stream(device: Any = None) -> _FakeStream:
        return _FakeStream(cuda, device)

    real_groups = torch._C._group_tensors_by_device_and_dtype
    real_autocast = torch.autocast

    def groups(lists: Any, with_indices: bool = False) -> Any:
        found = {}
        for (device, dtype), value in real_groups(lists, with_indices).items():
            own = {cuda.label(tensor) for tensor in value[0][0] if tensor is not None} - {ANYWHERE}
            if len(own) > 1:
                raise Wrong(f"an optimiser's step over {own}")
            found[next(iter(own), device), dtype] = value
        return found

    def autocast(device_type: str, *args: Any, **kwargs: Any) -> Any:
        return real_autocast("cpu" if device_type == "cuda" else device_type, *args, **kwargs)

    replacements: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "device_count": lambda: cuda.count,
        "current_device": lambda: cuda.current,
        "device": lambda device: current(index_of(device)),
        "synchronize": synchronize,
        "get_device_capability": lambda device=None: (9, 0),
        "get_device_name": lambda device=None: "fake",
        "mem_get_info": lambda device=None: (MEMORY, MEMORY),
        "empty_cache": lambda: cuda.calls.append(("empty_cache", cuda.current)),
        "set_per_process_memory_fraction": share,
        "Stream": lambda device=None, **options: _FakeStream(cuda, device),
        "current_stream": stream,
        "is_current_stream_capturing": lambda: cuda.capturing is not None,
        "stream": use_stream,
        "CUDAGraph": FakeGraph,
        "graph": capture,
        "get_device_properties": lambda device=None: SimpleNamespace(total_memory=MEMORY, name="fake"),
    }
    return {
        **{f"torch.cuda.{name}": replacement for name, replacement in replacements.items()},
        "torch._C._group_tensors_by_device_and_dtype": groups,
        "torch.autocast": autocast,
        "torch.accelerator.current_stream": stream,
        "torch.accelerator.is_available": lambda: True,
        "torch.Generator": _FakeGenerator,
    }
