"""What a training is fed depends on seed and epoch alone."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from buildup.training import feed as feeding
from buildup.training.augmentation import normalise
from buildup.training.data import load_data
from buildup.training.dataset import Dataset
from buildup.training.feed import Feed, batch_starts
from buildup.training.recipe import Recipe, load_recipe

CPU = torch.device("cpu")
PAPER = replace(load_recipe("paper"), batch_size=8)
EVERYTHING = replace(PAPER, erasing=0.5, colour_jitter=0.4)
QUICK = replace(load_recipe("quick"), batch_size=8)


def dataset(channels: int = 3) -> Dataset:
    generator = torch.Generator().manual_seed(3)
    return Dataset(
        name="made up",
        images=torch.randint(1, 256, (40, channels, 16, 16), generator=generator).byte(),
        labels=torch.arange(40) % 3,
        class_names=("a", "b", "c"),
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
    )


def resident(recipe: Recipe, data: Dataset | None = None, seed: int = 0) -> Feed:
    index = torch.arange(40)
    return Feed(recipe=recipe, dataset=data or dataset(), train=index[:29], val=index[29:], seed=seed, device=CPU)


def epoch(given: Feed, number: int = 1) -> tuple[Tensor, Tensor]:
    inputs, targets = zip(*given.epoch(number), strict=True)
    return torch.cat(inputs), torch.cat(targets)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("recipe", [QUICK, EVERYTHING], ids=["quick", "everything"])
def test_draws_depend_on_seed_and_epoch_alone(recipe: Recipe, channels: int) -> None:
    given = resident(recipe, dataset(channels))
    inputs, targets = epoch(given)
    # What a network may do between two batches: draw from every global generator.
    torch.rand(5)
    random.random()
    np.random.random_sample(3)
    again, same_targets = epoch(given)
    assert torch.equal(inputs, again)
    assert torch.equal(targets, same_targets)
    assert not torch.equal(inputs, epoch(given, 2)[0])
    assert not torch.equal(inputs, epoch(resident(recipe, dataset(channels), seed=1))[0])
    assert inputs.shape == (29, channels, 16, 16)
    assert targets.sum(1).tolist() == pytest.approx([1.0] * 29)


def test_nothing_is_drawn_from_the_global_generators() -> None:
    before = random.getstate(), torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]
    epoch(resident(EVERYTHING))
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert np.random.get_state()[1].tolist() == before[2]  # type: ignore[index]


@pytest.mark.parametrize("first", [0, 1, 3])
def test_an_epoch_can_begin_in_its_middle(first: int) -> None:
    whole, rest = list(resident(EVERYTHING).epoch(2)), list(resident(EVERYTHING).epoch(2, first))
    assert len(rest) == len(whole) - first
    for ours, theirs in zip(rest, whole[first:], strict=True):
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])


def test_batches_are_the_same_however_many_are_augmented_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    one_by_one = epoch(resident(EVERYTHING))
    monkeypatch.setattr(Feed, "_batches_together", lambda *_: 3)
    for ours, theirs in zip(epoch(resident(EVERYTHING)), one_by_one, strict=True):
        assert torch.equal(ours, theirs)


def test_another_transform_leaves_the_draws_of_the_others_as_they_were() -> None:
    plain = replace(QUICK, label_smoothing=0.0)
    erased, whole = epoch(resident(replace(plain, erasing=1.0)))[0], epoch(resident(plain))[0]
    assert torch.equal(erased[erased != 0], whole[erased != 0])
    assert (erased == 0).float().mean() > (whole == 0).float().mean() + 0.05


def test_without_augmentation_each_image_comes_once_and_as_it_is() -> None:
    data = dataset()
    bare = replace(QUICK, crop_padding=0, flip=False, label_smoothing=0.0)
    inputs, targets = epoch(resident(bare, data))
    plain = normalise(data.images[:29], data.mean, data.std)
    found = [int((plain == image).flatten(1).all(1).nonzero()) for image in inputs]
    assert sorted(found) == list(range(29))
    assert targets.argmax(1).tolist() == data.labels[found].tolist()


def test_digits_are_never_mirrored() -> None:
    digits = load_data("digits")
    recipe = replace(load_recipe("quick"), crop_padding=0)
    assert recipe.flip
    index = torch.arange(64)
    given = Feed(recipe=recipe, dataset=digits, train=index, val=index, seed=0, device=CPU)
    plain = normalise(digits.images[:64], digits.mean, digits.std)
    assert epoch(given)[0].sort(dim=0).values.equal(plain.sort(dim=0).values)


def test_validation_images_come_in_their_order_and_unchanged() -> None:
    data = dataset()
    given = resident(replace(EVERYTHING, eval_batch_size=4), data)
    inputs, labels = (torch.cat(parts) for parts in zip(*given.validation(), strict=True))
    assert torch.equal(inputs, normalise(data.images[29:], data.mean, data.std))
    assert torch.equal(labels, data.labels[29:])


def test_a_last_batch_of_few_images_is_left_out() -> None:
    assert [list(batch_starts(*sizes)) for sizes in ((7, 8), (20, 8), (19, 8))] == [[0], [0, 8, 16], [0, 8]]


def test_the_next_training_finds_the_images_on_the_device() -> None:
    data = dataset()
    meta = torch.device("meta")
    assert feeding.on_device(data, CPU) is data
    assert feeding.on_device(data, meta) is feeding.on_device(data, meta)


def test_images_that_would_fill_a_device_stay_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    data, cuda = dataset(), torch.device("cuda", 3)
    size = data.images.numel()
    memory = {cuda: 8 * size}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, memory[device]))
    assert feeding.on_device(data, cuda, 0.25) is data
    with pytest.raises((AssertionError, RuntimeError), match=r"CUDA|NVIDIA"):  # it would be moved there
        feeding.on_device(data, cuda)
    memory[cuda] = 2 * size
    assert feeding.on_device(data, cuda) is data


def test_images_on_the_host_make_the_batches_of_images_on_the_device() -> None:
    data, meta = dataset(), torch.device("meta")
    there = replace(resident(EVERYTHING, data), device=meta)
    for name in ("epoch", "validation"):
        ours = list(getattr(there, name)(*[1] * (name == "epoch")))
        theirs = list(getattr(resident(EVERYTHING, data), name)(*[1] * (name == "epoch")))
        assert [[tensor.shape for tensor in batch] for batch in ours] == [
            [tensor.shape for tensor in batch] for batch in theirs
        ]
        assert {tensor.device for batch in ours for tensor in batch} == {meta}
