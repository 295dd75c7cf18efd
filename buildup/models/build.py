"""A network as a timm model: the base, with some of its blocks replaced in place or added at its stages' ends."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from math import ceil
from typing import Any

import timm
import torch
from timm.models import (
    FeatureDictNet,
    FeatureGraphNet,
    FeatureHookNet,
    FeatureListNet,
    build_model_with_cfg,
)
from timm.models._features import FeatureGetterNet
from torch import nn

from buildup.graph.kinds import Conv
from buildup.graph.network import Network, Shape
from buildup.graph.serialize import network_to_values
from buildup.models.blocks import build_block
from buildup.models.find import without_memory
from buildup.models.pretrained import Pretrained, load_pretrained
from buildup.models.stem import shrink

ENTRY_POINT = "alternet"
"""The name under which timm knows all built networks; see `zoo.py`."""


def build(
    network: Network,
    *,
    seed: int | None = None,
    device: torch.device | str = "cpu",
    start: Pretrained | None = None,
    **overrides: Any,
) -> nn.Module:
    """The timm model of a network.

    Args:
        network: what to build.
        seed: The base starts as `torch.manual_seed(seed)` makes it start, and every other block from a seed of its
            own, found by the seed and its path: two networks share all initial weights of the blocks they share.
            The caller's random numbers are not touched. Without a seed, the global generator is used.
        device: Where the model goes. It is initialised on the CPU, so that a seed means the same on every device,
            unless this is `meta`.
        start: The trained weights that all blocks of the base's own begin with. The others begin as without it.
        overrides: What timm's `create_model` takes beside the name: `num_classes`, `in_chans`, `drop_path_rate`,
            `features_only`, `out_indices` and more.
    """
    return create(network, seed=seed, device=device, start=start, **overrides)


def create(
    network: Network,
    *,
    seed: int | None = None,
    device: torch.device | str = "cpu",
    start: Pretrained | None = None,
    pretrained: bool = False,
    pretrained_cfg: Any = None,
    **overrides: Any,
) -> nn.Module:
    """`build` with what timm gives an entry point in addition."""
    model: nn.Module = build_model_with_cfg(
        partial(_edited, network, seed, torch.device(device), start),
        ENTRY_POINT,
        pretrained,
        pretrained_cfg=pretrained_cfg or data_config(network),
        feature_cfg=feature_config(network) if overrides.get("features_only") else None,
        **overrides,
    )
    return model


def data_config(network: Network) -> dict[str, Any]:
    """timm's `pretrained_cfg` for a network: its own input and classes, its base's habits for the rest."""
    reduction = 1 / 4 if network.stem == "small" else 1
    return {
        "architecture": ENTRY_POINT,
        **base_config(network.base, network.input_shape, network.num_classes, reduction=reduction),
    }


def base_config(base: str, input_shape: Shape, num_classes: int, *, reduction: float = 1) -> dict[str, Any]:
    """What timm's `pretrained_cfg` says of a base, for other images and classes.

    Args:
        base: its name in timm.
        input_shape: that of the images.
        num_classes: the size of the classifier.
        reduction: how much more the maps are reduced than in the base; 1/4 with the small stem.
    """
    style_source: Any = timm.get_pretrained_cfg(base)
    kept = ("mean", "std", "crop_pct", "interpolation", "first_conv", "classifier")
    config = {
        "input_size": input_shape,
        "num_classes": num_classes,
        **{name: getattr(style_source, name) for name in kept},
    }
    if style_source.pool_size:
        whole, pooled = style_source.input_size[-1], style_source.pool_size[-1]
        config["pool_size"] = tuple(ceil(side * pooled / whole / reduction) for side in input_shape[1:])
    return config


WRAPPERS: dict[type, str] = {
    FeatureDictNet: "dict",
    FeatureGetterNet: "getter",
    FeatureGraphNet: "fx",
    FeatureHookNet: "hook",
    FeatureListNet: "list",
}
"""timm's wrappers that give out features, by the names that its builder has for them."""


def feature_config(network: Network) -> dict[str, Any]:
    """How timm takes features from a network: as from its base, and by hooks where the base has a class of its own."""
    wrapped = without_memory(network.base, {"features_only": True, **network.base_args})
    wrapper = WRAPPERS.get(type(wrapped), "hook")
    return {
        "feature_cls": wrapper,
        "out_indices": tuple(wrapped.feature_info.out_indices),
        # The wrapper that lists modules finds those that lie a level below the model only when it flattens.
        "flatten_sequential": any("." in row["module"] for row in wrapped.feature_info.info),
    }


def _edited(
    network: Network, seed: int | None, device: torch.device, start: Pretrained | None, **overrides: Any
) -> Any:
    arguments = {
        "num_classes": network.num_classes,
        "in_chans": network.input_shape[0],
        **network.base_args,
        **overrides,
    }
    place = torch.device("meta" if device.type == "meta" else "cpu")
    with _seeded(seed):
        model = _base(network.base, arguments, place)
    with _seeded(seed, "stem"), place:
        shrink(model, dict(network.shrunk))
    for stage in network.stages:
        last = [block for block in stage.blocks if not block.added][-1]
        for block in stage.blocks:
            if block.added:
                # The last block of one more fresh base has timm's own start for this place.
                with _seeded(seed, block.path):
                    fresh = _base(network.base, arguments, place)
                put(model, block.path, fresh.get_submodule(last.path))
            if not isinstance(block.kind, Conv):
                with _seeded(seed, block.path), place:
                    replaced = model.get_submodule(block.path)
                    put(model, block.path, build_block(block, replaced))
    if start is not None:
        load_pretrained(model, network, start)
    model._model_args = {"network": network_to_values(network)}
    return model.to(device)


def _base(name: str, arguments: dict[str, Any], place: torch.device) -> Any:
    if place.type == "meta":
        return without_memory(name, arguments)
    with place:
        return timm.create_model(name, **arguments)


def put(model: nn.Module, path: str, block: nn.Module) -> None:
    """Let a block stand at a path of a model."""
    parent, _, name = path.rpartition(".")
    model.get_submodule(parent).add_module(name, block)


@contextmanager
def _seeded(seed: int | None, path: str | None = None) -> Iterator[None]:
    """Inside, the CPU's generator starts from the seed, or from one of a path's own; afterwards it is as before."""
    if seed is None:
        yield
        return
    if path is not None:
        seed = int.from_bytes(hashlib.sha256(f"{seed}/{path}".encode()).digest()[:8])
    # Not torch.manual_seed and fork_rng: they would also reset the generators of every accelerator.
    before = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(before)
