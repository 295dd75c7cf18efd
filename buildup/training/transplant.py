"""Start the new blocks of a pretrained network as imitations of the blocks that they replace.

A new block with random weights destroys what a trained network knows, so attention would lose by construction. Before
the first epoch, each new block is trained alone: it gets the input of the base's own block, and learns to give its
output. The base is frozen, labels are not used, and all blocks learn at the same time from one pass of the base. This
costs little, because no gradient goes through the base.

Attention first gets its last projection by ridge regression: the one with which what it mixes, by queries, keys and
values that are still random, comes nearest to what the base's block adds to its input.

A block that was added to the base imitates nothing, and starts as without pretrained weights. A block that computes
what the base's own does from the start, as gated attention in place of a 3x3 convolution, is left as it is.
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
from buildup.graph.network import Network, apply, replacement
from buildup.models.blocks import ChannelsLast, PostActAttentionBlock, PreActAttentionBlock
from buildup.models.build import build
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
SAME = 1e-6
"""The error up to which a block has nothing to learn."""


def imitating(network: Network) -> tuple[str, ...]:
    return tuple(path for path in network.replaced if not network.block(path).added)


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
) -> Mapping[str, float]:
    """Train the new blocks of a model to imitate the base's, in place, as the recipe asks, each batch in parts.

    Returns the error of each block by its path: the squared difference to the output of the base's block, relative to
    what that block changes in its input. A block that does nothing has 1.
    """
    paths = imitating(network)
    steps = imitation_steps(feed.recipe, len(feed.train))
    if not paths or not steps:
        return {}
    blocks = {path: model.get_submodule(path) for path in paths}
    base = build(_base(network), seed=feed.seed, device=feed.device, start=start).eval().requires_grad_(False)
    if execution.channels_last:
        base = base.to(memory_format=torch.channels_last)
    with ExitStack() as stack:
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        seen = stack.enter_context(_watched(base, paths))
        first = next(_images(feed)).chunk(parts)[0]
        same = _equal(blocks, base, seen, to_memory_format(first, execution))
        # A block without weights, such as smoothing, has nothing to learn.
        learning = {path: block for path, block in blocks.items() if any(True for _ in block.parameters())}
        blocks = {path: block for path, block in learning.items() if path not in same}
        if not blocks:
            return same
        errors: dict[str, list[Tensor]] = {path: [] for path in blocks}
        weights = chain.from_iterable(block.parameters() for block in blocks.values())
        optimizer = torch.optim.AdamW(weights, weight_decay=0)
        for block in blocks.values():
            stack.enter_context(_imitation_mode(block))
        _fit_projections(blocks, network, base, seen, feed, execution, parts)
        for step, inputs in enumerate(islice(_images(feed), steps)):
            for group in optimizer.param_groups:
                group["lr"] = LR * (1 + math.cos(math.pi * step / steps)) / 2
            optimizer.zero_grad()
            for part in inputs.chunk(parts):
                with torch.autocast(feed.device.type, torch.bfloat16, enabled=execution.precision == "bf16"):
                    with torch.no_grad():
                        base(to_memory_format(part, execution))
                    losses = {path: _error(block(seen[path][0]), *seen[path]) for path, block in blocks.items()}
                share = len(part) / len(inputs)
                _add_gradients(optimizer, share * torch.stack([*losses.values()]).sum(), feed.group)
                for path, loss in losses.items():
                    errors[path].append(loss.detach())
            optimizer.step()
    optimizer.zero_grad()
    return same | {path: fmean(torch.stack(found[-LAST * parts :]).tolist()) for path, found in errors.items()}


@torch.no_grad()
def _equal(
    blocks: Mapping[str, nn.Module], base: nn.Module, seen: Mapping[str, tuple[Tensor, Tensor]], inputs: Tensor
) -> dict[str, float]:
    """The errors of the blocks that compute the same as the base's blocks before any training."""
    base(inputs)
    with ExitStack() as stack:
        for block in blocks.values():
            stack.enter_context(_imitation_mode(block, norms=False))
        errors = {path: _error(block(seen[path][0]), *seen[path]).item() for path, block in blocks.items()}
    return {path: error for path, error in errors.items() if error < SAME}


@torch.no_grad()
def _fit_projections(
    blocks: Mapping[str, nn.Module],
    network: Network,
    base: nn.Module,
    seen: Mapping[str, tuple[Tensor, Tensor]],
    feed: Feed,
    execution: Execution,
    parts: int,
) -> None:
    """Set the last projections of attention by ridge regression on the base's features."""
    cores = {path: core for path, block in blocks.items() if (core := _attention_block(block)) is not None}
    styles = {path: network.block(path).style for path in cores}
    acts = {path: f"{path}.{style.act}" for path, style in styles.items() if style and style.act}
    products: dict[str, list[tuple[Tensor, Tensor]]] = {path: [] for path in cores}
    with _watched(base, list(acts.values())) as sums:
        batches = islice(_images(feed), FITTED) if cores else ()
        for inputs in chain.from_iterable(batch.chunk(parts) for batch in batches):
            base(to_memory_format(inputs, execution))
            for path, core in cores.items():
                given, wanted = seen[path]
                added = (sums[acts[path]][0] if path in acts else wanted) - given
                if isinstance(blocks[path], ChannelsLast):
                    given, added = given.permute(0, 3, 1, 2), added.permute(0, 3, 1, 2)
                mixed = _rows(_mixed(core, given))
                mixed = torch.cat([mixed, mixed.new_ones(len(mixed), 1)], dim=1)
                products[path].append((mixed.T @ mixed / len(mixed), mixed.T @ _rows(added) / len(mixed)))
    for path, core in cores.items():
        means = [torch.stack(found).mean(0) for found in zip(*products[path], strict=True)]
        square, cross = (total / feed.group.size for total in feed.group.sum(means))
        _set_projection(core, square, cross)


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


def _base(network: Network) -> Network:
    for path in network.replaced:
        network = apply(network, replacement(network, path, Conv()))
    return network


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
def _imitation_mode(block: nn.Module, *, norms: bool = True) -> Iterator[None]:
    """Turn dropout and dropped paths off. With `norms`, batch norms update their statistics."""
    with evaluation_mode(block):
        for module in block.modules():
            module.training = norms and isinstance(module, _BatchNorm)
        yield


def _error(output: Tensor, given: Tensor, wanted: Tensor) -> Tensor:
    output, given, wanted = output.float(), given.float(), wanted.float()
    changed = (wanted - given).square().mean()
    return (output - wanted).square().mean() / changed.clamp(min=torch.finfo(torch.float32).tiny)
