"""Teach the new blocks of a pretrained network what the blocks that they replace did, before the first epoch.

A new block with random weights destroys what a trained network knows, so attention would lose by construction. So the
new blocks are trained first, and alone, until the network gives its classifier the same features as the base. Labels
are not used, and the classifier may be new. Batch norms renew their statistics meanwhile, as in the training that
follows.

Attention gets its last projection by ridge regression before that: the one with which what it mixes, by queries, keys
and values that are still random, comes nearest to what the base's block adds to its input.

A block that keeps the base's own and starts as it, as gated attention, has nothing to learn.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain, count, islice
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from buildup.graph.kinds import Conv
from buildup.graph.network import Network, base_of
from buildup.models.blocks import ChannelsLast, PostActAttentionBlock, PreActAttentionBlock
from buildup.models.build import build
from buildup.models.pretrained import classifiers
from buildup.models.trace import evaluation_mode, hook_blocks
from buildup.training.data_parallel import ProcessGroup
from buildup.training.execution_words import Execution
from buildup.training.feed import Feed, batch_starts
from buildup.training.recipe import Recipe
from buildup.training.train_step import to_memory_format
from buildup.trials.training import Pretrained

LR = 3e-3
"""Of AdamW for the imitating blocks; it falls to zero as a cosine. They are new, whatever rate the base needs."""
LEAST = 100
"""The fewest steps, for small sets. On the digits, six steps kept 39 % of 97 % accuracy, with attention at two places,
and norms need dozens of steps for their statistics."""
LAST = 10
"""The steps whose mean error is the result."""
FITTED = 8
"""The batches of the regression."""
RIDGE = 1e-2
"""Its penalty, as a share of the mean square of the inputs."""


def new_blocks(network: Network) -> tuple[str, ...]:
    """The paths of the blocks that know nothing of the base's weights."""
    return tuple(
        block.path for block in network.blocks if block.added or not (isinstance(block.kind, Conv) or block.kind.within)
    )


def imitation_steps(recipe: Recipe, train_images: int) -> int:
    """How many steps the blocks imitate, by a recipe resolved for so many images; none if it has no imitation."""
    epochs = recipe.transplant * recipe.epochs
    return max(LEAST, round(epochs * len(batch_starts(train_images, recipe.batch_size)))) if epochs > 0 else 0


def transplant(
    model: nn.Module,
    network: Network,
    start: Pretrained,
    feed: Feed,
    execution: Execution,
    *,
    parts: int = 1,
) -> float | None:
    """Train the new blocks of a model until its features are those of the base, as the recipe asks, in place.

    Each batch is taken in parts. Returns the error: the squared difference of what the classifiers get, relative to
    the variance over images of what the base's gets. None if no block had to learn.
    """
    blocks = {path: model.get_submodule(path) for path in new_blocks(network)}
    weights = [weight for block in blocks.values() for weight in block.parameters()]
    steps = imitation_steps(feed.recipe, len(feed.train))
    if not weights or not steps:  # a block without weights, such as smoothing, can't learn
        return None
    base = build(base_of(network), seed=feed.seed, device=feed.device, start=start).eval().requires_grad_(False)
    if execution.channels_last:
        base = base.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(weights, weight_decay=0)
    errors: list[Tensor] = []
    with ExitStack() as stack:
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(_imitation_mode(model))
        variance = _fit_projections(blocks, network, base, feed, execution, parts)
        found, wanted = (stack.enter_context(_features(one, network)) for one in (model, base))
        for step, inputs in enumerate(islice(_images(feed), steps)):
            for group in optimizer.param_groups:
                group["lr"] = LR * (1 + math.cos(math.pi * step / steps)) / 2
            optimizer.zero_grad()
            for part in inputs.chunk(parts):
                with torch.autocast(feed.device.type, torch.bfloat16, enabled=execution.precision == "bf16"):
                    for one in (base, model):
                        one(to_memory_format(part, execution))
                error = (found.pop().float() - wanted.pop().float()).square().mean() / variance
                _add_gradients(optimizer, len(part) / len(inputs) * error, feed.group)
                errors.append(error.detach())
            optimizer.step()
    optimizer.zero_grad()
    return fmean(torch.stack(errors[-LAST * parts :]).tolist())


@torch.no_grad()
def _fit_projections(
    blocks: Mapping[str, nn.Module],
    network: Network,
    base: nn.Module,
    feed: Feed,
    execution: Execution,
    parts: int,
) -> Tensor:
    """Set the last projections of attention by ridge regression on the base's features.

    Returns the variance over images of what the base's classifier gets.
    """
    replacing = {path: block for path, block in blocks.items() if not network.block(path).added}
    cores = {path: core for path, block in replacing.items() if (core := _attention_block(block)) is not None}
    styles = {path: network.block(path).style for path in cores}
    acts = {path: f"{path}.{style.act}" for path, style in styles.items() if style and style.act}
    products: dict[str, list[tuple[Tensor, Tensor]]] = {path: [] for path in cores}
    moments: list[tuple[Tensor, Tensor]] = []
    with _watched(base, [*cores, *acts.values()]) as seen, _features(base, network) as features:
        for inputs in chain.from_iterable(batch.chunk(parts) for batch in islice(_images(feed), FITTED)):
            base(to_memory_format(inputs, execution))
            found = features.pop().float()
            moments.append((found.mean(0), found.square().mean(0)))
            for path, core in cores.items():
                given, wanted = seen[path]
                added = (seen[acts[path]][0] if path in acts else wanted) - given
                if isinstance(blocks[path], ChannelsLast):
                    given, added = given.permute(0, 3, 1, 2), added.permute(0, 3, 1, 2)
                mixed = _rows(_mixed(core, given))
                mixed = torch.cat([mixed, mixed.new_ones(len(mixed), 1)], dim=1)
                products[path].append((mixed.T @ mixed / len(mixed), mixed.T @ _rows(added) / len(mixed)))
    for path, core in cores.items():
        _set_projection(core, *_means(products[path], feed.group))
    mean, square = _means(moments, feed.group)
    return (square - mean.square()).mean().clamp(min=torch.finfo(torch.float32).tiny)


