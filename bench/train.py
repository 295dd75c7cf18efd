"""What this machine trains a network with: a plain loop, the same with mixed precision, and ours, in one run.

All three train on the same made-up images with the same recipe, data and augmentation included. The plain loop is what
a person writes with timm and a DataLoader. Rounds of the three follow each other, so that a busy machine is busy for
all of them, and each is worth its best round.
"""

import argparse
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from timm.data.mixup import Mixup
from timm.data.transforms_factory import create_transform
from timm.loss.cross_entropy import SoftTargetCrossEntropy
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import transforms

from answer import answer
from buildup.engine.problems import Problems
from buildup.files import cores
from buildup.graph.layout import layout
from buildup.graph.network import Network
from buildup.models.cost import cost
from buildup.models.read import read_network
from buildup.space.load import load
from buildup.strategies.moves import from_layout
from buildup.training.dataset import Dataset
from buildup.training.execution import check_device, torch_settings
from buildup.training.execution_words import Execution
from buildup.training.feed import Feed, on_device
from buildup.training.recipe import Recipe, load_recipe
from buildup.training.speed import choose_execution
from buildup.training.train_step import Stepper, create_training_model, make_optimizer, prepare_model

Variant = Literal["plain", "amp", "ours"]
VARIANTS: tuple[Variant, ...] = ("plain", "amp", "ours")
CPU_IMAGES, GPU_IMAGES = 2048, 16_384
"""Of the made-up set; an epoch of it starts anew when it is through. A GPU augments thousands of images together."""
ROUNDS = 3
"""After one to warm up."""
CPU_STEPS, GPU_STEPS = 2, 40
"""In a round."""
MATRIX = {"cpu": 2048, "cuda": 8192}
LOADERS = 8
"""Processes that load data for the plain loops beside a GPU. A CPU's cores are all busy with the step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one variant does."""

    variant: Variant
    base: str
    layout: str
    batch: int
    device: str
    images_per_s: float
    """With data and augmentation."""
    data_share: float
    """Of a step's time, what data and augmentation take when they are made alone."""
    peak_mib: float
    """Of the device, or of a process of its own on a CPU."""
    matrix_share: float
    """Of the rate at which the device multiplies large matrices in that precision."""
    execution: str


@dataclass(kw_only=True)
class _Loop:
    """A training that can be asked for steps."""

    variant: Variant

    batches: Iterator[tuple[Tensor, Tensor]]
    step: Callable[[Tensor, Tensor], None]
    execution: Execution
    rates: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    peak: float = 0.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the flags, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag, metavar, text in (
        ("--base", "NAME", "a timm model that `buildup models` lists (default: resnet50)"),
        ("--layout", "LAYOUT", "train this layout of the base, such as CC|CC|CM|CM"),
        ("--recipe", "NAME|FILE", "its optimiser and augmentation (default: paper)"),
        ("--batch", "N,N", "images of a step; several are measured in turn (default: 96)"),
        ("--size", "PIXELS", "image size (default: 32)"),
        ("--classes", "N", "how many classes (default: 100)"),
        ("--device", "NAME", "auto (default), cpu, cuda or mps"),
    ):
        parser.add_argument(flag, metavar=metavar, help=text)
    return answer(parser, train, arguments)


