"""A network as a timm model: the base, with some of its blocks replaced, and others added at the ends of its stages."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from math import ceil
from typing import Any

import numpy as np
import timm
import torch
from timm.layers.drop import DropPath
from timm.models import FeatureDictNet, FeatureGraphNet, FeatureHookNet, FeatureListNet, build_model_with_cfg
from timm.models._features import FeatureGetterNet
from torch import nn

from buildup.graph.kinds import Conv
from buildup.graph.network import Block, Network, Shape
from buildup.graph.serialize import network_to_values
from buildup.models.bases import create_on_meta
from buildup.models.blocks import block_factory
from buildup.models.pretrained import load_pretrained
from buildup.models.stem import apply_small_stem
from buildup.trials.training import Pretrained

ENTRY_POINT = "alternet"
"""The name of all built networks in timm; see `zoo.py`."""


def build(
    network: Network,
    *,
    seed: int | None = None,
    device: torch.device | str = "cpu",
    start: Pretrained | None = None,
    pretrained: bool = False,
    pretrained_cfg: Any = None,
    **overrides: Any,
) -> nn.Module:
    """The timm model of a network.

    Args:
        network: what to build.
        seed: The base is initialised as after `torch.manual_seed(seed)`, and every other block from a seed of its own
            that depends on the seed and its path. So two networks share all initial weights of the blocks that they
            share. The caller's random state does not change. Without a seed, the global generator is used.
        device: Where the model goes. It is initialised on the CPU, so that a seed means the same on every device,
            unless this is `meta`.
        start: Trained weights for all blocks of the base's own. The other blocks are initialised as without it.
        pretrained: Whether timm loads the weights that `pretrained_cfg` names.
        pretrained_cfg: What timm passes to the entry point of a model; `data_config(network)` by default.
        overrides: Further arguments of timm's `create_model`: `num_classes`, `in_chans`, `drop_path_rate`,
            `features_only`, `out_indices` and more.
    """
    model: nn.Module = build_model_with_cfg(
        partial(_edited, network, seed, torch.device(device), start),
        ENTRY_POINT,
        pretrained,
        pretrained_cfg=pretrained_cfg or {"architecture": ENTRY_POINT, **data_config(network)},
        feature_cfg=feature_config(network) if overrides.get("features_only") else None,
        **overrides,
    )
    return model


def data_config(network: Network) -> dict[str, Any]:
    """timm's `pretrained_cfg` for a network: its own input and classes, the rest as in its base."""
    reduction = 1 / 4 if network.stem == "small" else 1
    return base_config(network.base, network.input_shape, network.num_classes, reduction=reduction)


def base_config(base: str, input_shape: Shape, num_classes: int, *, reduction: float = 1) -> dict[str, Any]:
    """timm's `pretrained_cfg` of a base for other images and classes.

    `reduction` is how much more the maps are reduced than in the base: 1/4 with the small stem.
    """
    own: Any = timm.get_pretrained_cfg(base)
    kept = ("mean", "std", "crop_pct", "interpolation", "first_conv", "classifier")
    config = {"input_size": input_shape, "num_classes": num_classes, **{name: getattr(own, name) for name in kept}}
    if own.pool_size:
        whole, pooled = own.input_size[-1], own.pool_size[-1]
        config["pool_size"] = tuple(ceil(side * pooled / whole / reduction) for side in input_shape[1:])
    return config


WRAPPERS: dict[type, str] = {
    FeatureDictNet: "dict",
    FeatureGetterNet: "getter",
    FeatureGraphNet: "fx",
    FeatureHookNet: "hook",
    FeatureListNet: "list",
}
"""timm's wrappers for feature extraction, with their names in `feature_cls`."""


def feature_config(network: Network) -> dict[str, Any]:
    """timm's `feature_cfg` for a network: that of its base, or hooks if the base has a wrapper class of its own."""
    arguments = {"features_only": True, **network.base_args}
    if network.base_args:  # timm's usual indices may be more than the stages that these arguments leave
        arguments["out_indices"] = tuple(range(len(create_on_meta(network.base, network.base_args).feature_info)))
    wrapped = create_on_meta(network.base, arguments)
    return {
        "feature_cls": WRAPPERS.get(type(wrapped), "hook"),
        "out_indices": tuple(wrapped.feature_info.out_indices),
        # The list wrapper finds modules a level below the model only when it flattens.
        "flatten_sequential": any("." in row["module"] for row in wrapped.feature_info.info),
    }


def _edited(
    network: Network, seed: int | None, device: torch.device, start: Pretrained | None, **overrides: Any
) -> Any:
    own = {"num_classes": network.num_classes, "in_chans": network.input_shape[0], **network.base_args}
    arguments = {**own, **overrides}
    place = torch.device("meta" if device.type == "meta" else "cpu")

    def create_base() -> Any:
        if place.type == "meta":
            return create_on_meta(network.base, arguments)
        with place:
            return timm.create_model(network.base, **arguments)

    def replace(block: Block) -> None:
        with _seeded(seed, block.path), place:
            model.set_submodule(block.path, block_factory(block)(model.get_submodule(block.path)))

    with _seeded(seed):
        model = create_base()
    with _seeded(seed, "stem"), place:
        apply_small_stem(model, dict(network.shrunk))
    for stage in network.stages:
        last = [block for block in stage.blocks if not block.added][-1]
        for block in stage.blocks:
            if block.added:
                # A new block is initialised as the last block of another fresh base.
                with _seeded(seed, block.path):
                    fresh = create_base()
                model.set_submodule(block.path, fresh.get_submodule(last.path))
            if not isinstance(block.kind, Conv) and not block.kind.within:
                replace(block)
    if any(block.added for block in network.blocks):
        _spread_drop_paths(model, network)
    if start is not None:
        load_pretrained(model, network, start)
    # Layers inside of the base's blocks start from what was loaded.
    for block in network.blocks:
        if block.kind.within:
            replace(block)
    model._model_args = {"network": network_to_values(network)}
    return model.to(device)


def _spread_drop_paths(model: nn.Module, network: Network) -> None:
    """Spread the base's rates of dropped paths over all blocks, which are more than in the base.

    Each block gets the rate that the base has at the same share of the depth. A rate that rises from zero to r over the
    base so becomes r * i / (N - 1) for block i of N, as in the reference code.
    """
    blocks = tuple(network.blocks)
    paths = [
        [module for module in model.get_submodule(block.path).modules() if isinstance(module, DropPath)]
        for block in blocks
    ]
    own = [found for block, found in zip(blocks, paths, strict=True) if not block.added]
    # A first block without a path has a rate of zero. Where others have none, the base never drops theirs.
    known = [(place, found[0].drop_prob if found else 0.0) for place, found in enumerate(own) if found or not place]
    depths, rates = zip(*known, strict=True)
    for place, found in enumerate(paths):
        rate = float(np.interp(place * (len(own) - 1) / (len(paths) - 1), depths, rates))
        for module in found:
            module.drop_prob = rate


@contextmanager
def _seeded(seed: int | None, path: str | None = None) -> Iterator[None]:
    """Seed the CPU's generator, with a seed that depends on the path if there is one, and restore its state after."""
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
