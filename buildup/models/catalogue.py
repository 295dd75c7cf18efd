"""All names of timm, and which of them can be a base."""

import multiprocessing
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from fnmatch import fnmatch
from typing import Any

import timm
import torch

from buildup.errors import BaseError
from buildup.models.find import NotConvolutional, find
from buildup.models.stages import obstacle

OURS = "zoo"
"""The module of the names that this package adds."""

FEW = 16
"""So many names are looked at in this process: it takes as long to start others."""


def learn(known: Mapping[str, Any], pattern: str | None) -> dict[str, Any]:
    """What is known of timm's names, with those of a pattern, or with all convolutional ones.

    Args:
        known: What an earlier call gave; empty at first.
        pattern: What names are like. Without one, families of which the first, middle and last name are no CNNs are
            left alone: most of timm's names are transformers, and looking into each takes longer than all CNNs.

    Returns:
        Plain values: `families` has timm's module for every name, `rows` a verdict on each name that was looked at, and
        `complete` tells whether that is so for all convolutional ones.
    """
    members = {family: timm.list_models(module=family) for family in timm.list_modules() if family != OURS}
    families = {name: family for family, names in members.items() for name in names}
    rows = dict(known.get("rows", {}))

    def look(names: list[str]) -> None:
        missing = [name for name in names if name not in rows]
        rows.update({row["name"]: row for row in _look_at_all(missing, [families[name] for name in missing])})

    if pattern:
        look([name for name in families if fnmatch(name, pattern)])
        return {"families": families, "rows": rows, "complete": known.get("complete", False)}
    samples = {family: [names[0], names[len(names) // 2], names[-1]] for family, names in members.items()}
    look([name for names in samples.values() for name in names])
    convolutional = [family for family, names in samples.items() if any(rows[name]["convolutional"] for name in names)]
    look([name for family in convolutional for name in members[family]])
    return {"families": families, "rows": rows, "complete": True}


def look_at(name: str, family: str) -> dict[str, Any]:
    """A verdict on one name, by making its model without memory and tracing it."""
    row = {"name": name, "family": family, "supported": False, "reason": None, "stages": 0, "positions": 0}
    try:
        found = find(name)
    except BaseError as error:
        return row | {"reason": str(error), "convolutional": not isinstance(error, NotConvolutional)}
    free = sum(obstacle(call) is None for stage in found.stages for call in stage.blocks[1:])
    return row | {"supported": True, "stages": len(found.stages), "positions": free, "convolutional": True}


def _look_at_all(names: list[str], families: list[str]) -> Iterator[dict[str, Any]]:
    if len(names) <= FEW:
        yield from map(look_at, names, families)
        return
    # Not by fork: torch has threads of its own, and a fork between two of their steps never ends.
    context = multiprocessing.get_context("spawn")
    workers = min(8, os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield from pool.map(look_at, names, families, chunksize=8)
