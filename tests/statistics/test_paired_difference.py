"""What the seeds of a candidate and its parent say, and how much of it is due to single images."""

import time
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildup.statistics.paired_difference import Pair, compare, disagreement
from buildup.trials.objective import OBJECTIVES
from buildup.trials.outcome import Score

IMAGES = 1000
Bits = npt.NDArray[np.bool_]


def score(correct: Bits, validated: bytes | None = None) -> Score:
    accuracy, packed = 100 * float(correct.mean()), np.packbits(correct).tobytes()
    return Score(accuracy=accuracy, correct=packed, images=len(correct), validated=validated)


def drawn(count: int, *, own: int, folds: bool = False) -> list[Pair]:
    """Pairs that toss a coin on 300 images, and where the candidate is right on `own` images, wrong on as many.

    With folds, each seed has images of its own.
    """
    random = np.random.default_rng(0)
    base = np.arange(IMAGES) < 600
    pairs = []
    for seed in range(count):
        ours, theirs = base.copy(), base.copy()
        ours[500:800], theirs[500:800] = random.random((2, 300)) < 0.5
        ours[:own], ours[IMAGES - own :] = False, True
        mask = np.packbits(np.arange(IMAGES * count) // IMAGES == seed).tobytes() if folds else None
        pairs.append(Pair(candidate=score(ours, mask), parent=score(theirs, mask)))
    return pairs


@given(gains=st.lists(st.floats(-5, 5), min_size=1, max_size=12))
def test_mean_and_squares_are_those_of_the_differences(gains: list[float]) -> None:
    found = compare([Pair(candidate=Score(accuracy=80 + gain), parent=Score(accuracy=80)) for gain in gains])
    assert found.gain == pytest.approx(float(np.mean(gains)), abs=1e-9)
    assert found.squares == pytest.approx(float(np.var(gains)) * len(gains), abs=1e-9)
    assert found.seeds == len(gains)


def test_images_on_which_both_agree_add_less_variance() -> None:
    alike, apart = np.arange(100) < 80, np.arange(100) >= 20
    few, many = (compare([Pair(candidate=score(alike), parent=score(other))] * 2) for other in (alike, apart))
    assert few.image_variance + few.shared_variance < many.image_variance + many.shared_variance


def test_images_that_all_seeds_share_are_told_from_chance() -> None:
    # 120 images on which the two always differ: a deviation of 100 * sqrt(0.12 / 1000) = 1.1 points for ever.
    fading, staying = (compare(drawn(24, own=own)) for own in (0, 60))
    assert fading.shared_variance**0.5 < 0.3
    assert staying.shared_variance**0.5 == pytest.approx(1.1, abs=0.15)
    # 300 coins for each of two networks differ in half of the cases: 100 * sqrt(0.15 / 1000) = 1.22 points a seed.
    assert staying.image_variance**0.5 == pytest.approx(1.22, abs=0.1)


def test_what_seeds_see_on_images_of_their_own_fades() -> None:
    found = compare(drawn(24, own=60, folds=True))
    assert found.shared_variance < 0.01
    assert found.image_variance == pytest.approx(1e4 * (0.15 + 0.12) / IMAGES, rel=0.1)


@pytest.mark.parametrize("seeds", [2, 5])
def test_the_parts_of_the_variance_are_those_of_the_analysis_of_variance(seeds: int) -> None:
    random = np.random.default_rng(seeds)
    own = random.exponential(1, (2, seeds, IMAGES)) + random.exponential(1, (2, 1, IMAGES))
    losses = own.astype("<f2")
    known: dict[str, Any] = {"accuracy": 0.0, "images": IMAGES, "correct": bytes(IMAGES // 8)}
    pairs = [
        Pair(
            candidate=Score(losses=ours.tobytes(), metrics={"nll": float(ours.mean())}, **known),
            parent=Score(losses=theirs.tobytes(), metrics={"nll": float(theirs.mean())}, **known),
        )
        for ours, theirs in zip(*losses, strict=True)
    ]
    gains = losses[1].astype(float) - losses[0]
    centred = gains - gains.mean(1, keepdims=True)
    within = 1e4 * centred.var(0, ddof=1).sum() / IMAGES**2
    found = compare(pairs, OBJECTIVES["nll"])
    assert found.image_variance == pytest.approx(within)
    assert found.shared_variance == pytest.approx(1e4 * (centred.mean(0) ** 2).sum() / IMAGES**2 - within / seeds)
    (first, *_) = pairs
    alone = compare([first], OBJECTIVES["nll"])
    assert alone.image_variance == pytest.approx(1e4 * gains[0].var() / IMAGES)
    assert alone.shared_variance == 0
    unknown = [Pair(candidate=first.candidate, parent=replace(first.parent, losses=None)) for first in pairs]
    assert compare(unknown, OBJECTIVES["nll"]).image_variance == OBJECTIVES["nll"].assumed_variance


def test_one_image_more_counts_as_different() -> None:
    alike = np.arange(IMAGES) < 700
    one_more = alike | (np.arange(IMAGES) == 900)
    found = [compare([Pair(candidate=score(ours), parent=score(alike))]).image_variance for ours in (alike, one_more)]
    shares = [1 / (IMAGES + 1), 2 / (IMAGES + 1) - 1e-6]
    assert found == pytest.approx([1e4 * share / IMAGES for share in shares])


def test_the_disagreement_is_the_share_of_images_that_one_of_two_gets_right() -> None:
    ours, theirs = np.arange(IMAGES) < 700, np.arange(IMAGES) >= 200
    assert disagreement(Pair(candidate=score(ours), parent=score(theirs))) == 0.5
    assert disagreement(Pair(candidate=score(ours), parent=Score(accuracy=80.0))) is None


def test_half_shared_images_share_half_of_the_variance() -> None:
    whole = drawn(2, own=60)
    masks = [np.packbits((np.arange(1500) >= 500 * seed) & (np.arange(1500) < 1000 + 500 * seed)) for seed in (0, 1)]
    half = [
        Pair(
            candidate=replace(pair.candidate, validated=mask.tobytes()),
            parent=replace(pair.parent, validated=mask.tobytes()),
        )
        for pair, mask in zip(whole, masks, strict=True)
    ]
    assert compare(half).shared_variance < compare(whole).shared_variance


def test_images_of_other_folds_are_not_compared() -> None:
    (pair,) = drawn(1, own=0, folds=True)
    other = replace(pair.parent, validated=np.packbits(np.arange(IMAGES) < 7).tobytes())
    assert compare([Pair(candidate=pair.candidate, parent=other)]).image_variance == pytest.approx(0.34)


def test_a_comparison_takes_milliseconds() -> None:
    pairs, times = drawn(12, own=10, folds=True), []
    for _ in range(20):
        start = time.perf_counter()
        compare(pairs)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.05
