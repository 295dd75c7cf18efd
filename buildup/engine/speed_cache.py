"""Cache of the speed of trainings, because measuring it takes seconds.

A measurement holds for a network, a recipe, an execution, a number of threads, and a machine with its versions of torch
and timm. It is renewed when the code that trains changes. A machine that was busy, or has changed otherwise since, is
measured anew by `buildup plan --anew`.
"""

import hashlib
import json
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import version
from math import inf
from pathlib import Path
from typing import Any

import buildup
from buildup.cache import user_cache
from buildup.engine.graph_cache import recall, remember
from buildup.graph.network import Network
from buildup.graph.serialize import fingerprint
from buildup.store.run_dir import cores
from buildup.training.execution import device_kind
from buildup.training.execution_words import Execution
from buildup.training.recipe import Recipe, recipe_to_values
from buildup.training.speed import Speed, measure_speed

PARTS = ("models", "training")
"""The parts of buildup whose code a measurement depends on."""
WITHOUT_EFFECT = frozenset({"name", "description", "epochs", "warmup_epochs", "milestones", "snapshots", "expected"})
"""Values of a recipe that do not change the time of a step."""


def known_speed(
    network: Network, recipe: Recipe, execution: Execution, *, device: str, threads: int, anew: bool = False
) -> tuple[Speed, str]:
    """The speed of a training on this machine, measured if it is not in the cache or if it is wanted anew.

    Returns:
        The speed, and when it was measured; empty for just now.
    """
    key = _key(network, recipe, execution, device, threads)
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    folder = user_cache() / f"speeds-{_digest()[:8]}"
    found: Any = None if anew else recall(name, folder)
    try:
        times = {part: float(found["seconds"][part]) for part in ("train", "evaluate", "preparation")}
        if not (0 < times["train"] < inf and 0 <= times["evaluate"] < inf and 0 <= times["preparation"] < inf):
            raise ValueError
        return Speed(execution=execution, **times), str(found["measured"])
    except (KeyError, TypeError, ValueError):  # not in the cache, or damaged
        speed = measure_speed(network, recipe, execution, device=device, threads=threads)
    times = {part: seconds for part, seconds in asdict(speed).items() if part != "execution"}
    remember(name, {"key": key, "seconds": times, "measured": datetime.now().isoformat(" ", "minutes")}, folder)
    return speed, ""


def _key(network: Network, recipe: Recipe, execution: Execution, device: str, threads: int) -> dict[str, Any]:
    return {
        "network": fingerprint(network),
        "input_shape": network.input_shape,
        "recipe": {name: value for name, value in recipe_to_values(recipe).items() if name not in WITHOUT_EFFECT},
        "execution": execution.words,
        "device": device,
        "threads": threads,
        "chip": device_kind(device),
        "cores": cores(),
        "versions": {name: version(name) for name in ("torch", "timm")},
    }


def _digest() -> str:
    package = Path(buildup.__file__).parent
    files = sorted(file for part in PARTS for file in (package / part).glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
