"""How fast this machine trains a network, and by which execution fastest: measured with a few steps, once a run.

Measured so on 2 cores with avx512_bf16 (resnet18 with the small stem, 96 images of 32 px, torch 2.15): a step takes
1.37 s in float32, 0.76 s channels-last, 0.43 s channels-last in bfloat16.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from buildup.errors import ResourceError
from buildup.graph.network import Network
from buildup.models.build import build
from buildup.training.augment import soft_targets
from buildup.training.device import cpu_has_bfloat16, torch_settings
from buildup.training.execution import Execution
from buildup.training.recipe import Recipe
from buildup.training.step import Stepper, laid_out, make_optimizer, prepare

CPU_BATCH = 16
"""Images of a step that is measured on a CPU, where the batch matters little for the time of an image."""
CPU_STEPS, GPU_STEPS = 2, 10
COMPILING = 60.0
"""Seconds that a training must take at least before compiling its blocks, which takes about as long, is tried."""
CLEARLY = 0.95
"""So much of the time of a simpler execution another one may take at most, to be worth it."""
CLEARLY_LESS_PRECISE = 0.8
"""The same for one that rounds more. Between equals chance would choose, and with two runs of one search, trained in
float32 and in bfloat16, small data come to different verdicts (resnet18 on digits: 118 to 147 against 128 images/s)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """What an execution takes."""

    execution: Execution
    train: float
    """Seconds an image, without data and augmentation; the best of a few steps."""
    evaluate: float
    preparation: float
    """Seconds before the first step: compiling, capturing, choosing kernels."""


def usual(recipe: Recipe, device: str) -> Execution:
    """The execution for a device that can't be measured from here, such as a cluster's."""
    on_gpu = device.startswith("cuda")
    return Execution(precision="bf16" if on_gpu and recipe.amp else "float32", channels_last=on_gpu)


def choose(
    network: Network,
    recipe: Recipe,
    *,
    device: str,
    threads: int,
    steps: int,
    settled: Mapping[str, Any] | None = None,
) -> tuple[Speed, ...]:
    """Measure the executions that may pay for a training of so many steps; the best one comes first.

    An execution that this machine cannot carry out is left out. What is settled of an execution is not varied.
    """
    place = torch.device(device)
    settled = settled or {}
    best, *others = dict.fromkeys(replace(layout, **settled) for layout in _layouts(recipe, place, settled))
    try:
        tried = [measure_speed(network, recipe, best, device=device, threads=threads)]
    except RuntimeError as problem:
        if best.deterministic and "deterministic" in str(problem):
            first = str(problem).partition(". ")[0]
            raise ResourceError(f"--execution deterministic: {network.base} can't be trained so: {first}.") from None
        raise
    batch = _batch(recipe, place)

    def total(speed: Speed) -> float:
        return speed.preparation + steps * batch * speed.train

    def attempt(execution: Execution) -> None:
        try:
            found = measure_speed(network, recipe, execution, device=device, threads=threads)
        except RuntimeError:
            return
        is_as_precise = execution.precision == tried[0].execution.precision
        share = CLEARLY if is_as_precise else CLEARLY_LESS_PRECISE
        tried.insert(0 if total(found) < share * total(tried[0]) else len(tried), found)

    for execution in others:
        attempt(execution)
    if place.type == "cuda" and "steps" not in settled:
        chosen = tried[0].execution
        attempt(replace(chosen, steps="captured"))
        if total(tried[0]) > COMPILING:
            attempt(replace(chosen, steps="compiled"))
    if place.type == "cuda":
        torch.cuda.empty_cache()  # the workers need it
    return tuple(tried)


def measure_speed(network: Network, recipe: Recipe, execution: Execution, *, device: str, threads: int) -> Speed:
    """Time a few training and evaluation steps on random images, as `fit` makes them."""
    place = torch.device(device)
    with torch_settings(threads, deterministic=execution.deterministic):
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(_batch(recipe, place), *network.input_shape, generator=generator).to(place)
        labels = torch.randint(network.num_classes, (len(images),), generator=generator).to(place)
        targets = soft_targets(labels, network.num_classes, recipe.label_smoothing)
        model = prepare(build(network, seed=0, device=place), network, execution)
        stepper = Stepper(model, make_optimizer(model, recipe, execution), recipe, execution)
        model.train()
        built = _now(place)
        stepper.capture(images, targets)
        stepper(images, targets, recipe.lr)
        preparation = _now(place) - built
        count = GPU_STEPS if place.type == "cuda" else CPU_STEPS
        train = min(_timed(place, lambda: stepper(images, targets, recipe.lr)) for _ in range(count))
        model.eval()
        with (
            torch.inference_mode(),
            torch.compiler.set_stance("force_eager"),
            torch.autocast(place.type, torch.bfloat16, enabled=execution.precision == "bf16"),
        ):
            evaluate = min(_timed(place, lambda: model(laid_out(images, execution))) for _ in range(count))
    return Speed(
        execution=execution,
        train=train / len(images),
        evaluate=evaluate / len(images),
        preparation=max(0.0, preparation - train),  # the first step is one of the training's own
    )


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and cpu_has_bfloat16()


def _layouts(recipe: Recipe, device: torch.device, settled: Mapping[str, Any]) -> list[Execution]:
    """What may be fastest, the simplest first."""
    plain = [Execution()]
    if device.type != "mps":
        plain.append(Execution(channels_last=True))
    if "precision" in settled or device.type == "mps":
        return plain
    fast = [replace(execution, precision="bf16") for execution in plain]
    if not (recipe.amp and has_bfloat16(device)):
        return plain
    # On a GPU float32 is never the faster one.
    return fast if device.type == "cuda" else [*plain, fast[1]]


def _batch(recipe: Recipe, device: torch.device) -> int:
    return min(recipe.batch_size, CPU_BATCH) if device.type == "cpu" else recipe.batch_size


def _timed(device: torch.device, work: Callable[[], object]) -> float:
    began = _now(device)
    work()
    return _now(device) - began


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
