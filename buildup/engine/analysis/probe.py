"""Trained networks of a run, measured on its own images: what blocks do at their places, and the curvature of the loss.

Images, batches and draws are the same for all networks of a run, so that what differs is the network.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from buildup.diagnostics.analysis import Batch
from buildup.diagnostics.hessian import BATCH, ape, augmented_batches, hessian, nep
from buildup.diagnostics.places import effect
from buildup.diagnostics.predictions import labelled
from buildup.engine.analysis.subjects import load_weights
from buildup.errors import DataError
from buildup.models.build import build
from buildup.store.run_record import RunRecord
from buildup.training.data import load_data, open_data
from buildup.training.dataset import Dataset, parse_fraction, split
from buildup.trials.training import Candidate, Training

PLACE, CURVATURE = ("lesion", "variance", "frequency"), ("top", "ape", "nep")
BATCH_SIZE = 128

Measured = dict[str, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How much is measured of each training."""

    images: int = 10_000
    """Validation images at most."""
    hessian_batches: int = 30
    """Of 16 training images each; several seeds of two networks make many of them."""
    seeds: int = 12
    """Seeds of a verdict at most, the first ones."""


QUICK = Extent(images=512, hessian_batches=2, seeds=2)


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What the networks of a run are measured on."""

    run: RunRecord
    extent: Extent
    images: Dataset
    batches: tuple[Batch, ...]
    weight_decay: float
    device: torch.device
    identity: Mapping[str, Any]
    curvatures: dict[str, Measured] = field(default_factory=dict)
    """By training: the Hessian knows no place, so a parent of several candidates has one."""

    def model(self, training: Training) -> nn.Module:
        """A trained network."""
        model = build(training.candidate.network, seed=0)
        load_weights(model, self.run.trainings / training.id)
        return model.to(self.device)

    def at(self, model: nn.Module, candidate: Candidate, paths: Sequence[str]) -> Measured:
        """What the blocks at these paths do; nothing where the network has no such blocks."""
        network = candidate.network
        if not {block.path for block in network.blocks}.issuperset(paths):
            return dict.fromkeys(PLACE)
        style = network.block(paths[0]).style
        found = effect(model, paths, self.labelled, channels_last=style is not None and style.channels_last)
        return {"lesion": found.lesion, "variance": found.variance, "frequency": found.frequency}

    def labelled(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The images, the same at each call."""
        return labelled(self.images, BATCH_SIZE)

    def curvature(self, model: nn.Module, training: Training) -> Measured:
        """The largest eigenvalues of the Hessian of each batch."""
        if training.id not in self.curvatures:
            found = [batch.values for batch in hessian(model, self.batches, weight_decay=self.weight_decay)]
            values = [value for batch in found for value in batch]
            self.curvatures[training.id] = {"top": fmean(map(max, found)), "ape": ape(values), "nep": nep(values)}
        return self.curvatures[training.id]


def probe_of(run: RunRecord, extent: Extent, *, seed: int, device: str, curved: bool) -> Probe:
    """What a run's networks are measured on; `curved` draws the batches of the Hessian, too."""
    settings, recipe = run.settings, run.recipe
    data = open_data(settings.dataset, settings.data_dir, settings.image_size, recipe)
    if data.hash != run.data.hash:
        raise DataError(
            f"{settings.dataset}: this dataset is not the one that the run began with. Give back its files."
        )
    if not isinstance(data, Dataset):
        data = load_data(settings.dataset, settings.data_dir, settings.image_size)
    train, val = split(data, run.data.split_seed, fraction=parse_fraction(settings.fraction))
    chosen = torch.randperm(len(val), generator=torch.Generator().manual_seed(seed))[: extent.images]
    images = data.part(val[chosen.sort().values])
    batches: tuple[Batch, ...] = ()
    if curved:
        count = extent.hessian_batches
        batches = augmented_batches(data, recipe, train, seed=seed, device=torch.device(device), count=count)
    return Probe(
        run=run,
        extent=extent,
        images=images,
        batches=batches,
        weight_decay=recipe.weight_decay,
        device=torch.device(device),
        identity={
            "images": f"{len(images.labels)} of the run's validation images, {images.hash[:16]}",
            "hessian": f"{extent.hessian_batches} batches of {BATCH} of its training images, augmented",
            "seed": seed,
        },
    )