def _means(found: Sequence[tuple[Tensor, Tensor]], group: ProcessGroup) -> list[Tensor]:
    """Over batches, and over the processes of a training."""
    return [total / group.size for total in group.sum([torch.stack(one).mean(0) for one in zip(*found, strict=True)])]


def _attention_block(block: nn.Module) -> Any:
    """The residual attention block; None if its last projection can't be fitted, as before any norm but batch norm."""
    core: Any = block.block if isinstance(block, ChannelsLast) else block
    pre = isinstance(core, PreActAttentionBlock)
    if pre or (isinstance(core, PostActAttentionBlock) and isinstance(core.norm2, _BatchNorm)):
        out = getattr(core.attention, "out", None)
        return core if isinstance(out, nn.Conv2d) and out.kernel_size == (1, 1) and out.groups == 1 else None
    return None


def _mixed(core: Any, given: Tensor) -> Tensor:
    """The output of a block's attention without its last projection."""
    inputs: list[Tensor] = []
    with core.attention.register_forward_pre_hook(lambda _, given: inputs.append(given[0])):
        core(given)
    out = core.attention.out
    core.attention.out = nn.Conv2d(out.in_channels, out.in_channels, 1, device=given.device)
    nn.init.dirac_(core.attention.out.weight)
    nn.init.zeros_(core.attention.out.bias)
    mixed: Tensor = core.attention(inputs[0])
    core.attention.out = out
    return mixed


def _rows(maps: Tensor) -> Tensor:
    return maps.permute(0, 2, 3, 1).flatten(0, 2).float()


def _set_projection(core: Any, square: Tensor, cross: Tensor) -> None:
    """Set the last projection by ridge regression, from mean products: inputs with inputs, and inputs with targets."""
    penalty = RIDGE * square.diagonal().mean().clamp(min=1e-12) * torch.eye(len(square), device=square.device)
    weights = torch.linalg.solve(square + penalty, cross)
    core.attention.out.weight.copy_(weights[:-1].T[..., None, None])
    core.attention.out.bias.copy_(weights[-1])
    if isinstance(core, PostActAttentionBlock):
        # The norm that follows gives back the mean and the deviation that it takes away.
        mean = square[-1] @ weights
        variance = (weights * (square @ weights)).sum(0) - mean.square()
        norm: Any = core.norm2
        norm.weight.copy_((variance.clamp(min=0) + norm.eps).sqrt())
        norm.bias.copy_(mean)
    elif core.scale is not None:
        core.scale.fill_(1)


def _add_gradients(optimizer: torch.optim.Optimizer, loss: Tensor, group: ProcessGroup) -> None:
    """Add their gradients to those of the weights, in all processes of a training the mean of them.

    Not by `backward`, which would also call the hooks of DistributedDataParallel, outside of a step that it knows.
    """
    weights = [weight for part in optimizer.param_groups for weight in part["params"]]
    for weight, gradient in zip(weights, group.sum(torch.autograd.grad(loss, weights)), strict=True):
        gradient = gradient / group.size
        weight.grad = gradient if weight.grad is None else weight.grad + gradient


def _images(feed: Feed) -> Iterator[Tensor]:
    """Endless batches of augmented training images, in other orders than in the epochs of the training."""
    return (inputs for number in count() for inputs, _ in feed.epoch(-number))


@contextmanager
def _watched(base: nn.Module, paths: Sequence[str]) -> Iterator[Mapping[str, tuple[Tensor, Tensor]]]:
    """The last input and output of blocks, by their paths."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(path: str, given: Tensor, output: Tensor) -> None:
        seen[path] = given, output.clone()  # a copy, since activations that work in place change maps

    with hook_blocks(base, paths, keep):
        yield seen


@contextmanager
def _features(model: nn.Module, network: Network) -> Iterator[list[Tensor]]:
    """What the classifier of a model gets in each call, appended to a list."""
    found: list[Tensor] = []
    classifier = model.get_submodule(classifiers(network.base)[0])
    with classifier.register_forward_pre_hook(lambda _, given: found.append(given[0])):
        yield found


@contextmanager
def _imitation_mode(model: nn.Module) -> Iterator[None]:
    """Turn dropout and dropped paths off, while batch norms update their statistics."""
    with evaluation_mode(model):
        for module in model.modules():
            module.training = isinstance(module, _BatchNorm)
        yield
