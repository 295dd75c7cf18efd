"""Measures how fast a training runs on this machine, by a few steps.

On 2 cores with avx512_bf16 (resnet18 with the small stem, 96 images of 32 px, torch 2.15): a step takes
1.37 s in float32, 0.76 s channels-last, 0.43 s channels-last in bfloat16.
"""

import time
import timeit
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from buildup.errors import ResourceError
from buildup.graph.network import Network
from buildup.training.augmentation import soft_targets
from buildup.training.execution import (
    has_matrix_units,
    is_out_of_memory,
    keep_freed_memory,
    share_of_memory,
    torch_settings,
)
from buildup.training.execution_words import Execution
from buildup.training.recipe import Recipe
from buildup.training.train_step import (
    Stepper,
    create_training_model,
    make_optimizer,
    prepare_model,
    to_memory_format,
)
from buildup.training.validation import evaluating

CPU_BATCH = 32
"""Batch size of a measured step on a CPU. Four networks trained 1 to 10 % faster with 64 images in a step, and 11 to
18 % slower with 16, in bfloat16 on a core with matrix units."""
CPU_STEPS, GPU_STEPS = 2, 10
COMPILING = 60.0
"""Compiling blocks takes about so many seconds, so it is tried only for trainings that take longer."""
WORTHWHILE = 0.95
"""A form of steps replaces a simpler one if it takes at most this share of its time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """The measured times of an execution."""

    execution: Execution
    train: float
    """Seconds an image, dropped paths included, without data and augmentation; the best of a few steps."""
    evaluate: float
    preparation: float
    """Seconds before the first step: compiling, capturing, choosing kernels."""

    def seconds(self, images: int) -> float:
        """The time of a training on so many images, without evaluation."""
        return self.preparation + images * self.train


def default_execution(recipe: Recipe, device: str) -> Execution:
    """The execution for a kind of device: bfloat16 if the recipe allows it and the device has matrix units for it.

    A CUDA device that is not on this machine, such as a cluster's, is taken for one that has them.
    """
    place = torch.device(device)
    remote = place.type == "cuda" and not torch.cuda.is_available()
    fast = recipe.amp and (remote or has_matrix_units(place))
    return Execution(precision="bf16" if fast else "float32", channels_last=place.type != "mps")


def choose_execution(
    network: Network,
    recipe: Recipe,
    *,
    device: str,
    threads: int,
    steps: int,
    settled: Mapping[str, Any] | None = None,
    share: float = 1.0,
) -> tuple[Speed, ...]:
    """Measure the execution of a device; on CUDA, also captured and compiled steps. The fastest comes first.

    These forms of a step compute the same, but for rounding. `settled` has the fields of the execution that were asked
    for, and `share` is what a training may use of a GPU's memory.
    """
    place = torch.device(device)
    settled = settled or {}
    chosen = replace(default_execution(recipe, device), **settled)
    with share_of_memory(device, share):
        try:
            tried = [measure_speed(network, recipe, chosen, device=device, threads=threads)]
        except (MemoryError, RuntimeError) as problem:
            if chosen.deterministic and "deterministic" in str(problem):
                reason = str(problem).partition(". ")[0]
                said = f"--execution deterministic: {network.base} can't be trained so: {reason}."
                raise ResourceError(said) from None
            if is_out_of_memory(problem):
                raise ResourceError(
                    f"--device {device}: a step of {_batch_size(recipe, place)} images of {network.base} does not fit "
                    "into the memory that is free there. Use a recipe with a smaller batch_size, or end what else uses "
                    "it."
                ) from None
            raise
        images = steps * _batch_size(recipe, place)
        for form in ("captured", "compiled") if place.type == "cuda" and "steps" not in settled else ():
            if form == "compiled" and tried[0].seconds(images) <= COMPILING:
                break
            try:
                found = measure_speed(network, recipe, replace(chosen, steps=form), device=device, threads=threads)
            except (MemoryError, RuntimeError):
                break  # this network can't be trained so, and a failed capture may fail all later ones
            is_faster = found.seconds(images) < WORTHWHILE * tried[0].seconds(images)
            tried.insert(0 if is_faster else len(tried), found)
    return tuple(tried)


def measure_speed(network: Network, recipe: Recipe, execution: Execution, *, device: str, threads: int) -> Speed:
    place = torch.device(device)
    if place.type == "cpu":
        keep_freed_memory()
    with torch_settings(threads, deterministic=execution.deterministic):
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(_batch_size(recipe, place), *network.input_shape, generator=generator).to(place)
        labels = torch.randint(network.num_classes, (len(images),), generator=generator).to(place)
        targets = soft_targets(labels, network.num_classes, recipe.label_smoothing)
        model = prepare_model(create_training_model(network, recipe, seed=0, device=place), network, execution)
        stepper = Stepper(model, make_optimizer(model, recipe, execution), recipe, execution)
        model.train()
        began = _now(place)
        stepper.capture(images, targets)
        stepper(images, targets, recipe.lr)
        preparation = _now(place) - began
        timer, repeat = partial(_now, place), GPU_STEPS if place.type == "cuda" else CPU_STEPS
        if execution.steps != "eager" and len(images) > 1:
            # The last batch of an epoch, for which the memory of a graph is no help.
            stepper(images[:-1], targets[:-1], recipe.lr)
        train = min(timeit.repeat(lambda: stepper(images, targets, recipe.lr), timer=timer, repeat=repeat, number=1))
        with evaluating(model, execution):
            evaluate = min(
                timeit.repeat(lambda: model(to_memory_format(images, execution)), timer=timer, repeat=repeat, number=1)
            )
    return Speed(
        execution=execution,
        train=train / len(images),
        evaluate=evaluate / len(images),
        preparation=max(0.0, preparation - train),  # the first step is one of the training's own
    )


def _batch_size(recipe: Recipe, device: torch.device) -> int:
    return min(recipe.batch_size, CPU_BATCH) if device.type == "cpu" else recipe.batch_size


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()
