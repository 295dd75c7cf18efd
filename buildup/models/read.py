"""A timm model as a network: its stages and blocks, found and traced without weights.

Nothing here knows a family of models. The model runs once on the meta device with a picture of its own size, which
tells blocks, stages, habits and the small stem; and once more with the size that is asked for, which tells the shapes.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from buildup.errors import BaseError
from buildup.graph.network import Block, Network, Shape, Shrink, Stage, chain
from buildup.models.find import Found, create_on_meta, find
from buildup.models.form import EXPANSIONS, find_form
from buildup.models.stages import FoundStage, obstacle
from buildup.models.stem import GAIN, find_shrunk, shrink
from buildup.models.trace import Call, trace

SMALL = 64
"""Images up to this side get the small stem, unless the space says otherwise."""

TAKEN = {"device", "features_only", "in_chans", "num_classes", "pretrained"}
"""Arguments of timm's `create_model` that are no settings of a base."""


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
        stem: `auto` is `small` at inputs of up to 64 px where the base lets itself be given one, else `base`.
        base_args: What timm's `create_model` gets beside the name.
    """
    arguments = dict(base_args or {})
    if taken := sorted(arguments.keys() & TAKEN):
        raise BaseError(f"base_args of {base} has {', '.join(taken)}, which the network itself says.")
    found = find(base, arguments)
    asked = {"in_chans": input_shape[0], "num_classes": num_classes, **arguments}
    shrunk = find_shrunk(found.root) if stem == "small" or (stem == "auto" and max(input_shape[1:]) <= SMALL) else {}
    shapes = _shapes(found, asked, input_shape, shrunk)
    if shrunk and not _larger(found, shapes, input_shape):
        shrunk = {}
        shapes = _shapes(found, asked, input_shape, shrunk)
    if stem == "small" and not shrunk:
        raise BaseError(
            f"{found.name} can't be given the small stem: its first halvings are no convolutions or poolings. "
            "Use stem: base, or stem: auto, which takes the small stem only where there can be one."
        )
    stages = tuple(_stage(found, stage, shapes) for stage in found.stages)
    return Network(
        base=found.name,
        base_args=arguments,
        stem="small" if shrunk else "base",
        shrunk=tuple(shrunk.items()),
        input_shape=input_shape,
        num_classes=num_classes,
        stages=stages,
        edges=chain(sorted((block.path for stage in stages for block in stage.blocks), key=list(shapes).index)),
    )


def _shapes(
    found: Found, arguments: dict[str, Any], input_shape: Shape, shrunk: Mapping[str, Shrink]
) -> dict[str, tuple[Shape, Shape]]:
    """Shapes before and after every block, in the order in which the model runs them."""
    model = create_on_meta(found.name, arguments)
    shrink(model, shrunk)
    calls = {call.path: call for call in trace(found.name, model, input_shape).inside}
    paths = {call.path: call for stage in found.stages for call in stage.blocks}
    last = {path: find_form(call, found.root).channels_last for path, call in paths.items()}
    return {
        path: (_shape(call.took, last[path]), _shape(call.gave, last[path]))
        for path, call in calls.items()
        if path in paths
    }


def _shape(tensor: Tensor | None, channels_last: bool) -> Shape:
    if tensor is None or tensor.ndim != 4:
        return (0, 0, 0)
    _, *sides = tensor.shape
    channels, height, width = (sides[2], *sides[:2]) if channels_last else sides
    return channels, height, width


def _larger(found: Found, shapes: dict[str, tuple[Shape, Shape]], input_shape: Shape) -> bool:
    """Whether the maps of the last stage became larger by what the small stem is for."""
    last = found.stages[-1].blocks[-1]
    assert last.gave is not None
    assert found.root.took is not None
    reduction = found.root.took.shape[-1] / last.gave.shape[2]
    return shapes[last.path][1][2] * reduction > input_shape[2] * GAIN / 1.5


def _stage(found: Found, stage: FoundStage, shapes: dict[str, tuple[Shape, Shape]]) -> Stage:
    last = stage.blocks[-1]
    return Stage(
        name=stage.name,
        blocks=tuple(
            Block(
                path=call.path,
                module=type(call.module).__name__,
                in_shape=shapes[call.path][0],
                out_shape=shapes[call.path][1],
                params=sum(weight.numel() for weight in call.module.parameters()),
                expansion=EXPANSIONS.get(type(call.module)),
                form=find_form(call, found.root),
                fixed=(obstacle(call) or "") if call.keeps_shape else "",
            )
            for call in stage.blocks
        ),
        grows=obstacle(last) is None and _grows(found.root, last),
    )


def _grows(root: Call, last: Call) -> bool:
    """Whether a module set behind the last block would be run, found by trying where that is not plain."""
    parent_path, _, name = last.path.rpartition(".")
    parent: Any = root.module.get_submodule(parent_path)
    if not name[-1].isdigit() or list(parent.named_children())[-1][0] != name:
        return False
    if type(parent) is nn.Sequential:
        return True
    call = next((call for call in last.above if call.path == parent_path), None)
    if call is None or call.took is None or call.given != 1:
        return False
    ran: list[bool] = []
    probe = nn.Identity()
    probe.register_forward_hook(lambda *_: ran.append(True))
    parent.add_module("probe", probe)
    try:
        with torch.no_grad():
            parent(call.took)
    finally:
        del parent.probe
    return bool(ran)
