"""A timm model as a network: its stages and blocks, found and traced without weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import timm
import torch
from timm.models import get_deprecated_models
from torch import Tensor, nn

from buildup.errors import BaseError, unknown
from buildup.graph.network import Block, Network, Shape, Stage, Stem, chain
from buildup.models.blocks import FORMS, NORMS
from buildup.models.stem import SMALL_STEMS

SMALL = 64
"""Images up to this side get the small stem, unless the space says otherwise."""

FAMILIES = ("resnet", "resnetv2")
"""The timm modules whose models can be a base; `read` looks at the model itself, this is for listing names."""


TAKEN = {"device", "features_only", "in_chans", "num_classes", "pretrained"}
"""Arguments of timm's `create_model` that are no settings of a base."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A timm name, and whether it can be a base."""

    name: str
    family: str
    """timm's module."""
    reason: str | None
    """Why it cannot; None where it can."""


def bases() -> list[str]:
    """The timm names that can be a base."""
    return [name for family in FAMILIES for name in timm.list_models(module=family)]


def catalogue(pattern: str = "*") -> list[Listed]:
    """All timm names of a pattern such as `resnet*`, without making their models: a family is read or it is not."""
    known = {name: family for family in timm.list_modules() for name in timm.list_models(module=family)}
    not_yet = f"bases are read from timm's families {' and '.join(FAMILIES)} so far"
    return [
        Listed(name=name, family=known[name], reason=None if known[name] in FAMILIES else not_yet)
        for name in timm.list_models(pattern)
        if name in known
    ]


def refusal(base: str) -> str | None:
    """Why a timm model can't be a base, found by making it; None when it can."""
    try:
        name = _name(base)
        with torch.device("meta"):
            _stages(name, _create(name, {}))
    except BaseError as error:
        return str(error)
    return None


def read(
    base: str,
    *,
    input_shape: Shape,
    num_classes: int,
    stem: Literal["auto", "small", "base"] = "auto",
    base_args: Mapping[str, Any] | None = None,
) -> Network:
    """The network of a timm model, all of its blocks as timm makes them.

    Args:
        base: The model's name in timm; a pretrained tag (`resnet50.a1_in1k`) is checked and dropped, since weights
            are no part of a network.
        input_shape: What the shapes of all blocks are traced with.
        num_classes: The size of the classifier.
        stem: `auto` is `small` at inputs of up to 64 px, else `base`.
        base_args: What timm's `create_model` gets beside the name.
    """
    name = _name(base)
    arguments = dict(base_args or {})
    if taken := sorted(arguments.keys() & TAKEN):
        raise BaseError(f"base_args of {name} has {', '.join(taken)}, which the network itself says.")
    chosen: Stem = ("small" if max(input_shape[1:]) <= SMALL else "base") if stem == "auto" else stem
    with torch.device("meta"):
        model = _create(name, {"in_chans": input_shape[0], "num_classes": num_classes, **arguments})
        stages = _stages(name, model)
        if chosen == "small":
            SMALL_STEMS[type(model)](model)
        shapes = _trace(name, model.eval(), [path for stage in stages.values() for path in stage], input_shape)
    return Network(
        base=name,
        base_args=arguments,
        stem=chosen,
        input_shape=input_shape,
        num_classes=num_classes,
        stages=tuple(
            Stage(
                name=stage,
                blocks=tuple(
                    Block(path=path, module=type(block).__name__, in_shape=shapes[path][0], out_shape=shapes[path][1])
                    for path, block in blocks.items()
                ),
            )
            for stage, blocks in stages.items()
        ),
        edges=chain(shapes),
    )


def _name(base: str) -> str:
    """The name of an architecture in timm, without tag; old names are followed to their new ones."""
    current = get_deprecated_models().get(base) or base
    name, _, tag = current.partition(".")
    if not timm.is_model(name):
        raise BaseError(unknown("base", base, bases()))
    known = [known.partition(".")[2] for known in timm.list_pretrained(f"{name}.*")]
    if tag and tag not in (*known, "untrained"):
        raise BaseError(unknown(f"pretrained tag of {name}", tag, known))
    return name


def _create(name: str, arguments: dict[str, Any]) -> Any:
    try:
        return timm.create_model(name, **arguments)
    except (AssertionError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        # Whatever a model's code says to arguments it does not take, or to being made without memory.
        raise BaseError(f"{name} cannot be made by timm with {arguments}: {error}") from error


def _stages(name: str, model: Any) -> dict[str, dict[str, nn.Module]]:
    """Paths and blocks of every stage, by the stage's path: timm's table of features says where stages end."""
    if not any(_looks_around(module) for module in model.modules()):
        raise BaseError(f"{name} has no convolutional stages, so there is nothing in it to replace. {_supported()}")
    if type(model) not in SMALL_STEMS:
        raise BaseError(f"{name} is of timm's class {type(model).__name__}, which can't be a base yet. {_supported()}")
    stages = {}
    for path in (row["module"] for row in model.feature_info[1:]):
        stage = model.get_submodule(path)
        container, prefix = (stage, path) if isinstance(stage, nn.Sequential) else (stage.blocks, f"{path}.blocks")
        stages[path] = {f"{prefix}.{index}": block for index, block in container.named_children()}
    for block in (block for stage in stages.values() for block in stage.values()):
        if type(block) not in FORMS:
            found = type(block).__name__
            raise BaseError(f"{name} is made of {found} blocks, which have no attention form yet. {_supported()}")
        norm = getattr(block, FORMS[type(block)].parts["norm"])
        if not isinstance(norm, NORMS):
            known = ", ".join(norm.__name__ for norm in NORMS)
            raise BaseError(f"{name} normalises by {type(norm).__name__}; attention blocks know {known}.")
    return stages


def _looks_around(module: nn.Module) -> bool:
    """Whether a module is a convolution whose windows overlap, unlike those that cut a picture into patches."""
    return isinstance(module, nn.Conv2d) and module.kernel_size > module.stride


def _trace(name: str, model: nn.Module, paths: list[str], input_shape: Shape) -> dict[str, tuple[Shape, Shape]]:
    """Shapes before and after every block, in the order in which the model runs them."""
    shapes: dict[str, tuple[Shape, Shape]] = {}

    def note(path: str, module: nn.Module, before: tuple[Tensor], after: Tensor) -> None:
        shapes[path] = _shape(before[0]), _shape(after)

    for path in paths:
        model.get_submodule(path).register_forward_hook(partial(note, path))
    try:
        model(torch.empty(1, *input_shape))
    except (RuntimeError, ValueError) as error:
        raise BaseError(f"{name} cannot take images of shape {input_shape}: {error}") from error
    return shapes


def _shape(tensor: Tensor) -> Shape:
    _, channels, height, width = tensor.shape
    return channels, height, width


def _supported() -> str:
    return f"A base is a model of timm's {' or '.join(f'{family}.py' for family in FAMILIES)}, such as resnet50."
