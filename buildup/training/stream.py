"""Sets that would fill the memory, or whose whole images a recipe wants: read anew in each epoch by timm's transforms.

Processes beside the training read ahead. What they draw for an image depends on seed, epoch and its place in the epoch,
so it does not matter how many there are, nor where an interrupted training goes on.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from timm.data.loader import PrefetchLoader, fast_collate
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms

from buildup.training import draws
from buildup.training.augment import PADDING_SIZE, soft_targets
from buildup.training.augmentation import EpochImages
from buildup.training.dataset import IMAGENET_MEAN, IMAGENET_STD
from buildup.training.dataset_sources import SMALL, Source
from buildup.training.draws import epoch_seed, stream
from buildup.training.feed import batch_starts, drawn_changes, mixed
from buildup.training.recipe import Recipe

Transform = Callable[[Image.Image], Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Streamed:
    """A set as trainings see it, without its pixels."""

    source: Source
    image_size: int
    channels: int = 3
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    mirror: bool = True
    val_share: float = 0.1
    origin: str = "read from its files in each epoch"

    @property
    def name(self) -> str:
        """What people call it."""
        return self.source.name

    @property
    def labels(self) -> Tensor:
        """int64."""
        return self.source.labels

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the labels stand for."""
        return self.source.class_names

    @property
    def num_classes(self) -> int:
        """How many classes the labels know."""
        return len(self.source.class_names)

    @cached_property
    def hash(self) -> str:
        """Over labels and the state of the files; reading all pixels would take as long as an epoch."""
        known = [self.source.class_names, self.source.labels.tolist(), self.source.state]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Images that are read from disk, epoch by epoch."""

    recipe: Recipe
    dataset: Streamed
    train: Tensor
    """Which of its images are trained on, and in `val`, which ones are validated on."""
    val: Tensor
    seed: int
    device: torch.device
    workers: int
    """Processes that read ahead; 0 to read in this one."""

    @property
    def num_classes(self) -> int:
        """How many classes the labels know."""
        return self.dataset.num_classes

    @property
    def train_images(self) -> int:
        """How many images an epoch draws from."""
        return len(self.train)

    @property
    def val_images(self) -> int:
        """How many images there are to validate on."""
        return len(self.val)

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch."""
        recipe, images = self.recipe, self.train_images
        order = draws.data_order(stream(self.seed, number, "order"), images)
        # timm's transforms do what a recipe does to pixels.
        _, changes = drawn_changes(
            recipe,
            EpochImages(
                count=images,
                size=self.dataset.image_size,
                mean=self.dataset.mean,
                mirror=self.dataset.mirror,
                device=self.device,
                seed=self.seed,
                epoch=number,
            ),
        )
        mixtures = stream(self.seed, number, "mix")
        seen = _Images(
            source=self.dataset.source,
            index=self.train[torch.from_numpy(order)].tolist(),
            transform=training_transform(recipe, self.dataset),
            seed=epoch_seed(self.seed, number, "images"),
        )
        starts = batch_starts(images, recipe.batch_size)
        places = [list(range(start, min(images, start + recipe.batch_size))) for start in starts]
        for place, (inputs, labels) in zip(places, self._loaded(seen, places), strict=True):
            for change in changes:
                inputs = change(inputs, slice(place[0], place[-1] + 1))
            targets = soft_targets(labels, self.num_classes, recipe.label_smoothing)
            yield mixed(recipe, mixtures, inputs, targets)

    def validation(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The validation images in their order, as timm evaluates them: the centre of a slightly larger image."""
        size = self.dataset.image_size
        transform: Any = create_transform(
            size,
            is_training=False,
            use_prefetcher=True,
            interpolation="bilinear",
            crop_pct=1.0 if size <= SMALL else 0.875,
        )
        seen = _Images(source=self.dataset.source, index=self.val.tolist(), transform=transform, seed=0)
        places = [place.tolist() for place in torch.split(torch.arange(self.val_images), self.recipe.eval_batch_size)]
        yield from self._loaded(seen, places)

    def _loaded(self, images: "_Images", places: list[list[int]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches on the device, normalised, in the order of the places."""
        loader = DataLoader(
            images,
            batch_sampler=places,
            num_workers=self.workers,
            collate_fn=fast_collate,
            pin_memory=self.device.type == "cuda",
            # Without it a loader draws the seed of its workers from the network's generator.
            generator=torch.Generator(),
        )
        loaded: Any = PrefetchLoader(
            loader, mean=self.dataset.mean, std=self.dataset.std, channels=3, device=self.device
        )
        for inputs, labels in loaded:
            yield inputs, labels.to(self.device)


def training_transform(recipe: Recipe, dataset: Streamed) -> Transform:
    """What a recipe does to the single images of a set, by timm's own transforms."""
    size, policy = dataset.image_size, recipe.randaugment
    transform: Any = create_transform(
        size,
        is_training=True,
        use_prefetcher=True,
        scale=recipe.resized_crop or (1.0, 1.0),
        hflip=0.5 if recipe.flip and dataset.mirror else 0.0,
        auto_augment=f"rand-m{policy.magnitude:g}-n{policy.layers}-mstd{policy.std:g}" if policy else None,
        color_jitter=0.0,
        interpolation="random",
        mean=dataset.mean,
        std=dataset.std,
    )
    if recipe.resized_crop is None:
        padding = round(recipe.crop_padding * size / PADDING_SIZE)
        crops = [transforms.RandomCrop(size, padding=padding)] if padding else []
        transform.transforms[0] = transforms.Compose([_Fitted(size), *crops])
    if jitter := recipe.colour_jitter:
        # Here and not by timm, which leaves it out beside RandAugment.
        transform.transforms.insert(-1, transforms.ColorJitter(jitter, jitter, jitter))
    result: Transform = transform
    return result


@dataclass(frozen=True)
class _Fitted:
    """The shorter side scaled to a size, the centre cut out."""

    size: int

    def __call__(self, image: Image.Image) -> Image.Image:
        return ImageOps.fit(image, (self.size, self.size), method=Image.Resampling.BILINEAR)


@dataclass(frozen=True, kw_only=True)
class _Images(TorchDataset[tuple[Any, int]]):
    """The images of an epoch by their place in it."""

    source: Source
    index: list[int]
    transform: Transform
    seed: int

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, place: int) -> tuple[Any, int]:
        which = self.index[place]
        with _lent(epoch_seed(self.seed, place, "image")):
            return self.transform(self.source.open(which)), int(self.source.labels[which])


@contextmanager
def _lent(seed: int) -> Iterator[None]:
    """timm's transforms draw from the global generators: lend them a seed, and put everything back."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
