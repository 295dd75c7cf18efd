"""The positive control: its images follow from the law that the module states, and a shallow network can't see it."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from buildup.errors import DataError
from buildup.models.build import build
from buildup.models.read import read_network
from buildup.training.cued_digits import ANSWERS, CUES, IMAGE_SIZE, IMAGES, SIDE, CuedDigits
from buildup.training.data import describe_data, load_data
from buildup.training.dataset import Dataset, split
from buildup.training.standard_datasets import Digits
from held_out import load_test

HERE = Path()
FAR = slice(IMAGE_SIZE - SIDE, IMAGE_SIZE)
PLACES = ((slice(SIDE), slice(SIDE)), (slice(SIDE), FAR), (FAR, slice(SIDE)))


def shown(dataset: Dataset, *, train: bool) -> Tensor:
    """The kind of the digit at each of the three places of each image, looked up among all digits of the part."""
    digits = Digits().load("digits", HERE, SIDE, train=train)
    kind_of = {image.numpy().tobytes(): kind for image, kind in zip(digits.images, digits.labels.tolist(), strict=True)}
    return torch.tensor(
        [[kind_of[image[0][place].contiguous().numpy().tobytes()] for place in PLACES] for image in dataset.images]
    )


@pytest.mark.parametrize("train", [True, False])
def test_cue_says_which_digit_is_the_class(train: bool) -> None:
    dataset = (load_data if train else load_test)("cued-digits")
    cue, right, below = shown(dataset, train=train).T  # a digit of the other part would not be found
    assert set(cue.tolist()) == set(CUES)
    assert torch.equal(torch.tensor(ANSWERS)[dataset.labels], torch.where(cue == CUES[0], right, below))
    assert not (right == below).any()


def test_two_digits_without_the_cue_leave_even_odds() -> None:
    dataset = load_data("cued-digits")
    _, right, below = shown(dataset, train=True).T
    for one in ANSWERS:
        for other in set(ANSWERS) - {one}:
            of_pair = (right == one) & (below == other)
            said = torch.tensor(ANSWERS)[dataset.labels[of_pair]] == one
            assert 0.4 < said.float().mean() < 0.6


def test_nothing_but_the_three_digits_is_drawn() -> None:
    images = load_data("cued-digits").images.clone()
    for rows, columns in PLACES:
        images[:, 0, rows, columns] = 0
    assert not images.any()


def test_classes_are_balanced_and_the_description_holds() -> None:
    info, dataset = describe_data("cued-digits"), load_data("cued-digits")
    train, val = split(dataset, 0)
    assert (info.train_images, info.val_images) == (len(train), len(val)) == (2001, 999)
    assert (info.channels, info.image_size, info.num_classes) == (1, IMAGE_SIZE, dataset.num_classes)
    assert dataset.labels.bincount().tolist() == [1000, 1000, 1000]
    assert int(load_test("cued-digits").labels.bincount().min()) >= 333


def test_images_are_the_same_in_every_call() -> None:
    first, second = (CuedDigits().load("cued-digits", HERE, IMAGE_SIZE, train=True) for _ in range(2))
    assert first.hash == second.hash


@pytest.mark.parametrize("size", [18, 40])
def test_the_asked_size_of_the_images_is_honoured(size: int) -> None:
    kind = CuedDigits()
    dataset = kind.load(kind.name, HERE, kind.size(kind.name, HERE, size), train=True)
    assert dataset.images.shape == (IMAGES, 1, size, size)
    assert kind.contents(kind.name, HERE).members == tuple(dataset.labels.bincount().tolist())


def test_a_size_that_does_not_keep_the_digits_apart_is_refused() -> None:
    with pytest.raises(DataError, match="image size is 17; at least 18 px"):
        CuedDigits().size("cued-digits", HERE, 17)


def test_no_position_of_resnet6_sees_two_digits() -> None:
    network = read_network("resnet6", input_shape=(1, IMAGE_SIZE, IMAGE_SIZE), num_classes=len(ANSWERS))
    model = build(network, seed=0).eval()
    image = torch.rand(1, 1, IMAGE_SIZE, IMAGE_SIZE, requires_grad=True)
    maps = model.get_submodule("stages.2")(model.get_submodule("stages.1")(model.get_submodule("stem")(image)))
    for row in range(maps.shape[2]):
        for column in range(maps.shape[3]):
            (seen,) = torch.autograd.grad(maps[0, :, row, column].abs().sum(), image, retain_graph=True)
            shares = sorted(float((seen[0, 0][place] != 0).float().mean()) for place in PLACES)
            assert shares[1] < 0.25, "a second digit is seen by less than a quarter"
