"""The laws of splitting: balanced, apart, by the seed alone, nested."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from buildup.errors import DataError
from buildup.training.dataset import Dataset, count_split, parse_fraction, split


def labelled(members: list[int]) -> Dataset:
    labels = torch.from_numpy(np.random.RandomState(7).permutation(np.repeat(np.arange(len(members)), members)))
    return Dataset(
        name="made up",
        images=torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8),
        labels=labels,
        class_names=tuple(str(label) for label in range(len(members))),
        mean=(0.5,),
        std=(0.5,),
    )


def as_set(index: Tensor) -> set[int]:
    return set(index.tolist())


CLASSES = st.lists(st.integers(2, 60), min_size=2, max_size=6)
SHARES = st.floats(0.01, 1.0)


@settings(deadline=None, max_examples=40)
@given(members=CLASSES, seed=st.integers(0, 2**31 - 1), share=st.floats(0.05, 0.5), fraction=SHARES)
def test_split_is_balanced_and_its_parts_are_apart(
    members: list[int], seed: int, share: float, fraction: float
) -> None:
    dataset = labelled(members)
    train, val = split(dataset, seed, val_share=share, fraction=fraction)
    assert not as_set(train) & as_set(val)
    assert (len(train), len(val)) == count_split(members, share, fraction)
    for label, count in enumerate(members):
        held = int((dataset.labels[val] == label).sum())
        kept = int((dataset.labels[train] == label).sum())
        assert held >= 1
        assert abs(held - share * count) <= 1
        assert kept >= 1
        assert abs(kept - fraction * (count - held)) <= 1


@settings(deadline=None, max_examples=40)
@given(members=CLASSES, seed=st.integers(0, 2**31 - 1), fractions=st.tuples(SHARES, SHARES))
def test_a_smaller_fraction_is_part_of_a_larger_one_and_validation_stays_whole(
    members: list[int], seed: int, fractions: tuple[float, float]
) -> None:
    small, large = (split(labelled(members), seed, fraction=fraction) for fraction in sorted(fractions))
    assert as_set(small[0]) <= as_set(large[0])
    assert torch.equal(small[1], large[1])


def test_split_depends_on_its_seed_alone() -> None:
    dataset = labelled([40, 40])
    np.random.seed(1)
    first = split(dataset, 3)[1]
    np.random.seed(2)
    assert torch.equal(first, split(dataset, 3)[1])
    assert not torch.equal(first, split(dataset, 4)[1])


def test_hash_tells_a_changed_pixel_and_a_changed_label() -> None:
    one, two, three = labelled([5, 5]), labelled([5, 5]), labelled([5, 5])
    assert one.hash == two.hash == labelled([5, 5]).hash
    two.images.view(-1)[0] = 1
    three.labels[0] = 1 - three.labels[0]
    assert len({labelled([5, 5]).hash, _fresh_hash(two), _fresh_hash(three)}) == 3


def _fresh_hash(dataset: Dataset) -> str:
    return Dataset(
        name=dataset.name, images=dataset.images, labels=dataset.labels, class_names=dataset.class_names,
        mean=dataset.mean, std=dataset.std,
    ).hash  # fmt: skip


@pytest.mark.parametrize("text", ["0", "-1/2", "2", "1/0", "half", "", "nan"])
def test_a_wrong_fraction_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="fraction"):
        parse_fraction(text)
