"""RandAugment and colour jitter: what is drawn is what timm and torchvision draw."""

import random
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from timm.data import auto_augment
from torch import Tensor

from buildup.training import operations
from buildup.training.augmentation import random_stream
from buildup.training.randaugment import (
    BILINEAR,
    CHOICES,
    KEEP,
    PIXELS,
    Layer,
    colour_jitter,
    operate,
    rand_augment,
)
from buildup.training.recipe import RandAugment

PAPER = RandAugment(magnitude=9, layers=2, std=1.0)
COUNT = 30_000


def test_timm_has_the_same_operations_in_the_same_order() -> None:
    assert [choice.name for choice in CHOICES] == auto_augment._RAND_TRANSFORMS


def drawn_by_timm(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[float, ...]]]:
    """What timm's own transform carries out, image by image: the name and the numbers of each operation."""
    calls: list[tuple[str, tuple[float, ...]]] = []
    operate_on = auto_augment.rand_augment_transform("rand-m9-n2-mstd1.0", {"img_mean": (0, 0, 0)})
    for operation in operate_on.ops:

        def note(image: str, *arguments: float, name: str = operation.name, **_: object) -> str:
            calls.append((name, arguments))
            return image

        monkeypatch.setattr(operation, "aug_fn", note)
    before = random.getstate(), np.random.get_state()
    random.seed(0)
    np.random.seed(0)
    for _ in range(COUNT):
        operate_on("image")
    random.setstate(before[0])
    np.random.set_state(before[1])
    return calls


def test_operations_are_drawn_as_often_as_timm_draws_them_and_as_strong(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = drawn_by_timm(monkeypatch)
    layers = rand_augment(random_stream(0, 1, "randaugment"), COUNT, 32, PAPER)
    assert len(layers) == 2
    operation = np.concatenate([layer.operation for layer in layers])
    arguments = np.concatenate([layer.arguments for layer in layers])
    assert np.mean(operation == KEEP) == pytest.approx(1 - len(theirs) / (2 * COUNT), abs=0.01)

    often = Counter(name for name, _ in theirs)
    for choice in CHOICES:
        if choice.operation != BILINEAR:
            share = np.mean(operation == choice.operation)
            assert share == pytest.approx(often[choice.name] / (2 * COUNT), abs=0.005), choice.name
            numbers = [float(a[0]) for name, a in theirs if name == choice.name and a]
            ours = arguments[operation == choice.operation, 0]
            if numbers:
                assert stats.ks_2samp(ours, numbers).pvalue > 1e-4, choice.name
    moved = operation >= BILINEAR
    assert np.mean(moved) == pytest.approx(5 / 30, abs=0.01)
    assert np.mean(operation[moved] == BILINEAR) == pytest.approx(0.5, abs=0.02)
    # Each of the five that move pixels shows in an entry of its own of the matrix.
    matrices = arguments[moved]
    turned = matrices[:, 0] != 1
    for entry, name, scale in ((1, "ShearX", 1), (3, "ShearY", 1), (2, "TranslateXRel", 32), (5, "TranslateYRel", 32)):
        ours = matrices[~turned & (matrices[:, entry] != 0), entry]
        numbers = [scale * float(a[0]) for found, a in theirs if found == name]
        assert stats.ks_2samp(ours, numbers).pvalue > 1e-4, name
    # The strongest are cut off at 30 degrees sharp.
    angles = np.degrees(-np.arctan2(matrices[turned, 1], matrices[turned, 0])).round(9)
    assert stats.ks_2samp(angles, [float(a[0]) for found, a in theirs if found == "Rotate"]).pvalue > 1e-4


def pictures(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, 8, 8), generator=torch.Generator().manual_seed(0)).byte()


@settings(max_examples=20)
@given(count=st.integers(1, 60), cut=st.integers(0, 60), seed=st.integers(0, 1000))
def test_images_are_changed_alike_in_any_company(count: int, cut: int, seed: int) -> None:
    images = pictures(count)
    (layer, _) = rand_augment(random_stream(seed, 1, "x"), count, 8, PAPER)
    whole = operate(images, layer, slice(0, count), (1, 2, 3))
    parts = [
        operate(images[here], layer, here, (1, 2, 3))
        for here in (slice(0, min(cut, count)), slice(min(cut, count), count))
        if here.start < here.stop
    ]
    assert torch.equal(torch.cat(parts), whole)
    kept = torch.from_numpy(layer.operation == KEEP)
    assert torch.equal(whole[kept], images[kept])


def test_jitter_changes_three_things_by_factors_in_random_order() -> None:
    layers = colour_jitter(random_stream(0, 1, "jitter"), 6000, 0.4)
    kinds = np.stack([layer.operation for layer in layers])
    names = {PIXELS.index(each) for each in (operations.brightness, operations.contrast, operations.color)}
    assert all(set(column) == names for column in kinds.T[:100])
    assert sorted(Counter(map(tuple, kinds.T)).values())[0] > 850  # six orders, each a thousand times
    factors = np.concatenate([layer.arguments[:, 0] for layer in layers])
    assert stats.kstest(factors, "uniform", (0.6, 0.8)).pvalue > 1e-4


def test_an_operation_gets_the_arguments_of_its_image() -> None:
    factors = np.pad([[1.0], [0.0], [0.5]], ((0, 0), (0, 5)))
    layer = Layer(operation=np.full(3, PIXELS.index(operations.brightness)), arguments=factors)
    images = torch.full((3, 3, 4, 4), 100, dtype=torch.uint8)
    assert operate(images, layer, slice(0, 3), (0, 0, 0))[:, 0, 0, 0].tolist() == [100, 0, 50]