def train(flags: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The rows of the bench, as text and as values."""
    problems = Problems()
    size = problems.whole("--size", flags["size"], 32, least=8, most=1024)
    classes = problems.whole("--classes", flags["classes"], 100, least=2, most=100_000)
    sizes = [problems.whole("--batch", text, 96, least=2, most=65_536) for text in (flags["batch"] or "96").split(",")]
    network, recipe, device = None, None, "cpu"
    with problems.caught():
        network = read_network(flags["base"] or "resnet50", input_shape=(3, size, size), num_classes=classes)
        if flags["layout"]:
            network = from_layout(flags["layout"], network, load("alternet"))
    with problems.caught():
        recipe = load_recipe(flags["recipe"] or "paper")
    with problems.caught():
        device = check_device(flags["device"] or "auto")
    problems.raise_any()
    assert network is not None
    assert recipe is not None
    on_gpu = device.startswith("cuda")
    rows = [
        row
        for batch in sizes
        for row in compare(
            network,
            layout(network),
            recipe,
            batch=batch,
            device=device,
            threads=cores(),
            workers=min(LOADERS, cores()) if on_gpu else 0,
        )
    ]
    return _text(rows), {"recipe": recipe.name, "image_size": size, "rows": [asdict(row) for row in rows]}


def compare(
    network: Network,
    letters: str,
    recipe: Recipe,
    *,
    batch: int,
    device: str,
    threads: int,
    workers: int,
    executions: Sequence[Execution] = (),
) -> list[Row]:
    """Measure the three variants with batches of one size.

    Args:
        network: What is trained.
        letters: Its layout, for the rows.
        recipe: Its optimiser and augmentation.
        batch: Images of a step.
        device: Where.
        threads: Of this process, for the steps on a CPU.
        workers: Processes that load data for the plain loops; 0 for none.
        executions: Of our steps, one row each; by default the one that a search would choose.
    """
    recipe = replace(recipe, batch_size=batch, min_steps=1)
    place = torch.device(device)
    if not executions:
        executions = [choose_execution(network, recipe, device=device, threads=threads, steps=10_000)[0].execution]
    # The settings of a training, for the plain loops too.
    with torch_settings(threads, deterministic=False):
        loops = [_plain(name, network, recipe, place, workers) for name in ("plain", "amp")]
        loops += [_ours(network, recipe, place, execution) for execution in executions]
        steps = GPU_STEPS if place.type == "cuda" else CPU_STEPS
        for number in range(ROUNDS + 1):
            for loop in loops:
                _round(loop, place, steps if number else 1, batch, warm=number == 0)
    rates = {precision: _matrix_rate(place, precision) for precision in ("float32", "bf16")}
    flops = 6 * cost(network).macs  # two for each multiplication, and the way back costs twice the way there
    if place.type != "cuda":
        for loop in loops:
            loop.peak = _peak(loop.variant, network, recipe, loop.execution, threads)
    return [
        Row(
            variant=loop.variant,
            base=network.base,
            layout=letters,
            batch=batch,
            device=device,
            images_per_s=max(loop.rates),
            data_share=min(1.0, min(loop.shares)),
            peak_mib=loop.peak,
            matrix_share=max(loop.rates) * flops / rates[loop.execution.precision],
            execution=str(loop.execution),
        )
        for loop in loops
    ]


def made_up(network: Network, images: int = CPU_IMAGES) -> Dataset:
    """Noise in the form that a network takes."""
    generator = torch.Generator().manual_seed(0)
    channels = network.input_shape[0]
    return Dataset(
        name="made up",
        images=torch.randint(256, (images, *network.input_shape), generator=generator, dtype=torch.uint8),
        labels=torch.randint(network.num_classes, (images,), generator=generator),
        class_names=tuple(map(str, range(network.num_classes))),
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
    )


def _plain(
    name: Literal["plain", "amp"], network: Network, recipe: Recipe, device: torch.device, workers: int
) -> _Loop:
    model = create_training_model(network, recipe, seed=0, device=device).train()
    return _Loop(
        variant=name,
        batches=_timm_batches(network, recipe, device, workers),
        step=_plain_step(model, recipe, device, amp=name == "amp"),
        execution=Execution(precision="bf16" if name == "amp" else "float32"),
    )


def _ours(network: Network, recipe: Recipe, device: torch.device, execution: Execution) -> _Loop:
    model = create_training_model(network, recipe, seed=0, device=device).train()
    model = prepare_model(model, network, execution)
    data = on_device(made_up(network, GPU_IMAGES if device.type == "cuda" else CPU_IMAGES), device)
    index = torch.arange(len(data.labels))
    feed = Feed(recipe=recipe, dataset=data, train=index, val=index, seed=0, device=device)
    stepper = Stepper(model, make_optimizer(model, recipe, execution), recipe, execution)
    shape = (recipe.batch_size, *network.input_shape)
    stepper.capture(torch.zeros(shape, device=device), torch.zeros(shape[0], network.num_classes, device=device))

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for number in range(1, sys.maxsize):
            yield from (batch for batch in feed.epoch(number) if len(batch[0]) == recipe.batch_size)

    return _Loop(variant="ours", batches=batches(), step=partial(stepper, lr=recipe.lr), execution=execution)


def _timm_batches(
    network: Network, recipe: Recipe, device: torch.device, workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """As timm's training script makes them for small images."""
    data = made_up(network)
    channels, size, _ = network.input_shape
    policy = recipe.randaugment
    name = f"rand-m{policy.magnitude:g}-n{policy.layers}-mstd{policy.std:g}" if policy and channels == 3 else None
    transform: Any = create_transform(
        size,
        is_training=True,
        hflip=0.5 if recipe.flip else 0.0,
        color_jitter=recipe.colour_jitter,
        auto_augment=name,
        interpolation="random",
        mean=data.mean,
        std=data.std,
        re_prob=recipe.erasing,
    )
    padding = round(recipe.crop_padding * size / 32)
    transform.transforms[0] = transforms.RandomCrop(size, padding=padding or None)
    images = _Pictures(data, transform)
    loader = torch.utils.data.DataLoader(
        images,
        batch_size=recipe.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
    )
    mixup: Any = None
    if recipe.mixup or recipe.cutmix:
        mixup = Mixup(  # type: ignore[no-untyped-call]
            mixup_alpha=recipe.mixup,
            cutmix_alpha=recipe.cutmix,
            prob=recipe.mix_prob,
            switch_prob=recipe.mix_switch_prob,
            label_smoothing=recipe.label_smoothing,
            num_classes=network.num_classes,
        )
    while True:
        for inputs, labels in loader:
            inputs, labels = inputs.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            if mixup is not None and recipe.batch_size % 2 == 0:
                yield mixup(inputs, labels)
            else:
                yield inputs, nn.functional.one_hot(labels, network.num_classes).float()


class _Pictures(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Decoded images one by one, as torchvision's CIFAR gives them."""

    def __init__(self, data: Dataset, transform: Callable[[Any], Tensor]) -> None:
        self._arrays = data.images.permute(0, 2, 3, 1).contiguous().numpy()
        self._labels: list[int] = data.labels.tolist()
        self._transform = transform

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        array = self._arrays[index]
        return self._transform(Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)), self._labels[index]


def _plain_step(model: nn.Module, recipe: Recipe, device: torch.device, *, amp: bool) -> Callable[..., None]:
    optimizer: torch.optim.Optimizer
    if recipe.optimizer == "sgd":
        optimizer = torch.optim.SGD(
            model.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=recipe.nesterov
        )
    else:
        optimizer = torch.optim.AdamW(
            model.parameters(), recipe.lr, recipe.betas, recipe.eps, weight_decay=recipe.weight_decay
        )
    criterion = SoftTargetCrossEntropy()  # type: ignore[no-untyped-call]

    def step(inputs: Tensor, targets: Tensor) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=amp):
            loss = criterion(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        if recipe.clip_grad is not None:
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_grad)
        optimizer.step()

    return step


