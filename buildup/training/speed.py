"""How fast this machine trains a network, measured with a few steps: what plans and time estimates stand on."""

import time
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from buildup.graph.network import Network
from buildup.models.build import build
from buildup.training.fit import memory_format, resolve_precision
from buildup.training.recipe import Recipe

BATCH = 32
STEPS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Seconds an image."""

    train: float
    evaluate: float


def measure_speed(network: Network, recipe: Recipe, *, device: str, threads: int) -> Speed:
    """Time a few training and evaluation steps on random images, as `fit` makes them, after one to warm up."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        place = torch.device(device)
        layout = memory_format(place)
        model = build(network, seed=0, device=place).to(memory_format=layout)
        images = torch.randn(BATCH, *network.input_shape, device=place).contiguous(memory_format=layout)
        labels = torch.randint(network.num_classes, (BATCH,), device=place)
        with torch.autocast(place.type, torch.bfloat16, enabled=resolve_precision("auto", recipe, place) == "bf16"):
            return Speed(
                train=_time(model, images, labels, train=True), evaluate=_time(model, images, labels, train=False)
            )
    finally:
        torch.set_num_threads(before)


def _time(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, *, train: bool) -> float:
    model.train(train)
    began = 0.0
    for step in range(STEPS + 1):
        if step == 1:
            began = _now(images.device)
        with torch.set_grad_enabled(train):
            loss = F.cross_entropy(model(images), labels)
        if train:
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            model.zero_grad(set_to_none=True)
    return (_now(images.device) - began) / (STEPS * len(images))


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
