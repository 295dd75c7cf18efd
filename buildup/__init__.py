"""Finds where self-attention belongs in a timm CNN, by the build-up rule of "How Do Vision Transformers Work?".

    import buildup

    run = buildup.search("resnet18", "digits", epochs=6, seeds=2, run="demo")
    run.winner.layout
    model = run.model()

Importing this is light: torch, timm, ray and optuna are loaded when a name below is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from buildup.engine.plan import Plan
    from buildup.engine.run import Run, open_run, plan, read, search
    from buildup.errors import BuildupError, RequestError, SearchError
    from buildup.graph.network import Network
    from buildup.models.build import build

__version__ = "0.3.0"

_HOMES = {
    "BuildupError": "buildup.errors",
    "Network": "buildup.graph.network",
    "Plan": "buildup.engine.plan",
    "RequestError": "buildup.errors",
    "Run": "buildup.engine.run",
    "SearchError": "buildup.errors",
    "build": "buildup.models.build",
    "open_run": "buildup.engine.run",
    "plan": "buildup.engine.run",
    "read": "buildup.engine.run",
    "search": "buildup.engine.run",
}

__all__ = [
    "BuildupError",
    "Network",
    "Plan",
    "RequestError",
    "Run",
    "SearchError",
    "__version__",
    "build",
    "open_run",
    "plan",
    "read",
    "search",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'buildup' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
