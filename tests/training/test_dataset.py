"""Splits are balanced, apart, nested and by the seed alone; a machine decodes a set once, until its files change."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from subprocess import run
from sys import executable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from buildup.errors import DataError
from buildup.training.dataset import (
    MOST_VALIDATED,
    Dataset,
    check_fraction,
    count_split,
    load_or_decode,
    parse_fraction,
    shared_split,
    split,
)

LOAD = "import sys; from buildup.training.data import load_data; print(load_data(*sys.argv[1:], 16).origin)"


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


@settings(max_examples=40)
@given(members=CLASSES, seed=st.integers(0, 2**31 - 1), share=st.floats(0.05, 0.5), fraction=SHARES)
def test_split_is_balanced_and_its_parts_are_apart(
    members: list[int], seed: int, share: float, fraction: float
) -> None:
    dataset = replace(labelled(members), val_share=share)
    train, val = split(dataset, seed, fraction=fraction)
    assert not as_set(train) & as_set(val)
    assert (len(train), len(val)) == count_split(members, share, fraction)
    for label, count in enumerate(members):
        held = int((dataset.labels[val] == label).sum())
        kept = int((dataset.labels[train] == label).sum())
        assert held + kept == count
        assert kept >= 1
        assert abs(kept - fraction * (1 - share) * count) <= 2


@settings(max_examples=40)
@given(members=CLASSES, seed=st.integers(0, 10_000), share=st.sampled_from([0.1, 0.2, 0.25, 0.5]))
def test_without_a_fraction_each_class_gives_its_share(members: list[int], seed: int, share: float) -> None:
    dataset = replace(labelled(members), val_share=share)
    _, val = split(dataset, seed)
    for label, count in enumerate(members):
        held = int((dataset.labels[val] == label).sum())
        assert held >= 1
        assert abs(held - share * count) <= 1


@pytest.mark.parametrize("share", [0.1, 0.2, 0.25])
def test_the_folds_of_neighbouring_seeds_are_apart_and_cover_all_images(share: float) -> None:
    dataset, folds = replace(labelled([40, 60]), val_share=share), round(1 / share)
    seen = torch.cat([split(dataset, seed)[1] for seed in range(folds, 2 * folds)])
    assert as_set(seen) == set(range(100))
    assert len(seen) == 100
    assert not torch.equal(split(dataset, 0)[1], split(dataset, folds)[1])


def test_small_fractions_validate_on_what_is_left_up_to_the_most() -> None:
    dataset = replace(labelled([30_000, 20_000]), val_share=0.1)
    train, val = split(dataset, 3, fraction=1 / 64)
    assert len(train) == 703
    assert len(val) == MOST_VALIDATED
    assert (dataset.labels[val] == 0).sum() == 6_000
    assert len(split(dataset, 3)[1]) == 5_000


@pytest.mark.parametrize("divide", [split, shared_split])
@pytest.mark.parametrize("count", [0, 1])
def test_a_class_that_cannot_be_split_is_refused_by_name(divide: Callable[..., object], count: int) -> None:
    dataset = replace(labelled([4, count, 4]), class_names=("ant", "bee", "wasp"))
    with pytest.raises(DataError, match=rf"class bee has {count} images?: a class needs at least 2"):
        divide(dataset, 0)
    divide(labelled([4, 2, 4]), 0)


@given(members=CLASSES, share=st.floats(0.05, 0.5), fraction=st.floats(0.001, 1.0))
def test_a_fraction_is_refused_if_and_only_if_it_is_less_than_one_image_a_class(
    members: list[int], share: float, fraction: float
) -> None:
    whole, _ = count_split(members, share)
    if fraction * whole >= len(members):
        check_fraction(members, share, fraction)
        return
    with pytest.raises(DataError, match=f"{len(members)} classes need at least one each") as error:
        check_fraction(members, share, fraction)
    # The fraction that the message asks for is accepted.
    check_fraction(members, share, 1 / int(str(error.value).rpartition("1/")[2].rstrip(".")))


def test_an_old_run_keeps_its_split() -> None:
    dataset = labelled([40, 40])
    train, val = shared_split(dataset, 3, fraction=0.5)
    assert (len(train), len(val)) == (36, 8)
    assert val.tolist() == split_before_0_3(dataset.labels, 3)


def split_before_0_3(labels: torch.Tensor, seed: int) -> list[int]:
    """As version 0.2.0 split two classes with a validation share of a tenth."""
    held = []
    for label in (0, 1):
        members = np.flatnonzero(labels.numpy() == label)
        held += members[np.random.RandomState([seed, label]).permutation(len(members))][: len(members) // 10].tolist()
    return sorted(held)


@settings(max_examples=40)
@given(members=CLASSES, seed=st.integers(0, 2**31 - 1), fractions=st.tuples(SHARES, SHARES))
def test_a_smaller_fraction_is_part_of_a_larger_one_and_validates_on_more(
    members: list[int], seed: int, fractions: tuple[float, float]
) -> None:
    small, large = (split(labelled(members), seed, fraction=fraction) for fraction in sorted(fractions))
    assert as_set(small[0]) <= as_set(large[0])
    assert as_set(small[1]) >= as_set(large[1])


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


def made_up(value: int = 1) -> Dataset:
    return Dataset(
        name="made up",
        images=torch.full((4, 1, 8, 8), value, dtype=torch.uint8),
        labels=torch.tensor([0, 1, 1, 0]),
        class_names=("no", "yes"),
        mean=(0.5,),
        std=(0.2,),
        mirror=False,
        val_share=0.25,
    )


def test_what_was_decoded_is_read_back_whole(tmp_path: Path) -> None:
    first = load_or_decode(tmp_path, "set", [1], made_up)
    again = load_or_decode(tmp_path, "set", [1], lambda: pytest.fail("decoded twice"))
    assert again.hash == first.hash == made_up().hash
    for name in ("name", "class_names", "mean", "std", "mirror", "val_share", "origin"):
        assert getattr(again, name) == getattr(first, name)
    assert f":{os.getpid()} at " in again.origin


def test_changed_files_are_decoded_anew_and_replace_what_was_there(tmp_path: Path) -> None:
    load_or_decode(tmp_path, "set", ["then"], made_up)
    assert load_or_decode(tmp_path, "set", ["now"], lambda: made_up(2)).images.max() == 2
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


def test_a_broken_file_is_written_anew(tmp_path: Path) -> None:
    load_or_decode(tmp_path, "set", [1], made_up)
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:20])
    assert load_or_decode(tmp_path, "set", [1], lambda: made_up(3)).images.max() == 3
    assert load_or_decode(tmp_path, "set", [1], lambda: pytest.fail("decoded twice")).images.max() == 3


def test_a_place_that_cannot_be_written_is_done_without_and_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    dataset = load_or_decode(tmp_path / "file" / "decoded", "set", [1], made_up)
    assert dataset.hash == made_up().hash
    assert "for itself alone" in dataset.origin


def test_an_error_of_decoding_is_the_callers(tmp_path: Path) -> None:
    def broken() -> Dataset:
        raise DataError("broken.png can't be read")

    with pytest.raises(DataError, match="broken"):
        load_or_decode(tmp_path, "set", [1], broken)
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.slow
def test_processes_that_start_together_share_one_decode(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(40):
            Image.new("RGB", (32, 32), (number, 0, 0)).save(tmp_path / "images" / name / f"{number}.png")

    def origin(_: int) -> str:
        command = [executable, "-c", LOAD, f"folder:{tmp_path / 'images'}", str(tmp_path / "data")]
        return run(command, capture_output=True, text=True, check=True).stdout

    with ThreadPoolExecutor(3) as pool:
        origins = set(pool.map(origin, range(3)))
    assert len(origins) == 1
    assert "decoded by" in origins.pop()
