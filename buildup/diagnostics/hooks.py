"""Observe and change what a running model computes, without changing the model.

What `intercept` does ends with its `with`: afterwards no hook is left.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from buildup.models.trace import Site

Action = Callable[[Tensor, tuple[Any, ...]], Tensor | None]
"""Receives a result and the arguments it was computed from. Returns a replacement, or None to keep the result."""


@contextmanager
def intercept(model: nn.Module, actions: Mapping[Site, Action]) -> Iterator[None]:
    """Pass the results at sites of a model to actions, which may replace them. Actions at one site run in order."""
    modules = dict(model.named_modules())
    with ExitStack() as stack:
        mode = _InterceptMode({site: action for site, action in actions.items() if site.call is not None})
        if mode.actions:
            for path in {path for path, _ in mode.actions}:
                stack.enter_context(modules[path].register_forward_pre_hook(partial(mode.enter, path)))
                stack.enter_context(modules[path].register_forward_hook(mode.leave, prepend=True, always_call=True))
            stack.enter_context(mode)
        for site, action in actions.items():
            if site.call is None:
                stack.enter_context(modules[site.path].register_forward_hook(partial(mode.apply, action)))
        yield


def weights_digest(model: nn.Module) -> str:
    """A hash of all weights and buffers and of every module's mode."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    digest.update(bytes(module.training for module in model.modules()))
    return digest.hexdigest()


class _InterceptMode(TorchFunctionMode):
    """Counts function calls as the trace did, and applies actions to the results of some."""

    def __init__(self, actions: Mapping[Site, Action]) -> None:
        super().__init__()
        self.actions = {(site.path, site.call): action for site, action in actions.items()}
        self.open: list[tuple[str, int]] = []
        self.count = 0
        self.in_action = False

    def apply(self, action: Action, module: nn.Module, args: Any, result: Tensor) -> Tensor | None:
        """A forward hook that applies an action to a module's output. Calls inside the action are not counted."""
        self.in_action = True
        try:
            return action(result, args)
        finally:
            self.in_action = False

    def enter(self, path: str, module: nn.Module, args: Any) -> None:
        self.open.append((path, self.count))

    def leave(self, module: nn.Module, args: Any, result: Any) -> None:
        self.open.pop()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if self.in_action:
            return func(*args, **(kwargs or {}))
        number = self.count
        self.count += 1
        # An action at a sum reads its operands as they were: a sum in place overwrites the first of them.
        found = [self.actions[key] for path, start in self.open if (key := (path, number - start)) in self.actions]
        if found and getattr(func, "__name__", "") in ("add_", "__iadd__"):
            func, args = torch.add, (args[0], args[1])
        result = func(*args, **(kwargs or {}))
        for action in found:
            # The mode is disabled in here, so calls inside the action are not counted.
            changed = action(result, args)
            result = result if changed is None else changed
        return result
