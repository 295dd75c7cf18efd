"""The batches of a training on its device, augmented, epoch by epoch, and the images that it is validated on.

A decoded dataset lies on the device if it takes a small part of its memory, else on the host. Whole batches of it are
augmented on the device. A streamed one, which would fill the memory or whose whole images a recipe needs, is read anew
in each epoch by timm's transforms, in processes that read ahead. Both depend on seed and epoch alone, not on the number
of processes, nor on where an interrupted training resumes.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache, partial
from itertools import accumulate
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from timm.data.loader import PrefetchLoader, fast_collate
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms

from buildup.errors import ResourceError
from buildup.training.augmentation import (
    PADDING_SIZE,
    Change,
    EpochImages,
    Integers,
    epoch_seed,
    mix,
    mixture,
    normalise,
    random_stream,
    send,
    soft_targets,
)
from buildup.training.data_parallel import ALONE, ProcessGroup
from buildup.training.dataset import IMAGENET_MEAN, IMAGENET_STD, Dataset
from buildup.training.dataset_sources import SMALL, Source
from buildup.training.randaugment import COLOUR_JITTER, RANDAUGMENT
from buildup.training.recipe import AUGMENTATIONS, Recipe

Transform = Callable[[Image.Image], Any]

AUGMENTED_VALUES = 1 << 24
"""Pixel values that a GPU augments together: each kernel is then worth its launch (4,096 images of 32 px)."""

LARGEST_SHARE = 0.25
"""Share of a training's part of a device's memory that images may take."""

for _augmentation in (RANDAUGMENT, COLOUR_JITTER):
    AUGMENTATIONS.register(_augmentation)


@dataclass(frozen=True, kw_only=True, eq=False)
class StreamedDataset:
    """A set whose images are read from their files in each epoch."""

    source: Source
    image_size: int
    channels: int = 3
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    mirror: bool = True
    val_share: float = 0.1
    origin: str = "read from its files in each epoch"
    dated: bool = False
    """Whether the hash also tells where the files are and when they were written, as that of an early run does."""

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def labels(self) -> Tensor:
        return self.source.labels

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.source.class_names

    @property
    def num_classes(self) -> int:
        return len(self.source.class_names)

    @cached_property
    def hash(self) -> str:
        """Over labels, names and sizes of the files; reading all pixels would take as long as an epoch."""
        files = self.source.state if self.dated else self.source.content or self.source.state
        known = [self.source.class_names, self.source.labels.tolist(), files]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Feed:
    """The images of a training, in batches on its device."""

    recipe: Recipe
    dataset: Dataset | StreamedDataset
    """If decoded, on the device (`on_device`), or on the host, from where each batch is sent."""
    train: Tensor
    """Indexes of the images to train on, and in `val`, of those to validate on."""
    val: Tensor
    seed: int
    device: torch.device
    workers: int = 0
    """Processes that read ahead in a streamed dataset; 0 to read in this one."""
    group: ProcessGroup = ALONE
    """The processes that share each batch. Numbers are drawn for all images, so that these do not depend on it."""

    def epoch(self, number: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch, as in `batch_starts`, from batch `first` on: normalised images and soft targets."""
        recipe, dataset = self.recipe, self.dataset
        order = random_stream(self.seed, number, "order").permutation(len(self.train)).astype(np.int64)
        sizes, positions = self._own_rows()
        index = self.train[torch.from_numpy(order if positions is None else order[positions])]
        together = self._batches_together(dataset) if isinstance(dataset, Dataset) else 1
        chunks = [sizes[start : start + together] for start in range(first, len(sizes), together)]
        done = sum(sizes[:first])
        if isinstance(dataset, Dataset):
            changes = self._draw_changes(number, "pixels", positions)
            loaded = self._augmented_pixels(dataset, index, chunks, changes, done)
        else:
            # timm's transforms augment the pixels.
            seed = epoch_seed(self.seed, number, "images")
            places = range(len(index)) if positions is None else positions.tolist()
            loaded = self._reader.batches(index[done:], sizes[first:], seed, augmented=True, places=places[done:])
        changes = self._draw_changes(number, "normalised", positions)
        mix_rng = random_stream(self.seed, number, "mix")
        for _ in range(first):
            mixture(mix_rng, dataset.image_size, recipe)
        for (inputs, labels), chunk in zip(loaded, chunks, strict=True):
            for change in changes:
                inputs = change(inputs, slice(done, done + len(inputs)))
            done += len(inputs)
            targets = soft_targets(labels, dataset.num_classes, recipe.label_smoothing)
            for batch_inputs, batch_targets in zip(
                torch.split(inputs, chunk), torch.split(targets, chunk), strict=True
            ):
                yield mix(batch_inputs, batch_targets, mixture(mix_rng, dataset.image_size, recipe))

    def validation(self, every: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of each `every`-th validation image, in order: normalised images and labels."""
        dataset, size = self.dataset, self.recipe.eval_batch_size
        chosen = torch.tensor_split(self.val[::every], self.group.size)[self.group.rank]
        if isinstance(dataset, StreamedDataset):
            sizes = [len(part) for part in torch.split(chosen, size)]
            yield from self._reader.batches(chosen, sizes, seed=0, augmented=False, places=range(len(chosen)))
            return
        for part in torch.split(send(chosen, dataset.images.device), size):
            inputs, labels = self._chosen(dataset, part)
            yield normalise(inputs, dataset.mean, dataset.std), labels

    def _own_rows(self) -> tuple[list[int], Integers | None]:
        """How many images of each batch this process sees, and their positions in the epoch; None for all of them."""
        size, images = self.recipe.batch_size, len(self.train)
        starts = batch_starts(images, size)
        whole = [min(size, images - start) for start in starts]
        if self.group.size == 1:
            return whole, None
        own = [start + self.group.rows(count) for start, count in zip(starts, whole, strict=True)]
        return [len(rows) for rows in own], np.concatenate(own)

    def _augmented_pixels(
        self, dataset: Dataset, index: Tensor, chunks: list[list[int]], changes: list[Change], done: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Augmented, normalised images and labels of a decoded dataset. A chunk lists the batches augmented at once."""
        index = send(index, dataset.images.device)
        for chunk in chunks:
            positions = slice(done, done := done + sum(chunk))
            inputs, labels = self._chosen(dataset, index[positions])
            for change in changes:
                inputs = change(inputs, positions)
            yield normalise(inputs, dataset.mean, dataset.std), labels

    def _chosen(self, dataset: Dataset, index: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels and labels, sent to the device. The index must be on the device of the dataset."""
        return send(dataset.images[index], self.device), send(dataset.labels[index], self.device)

    def _batches_together(self, dataset: Dataset) -> int:
        """How many batches are augmented at once. A CPU keeps one in its cache, and has no launches to save."""
        values = self.recipe.batch_size * dataset.channels * dataset.image_size**2
        return max(1, AUGMENTED_VALUES // values) if self.device.type == "cuda" else 1

    @cached_property
    def _reader(self) -> "_ImageReader":
        assert isinstance(self.dataset, StreamedDataset)
        return _ImageReader(self.dataset, self.recipe, self.device, self.workers)

    def _draw_changes(
        self, number: int, sees: Literal["pixels", "normalised"], positions: Integers | None
    ) -> list[Change]:
        images = EpochImages(
            count=len(self.train),
            size=self.dataset.image_size,
            mean=self.dataset.mean,
            mirror=self.dataset.mirror,
            device=self.device,
            seed=self.seed,
            epoch=number,
            positions=positions,
        )
        changes = []
        for name in AUGMENTATIONS:
            setting = self.recipe.setting(name)
            if setting and AUGMENTATIONS[name].sees == sees and (change := AUGMENTATIONS[name].draw(setting, images)):
                changes.append(change)
        return changes


def batch_starts(images: int, batch_size: int) -> range:
    """Where each batch of an epoch starts.

    A last batch of less than half the size is left out: its few images would get the step, and the batch norm
    statistics, of a whole batch.

    >>> list(batch_starts(100, 30)), list(batch_starts(50_000, 96))[-1]
    ([0, 30, 60], 49920)
    """
    rest = images % batch_size
    return range(0, images if images <= batch_size or rest * 2 >= batch_size else images - rest, batch_size)


def check_shared(processes: int, recipe: Recipe, *, train_images: int, val_images: int) -> None:
    batch = recipe.batch_size
    smallest = min(batch, train_images - batch_starts(train_images, batch)[-1])
    if processes > 1 and (smallest < 2 * processes or val_images < processes):
        raise ResourceError(
            f"{processes} GPUs a training: each needs 2 images of a batch, and the smallest batch has {smallest} "
            f"({train_images} images in batches of {batch}). Use fewer GPUs a training."
        )


@lru_cache(maxsize=1)
def on_device(dataset: Dataset, device: torch.device, share: float = 1.0) -> Dataset:
    """A dataset with its images on a device, or as it is if they would take much of the memory there.

    The next training in this process finds them there.

    Args:
        dataset: A decoded dataset.
        device: The device of the training.
        share: The share of the device that the training may use.
    """
    if dataset.images.device == device:
        return dataset
    if device.type == "cuda":
        _, memory = torch.cuda.mem_get_info(device)
        if dataset.images.numel() > LARGEST_SHARE * share * memory:
            return dataset
    return replace(dataset, images=dataset.images.to(device), labels=dataset.labels.to(device))


@cache
def _transfer_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch leaves it untyped


def training_transform(recipe: Recipe, dataset: StreamedDataset) -> Transform:
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
        scale = partial(ImageOps.fit, size=(size, size), method=Image.Resampling.BILINEAR)
        transform.transforms[0] = transforms.Compose([scale, *crops])
    if jitter := recipe.colour_jitter:
        # Added here, because timm leaves it out beside RandAugment.
        transform.transforms.insert(-1, transforms.ColorJitter(jitter, jitter, jitter))
    return transform  # type: ignore[no-any-return]  # timm has no types


def validation_transform(dataset: StreamedDataset) -> Transform:
    """The centre of a slightly larger image, as timm evaluates."""
    return create_transform(  # type: ignore[no-any-return]  # timm has no types
        dataset.image_size,
        is_training=False,
        use_prefetcher=True,
        interpolation="bilinear",
        crop_pct=crop_share(dataset.image_size, streamed=True),
    )


def crop_share(image_size: int, *, streamed: bool) -> float:
    """The share of an image's side that validation sees. Decoded images are cut at their full shorter side."""
    return 0.875 if streamed and image_size > SMALL else 1.0


class _ImageReader:
    """Reads the images of a streamed dataset and transforms them, in processes that last as long as the training.

    Processes that start anew in each epoch would fill their queues anew while the device waits.
    """

    def __init__(self, dataset: StreamedDataset, recipe: Recipe, device: torch.device, processes: int) -> None:
        self._dataset = dataset
        self._device = device
        self._batches: list[list[_Draw]] = []
        """Those of an epoch. The list is filled before the loader begins it."""
        self._loader = DataLoader(
            _SourceImages(
                source=dataset.source,
                transforms={True: training_transform(recipe, dataset), False: validation_transform(dataset)},
            ),
            batch_sampler=self._batches,
            num_workers=processes,
            persistent_workers=processes > 0,
            collate_fn=fast_collate,
            pin_memory=device.type == "cuda",
            # Without it a loader draws the seed of its workers from the network's generator.
            generator=torch.Generator(),
        )

    def batches(
        self, index: Tensor, sizes: Sequence[int], seed: int, *, augmented: bool, places: Sequence[int]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised images and labels by their index in the dataset and their place in the epoch, in batches."""
        draws = [
            (at, epoch_seed(seed, place, "image"), augmented) for place, at in zip(places, index.tolist(), strict=True)
        ]
        self._batches[:] = [draws[end - size : end] for size, end in zip(sizes, accumulate(sizes), strict=True)]
        mean, std = self._dataset.mean, self._dataset.std
        loaded: Any = (
            normalised(self._loader, mean, std, self._device)
            if self._device.type == "mps"
            else PrefetchLoader(self._loader, mean=mean, std=std, channels=3, device=self._device)
        )
        if self._device.type == "cuda":
            # The memory of a stream is kept for that stream. One for each epoch would keep that of all epochs.
            loaded.stream = _transfer_stream(self._device)
        for inputs, labels in loaded:
            yield inputs, labels.to(self._device)


def normalised(
    loader: Iterable[tuple[Tensor, Tensor]], mean: Sequence[float], std: Sequence[float], device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """What timm's PrefetchLoader makes of batches of bytes, without copies that go on while their memory is used again.

    On an Apple GPU such copies may read what comes after them (PyTorch issue 189690).
    """
    means, deviations = (255 * torch.tensor(values, device=device).view(1, -1, 1, 1) for values in (mean, std))
    for images, labels in loader:
        yield (images.to(device).float() - means) / deviations, labels


_Draw = tuple[int, int, bool]
"""An image: its index in the dataset, the seed of its augmentation, and whether it is augmented."""


@dataclass(frozen=True, kw_only=True)
class _SourceImages(TorchDataset[tuple[Any, int]]):
    """The images of a dataset, read and transformed."""

    source: Source
    transforms: dict[bool, Transform]
    """With augmentation and without."""

    def __getitem__(self, draw: _Draw) -> tuple[Any, int]:
        index, seed, augmented = draw
        # timm's transforms draw from the global generators, which get their state back at the end.
        before = random.getstate(), np.random.get_state(), torch.get_rng_state()
        random.seed(seed)
        np.random.seed(seed & 0xFFFFFFFF)
        torch.default_generator.manual_seed(seed)
        try:
            return self.transforms[augmented](self.source.open(index)), int(self.source.labels[index])
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
            torch.set_rng_state(before[2])
