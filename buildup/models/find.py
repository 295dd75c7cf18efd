"""A timm name as a base: its model without memory, the stages found in it, or the reason why it can't be one."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.models import get_deprecated_models

from buildup.errors import BaseError, unknown
from buildup.graph.network import Shape
from buildup.models.stages import FoundStage, find_stages
from buildup.models.trace import Call, trace

QUERIES = re.compile(r"(to_)?(q|qk|qkvs?|query)(_proj)?|in_proj")
"""How timm's models name what makes the queries of attention."""


class NotConvolutional(BaseError):
    """A model of timm that is no CNN."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What is known of a base at its own size: all but the shapes at another."""

    name: str
    root: Call
    stages: tuple[FoundStage, ...]


def find(base: str, base_args: Mapping[str, Any] | None = None) -> Found:
    """The stages of a base; a `BaseError` says why it can't be one.

    Raises:
        NotConvolutional: The model is no CNN.
        BaseError: There is no such model, or nothing in it can be replaced.
    """
    name = base_name(base)
    model = create_on_meta(name, dict(base_args or {}))
    for path, _ in model.named_modules():
        if QUERIES.fullmatch(path.rpartition(".")[2]):
            raise NotConvolutional(f"{name} has attention of its own ({path}); a base is a convolutional network.")
    root = trace(name, model, own_shape(model))
    if not root.has_spatial_conv:
        raise NotConvolutional(f"{name} has no convolutional stages, so there is nothing in it to replace.")
    stages = find_stages(root)
    if not stages:
        raise BaseError(
            f"{name} can't be a base: no stage has, after its first block, one with convolutions that look around and "
            "that gives out maps like those that it takes, so nothing can take a block's place."
        )
    return Found(name=name, root=root, stages=stages)


def base_name(base: str) -> str:
    """The name of an architecture in timm, without tag; old names are followed to their new ones."""
    current = get_deprecated_models().get(base) or base
    name, _, tag = current.partition(".")
    if not timm.is_model(name):
        raise BaseError(unknown("base", base, timm.list_models()))
    known = [known.partition(".")[2] for known in timm.list_pretrained(f"{name}.*")]
    if tag and tag not in (*known, "untrained"):
        raise BaseError(unknown(f"pretrained tag of {name}", tag, known))
    return name


def create_on_meta(name: str, arguments: Mapping[str, Any]) -> Any:
    """A timm model without memory."""
    try:
        return without_memory(name, arguments)
    except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        # Whatever a model's code says to arguments it does not take, or to being made without memory.
        raise BaseError(f"{name} cannot be made by timm with {dict(arguments)}: {error}") from error


def without_memory(name: str, arguments: Mapping[str, Any]) -> Any:
    """The same, with timm's own errors."""
    try:
        with torch.device("meta"):
            return timm.create_model(name, **arguments)
    except NotImplementedError:
        # timm 1.0.29 computes the widths of RegNets with tensors; those have to be real ones.
        return timm.create_model(name, **arguments, device="meta")


def own_shape(model: Any) -> Shape:
    """The shape of the pictures that a model is made for, as a square: equal sides tell heights from channels."""
    channels, height, width = model.pretrained_cfg["input_size"]
    return channels, max(height, width), max(height, width)