def _round(loop: _Loop, device: torch.device, steps: int, batch: int, *, warm: bool) -> None:
    """A few steps, and then as many batches without them."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    began = _now(device)
    for _ in range(steps):
        loop.step(*next(loop.batches))
    whole = _now(device) - began
    if device.type == "cuda":
        loop.peak = max(loop.peak, torch.cuda.max_memory_allocated(device) / 2**20)
    began = _now(device)
    for _ in range(steps):
        next(loop.batches)
    data = _now(device) - began
    if not warm:
        loop.rates.append(steps * batch / whole)
        loop.shares.append(data / whole)


def _matrix_rate(device: torch.device, precision: str) -> float:
    """Operations a second of a large matrix product, or of the same as a 1x1 convolution: the faster of the two."""
    size = MATRIX.get(device.type, 1024)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    matrix = torch.ones(size, size, device=device, dtype=dtype)
    images = torch.ones(16, size, size // 16, 1, device=device, dtype=dtype)
    times = []
    for _ in range(6):
        for product in (partial(torch.mm, matrix, matrix), partial(F.conv2d, images, matrix[:, :, None, None])):
            began = _now(device)
            product()
            times.append(_now(device) - began)
    return float(2 * size**3 / min(times))


def _peak(name: Variant, network: Network, recipe: Recipe, execution: Execution, threads: int) -> float:
    """Memory of a process that does nothing else."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_peak_here, name, network, recipe, execution, threads).result()


def _peak_here(name: Variant, network: Network, recipe: Recipe, execution: Execution, threads: int) -> float:
    cpu = torch.device("cpu")
    with torch_settings(threads, deterministic=False):
        loop = _ours(network, recipe, cpu, execution) if name == "ours" else _plain(name, network, recipe, cpu, 0)
        for _ in range(2):
            loop.step(*next(loop.batches))
    status = Path("/proc/self/status")
    if status.is_file():  # Linux hands its count in rusage down from the parent
        return next(int(line.split()[1]) / 2**10 for line in status.open() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _text(rows: list[Row]) -> str:
    lines = [f"{'variant':8} {'batch':>5} {'images/s':>9} {'data':>6} {'MiB':>7} {'of matrix rate':>14}  execution"]
    lines += [
        f"{row.variant:8} {row.batch:5} {row.images_per_s:9.1f} {row.data_share:6.1%} {row.peak_mib:7.0f} "
        f"{row.matrix_share:14.1%}  {row.execution}"
        for row in rows
    ]
    first = rows[0]
    return "\n".join([f"{first.base} {first.layout} on {first.device}, data and augmentation included", *lines])


if __name__ == "__main__":
    sys.exit(main())
