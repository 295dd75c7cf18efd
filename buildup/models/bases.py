"""timm's models as bases of networks: the stages found in a model, or the reason why it cannot be a base."""

import multiprocessing
import os
import re
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import timm
import torch
from timm.models import get_deprecated_models

from buildup.errors import BaseError, unknown
from buildup.models.stages import FoundStage, find_stages, obstacle
from buildup.models.trace import Call, trace_calls

QUERIES = re.compile(r"(to_)?(q|qk|qkvs?|query)(_proj)?|in_proj")
"""The names of query projections in timm's models."""

OWN_FAMILY = "zoo"
"""The module in which this package registers its own models."""

PRUNED: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "resnet6": ("resnetv2_18", {"stem_chs": 8, "channels": [8, 16, 32], "layers": [0, 1, 1]}),
}
"""Bases of our own that are a timm model with other arguments, so that an export needs timm only. `resnet6` is a tiny
ResNet for images of about 28 px that trains in seconds: no block at full resolution, one at a half, one at a quarter.
A position of its last map sees 21 px."""

SEQUENTIAL_LIMIT = 16
"""Up to this number of models, starting worker processes takes longer than tracing in this one."""


class NotConvolutional(BaseError):
    """A model of timm that is no CNN."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedBase:
    """A base traced at its own input size."""

    name: str
    root: Call
    stages: tuple[FoundStage, ...]


def trace_base(base: str, base_args: Mapping[str, Any] | None = None) -> TracedBase:
    """Trace a base on the meta device and find its stages.

    Deprecated names of timm are mapped to their new ones; a pretrained tag is only checked.

    Raises:
        NotConvolutional: The model is no CNN.
        BaseError: There is no such model, or none of its blocks can be replaced.
    """
    name, _, tag = (get_deprecated_models().get(base) or base).partition(".")
    if not timm.is_model(name):
        raise BaseError(unknown("base", base, timm.list_models(), listed_by="`buildup models`"))
    known = [known.partition(".")[2] for known in timm.list_pretrained(f"{name}.*")]
    if tag and tag not in (*known, "untrained"):
        raise BaseError(unknown(f"pretrained tag of {name}", tag, known))
    model = create_on_meta(name, base_args or {})
    for path, _ in model.named_modules():
        if QUERIES.fullmatch(path.rpartition(".")[2]):
            raise NotConvolutional(f"{name} has attention of its own ({path}); a base is a convolutional network.")
    # A square image: equal sides tell height and width from channels.
    channels, height, width = model.pretrained_cfg["input_size"]
    root = trace_calls(name, model, (channels, max(height, width), max(height, width)))
    if not root.has_spatial_conv:
        raise NotConvolutional(f"{name} has no convolutional stages, so there is nothing in it to replace.")
    stages = find_stages(root)
    if not stages:
        raise BaseError(
            f"{name} can't be a base: no stage has, after its first block, one with spatial convolutions whose output "
            "has the shape of its input, so no block can be replaced."
        )
    return TracedBase(name=name, root=root, stages=stages)


def create_on_meta(name: str, arguments: Mapping[str, Any]) -> Any:
    try:
        with torch.device("meta"):
            return timm.create_model(name, **arguments)
    except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        # What models raise for unknown arguments, or for being created on the meta device.
        raise BaseError(f"{name} cannot be made by timm with {dict(arguments)}: {error}") from error


def judge_bases(known: Mapping[str, Any], pattern: str | None) -> dict[str, Any]:
    """Find out which of timm's models can be a base.

    Args:
        known: The result of an earlier call; empty at first.
        pattern: A glob of model names. Without one, all convolutional models are traced. A family counts as
            convolutional if its first, middle or last model is: tracing timm's many transformers takes longer than
            tracing all CNNs.

    Returns:
        Plain values: `families` maps every name to its timm module, `rows` has one verdict for each traced model, and
        `complete` tells whether all convolutional models were traced.
    """
    members = {family: timm.list_models(module=family) for family in timm.list_modules() if family != OWN_FAMILY}
    families = {name: family for family, names in members.items() for name in names} | dict.fromkeys(PRUNED, OWN_FAMILY)
    rows = dict(known.get("rows", {}))

    def judge(names: list[str]) -> None:
        missing = [name for name in names if name not in rows]
        own = [families[name] for name in missing]
        if len(missing) <= SEQUENTIAL_LIMIT:
            found = list(map(_judge, missing, own))
        else:
            # Spawned, since torch has threads of its own, and forking a process with threads can deadlock.
            context = multiprocessing.get_context("spawn")
            workers = min(8, os.cpu_count() or 1)
            with ProcessPoolExecutor(
                workers, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)
            ) as pool:
                found = list(pool.map(_judge, missing, own, chunksize=8))
        rows.update({row["name"]: row for row in found})

    if pattern:
        judge([name for name in families if fnmatch(name, pattern)])
        return {"families": families, "rows": rows, "complete": known.get("complete", False)}
    samples = {family: [names[0], names[len(names) // 2], names[-1]] for family, names in members.items()}
    judge([name for names in samples.values() for name in names])
    convolutional = [family for family, names in samples.items() if any(rows[name]["convolutional"] for name in names)]
    judge([*PRUNED, *(name for family in convolutional for name in members[family])])
    return {"families": families, "rows": rows, "complete": True}


def _judge(name: str, family: str) -> dict[str, Any]:
    row = {"name": name, "family": family, "supported": False, "reason": None, "stages": 0, "positions": 0}
    try:
        base = trace_base(*PRUNED.get(name, (name,)))
    except BaseError as error:
        return row | {"reason": str(error), "convolutional": not isinstance(error, NotConvolutional)}
    free = sum(obstacle(call) is None for stage in base.stages for call in stage.blocks[1:])
    return row | {"supported": True, "stages": len(base.stages), "positions": free, "convolutional": True}
