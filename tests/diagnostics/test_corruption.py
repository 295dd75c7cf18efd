from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from buildup.diagnostics.analysis import labelled_batches
from buildup.diagnostics.corruption import (
    ALEXNET,
    CLEAN,
    PUBLISHED_IMAGES,
    GeneratedImages,
    PublishedImages,
    corrupted_batches,
    kind_errors,
    open_published,
    relative_error,
)
from buildup.diagnostics.image_corruptions import CORRUPTIONS
from buildup.diagnostics.predictions import evaluate
from buildup.errors import DataError
from buildup.training.data import load_data
from buildup.training.dataset import Dataset


class Constant(nn.Module):
    """Always the same class."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.arange(classes, 0.0, -1))

    def forward(self, images: Tensor) -> Tensor:
        return self.logits.expand(len(images), -1)


class Reader(nn.Module):
    """Takes the brightness of the first pixel for the class."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.arange(classes) / 255)

    def forward(self, images: Tensor) -> Tensor:
        return -100 * (images[:, 0, 0, 0, None] - self.values).abs()


def some(count: int) -> Dataset:
    return load_data("digits").part(torch.arange(count))


def balanced(each: int) -> Dataset:
    digits = load_data("digits")
    return digits.part(torch.cat([(digits.labels == label).nonzero()[:each, 0] for label in range(10)]))


def plain(classes: int, side: int = 32) -> Dataset:
    return Dataset(
        name="plain",
        images=torch.zeros(1, 3, side, side, dtype=torch.uint8),
        labels=torch.zeros(1, dtype=torch.int64),
        class_names=tuple(map(str, range(classes))),
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
    )


def written(folder: Path, labels: np.ndarray[Any, Any], count: int = 5 * PUBLISHED_IMAGES) -> Path:
    """Black images: files with holes in place of zeros, so they take no time and no room."""
    for kind in CORRUPTIONS:
        np.lib.format.open_memmap(folder / f"{kind}.npy", mode="w+", dtype=np.uint8, shape=(count, 32, 32, 3))
    np.save(folder / "labels.npy", labels)
    return folder


def test_clean_images_have_the_clean_accuracy() -> None:
    data = some(40)
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 10))
    found = evaluate(model, corrupted_batches(GeneratedImages(images=data), CLEAN, data, 16))
    assert found.accuracy == evaluate(model, labelled_batches(data, 16)).accuracy


def test_a_constant_classifier_is_right_once_in_ten_everywhere() -> None:
    data = balanced(3)
    corrupted = GeneratedImages(images=data)
    assert len(corrupted.conditions) == 76
    found = [evaluate(Constant(10), corrupted_batches(corrupted, each, data, 16)) for each in corrupted.conditions]
    assert {round(each.accuracy, 10) for each in found} == {10.0}


def test_batches_of_any_size_see_the_same_images() -> None:
    data, place = some(30), ("gaussian_noise", 5)
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 10))
    values = [evaluate(model, corrupted_batches(GeneratedImages(images=data), place, data, size)) for size in (7, 30)]
    assert values[0].nll == pytest.approx(values[1].nll, rel=1e-6)


def test_each_severity_of_a_published_file_meets_its_labels() -> None:
    labels = torch.arange(PUBLISHED_IMAGES) * 7 % 100
    shade = labels.to(torch.uint8).numpy()[:, None, None, None]
    # Only the third severity of fog shows what the labels say.
    black = np.zeros((5 * PUBLISHED_IMAGES, 1, 1, 3), dtype=np.uint8)
    files: dict[str, Any] = dict.fromkeys(CORRUPTIONS, black)
    files["fog"] = black.copy()
    files["fog"][2 * PUBLISHED_IMAGES : 3 * PUBLISHED_IMAGES] = shade
    published = PublishedImages(files=files, labels=labels, chosen=torch.arange(0, PUBLISHED_IMAGES, 9))
    places = [("fog", 2), ("fog", 3), ("snow", 3)]
    found = [evaluate(Reader(100), corrupted_batches(published, place, plain(100), 128)) for place in places]
    assert found[1].accuracy == 100
    assert found[0].accuracy == found[2].accuracy == pytest.approx(1, abs=1)


def test_published_files_are_opened_and_a_part_of_them_is_chosen_by_its_seed(tmp_path: Path) -> None:
    written(tmp_path, np.arange(PUBLISHED_IMAGES) % 10)
    published = open_published(str(tmp_path), plain(10), 20, seed=1)
    assert len(published.conditions) == 75
    assert published.chosen.equal(open_published(str(tmp_path), plain(10), 20, seed=1).chosen)
    assert not published.chosen.equal(open_published(str(tmp_path), plain(10), 20, seed=2).chosen)
    ((images, labels),) = published.parts(("snow", 5))
    assert images.shape == (20, 3, 32, 32)
    assert labels.equal(published.chosen % 10)


def test_what_is_wrong_with_published_files_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        open_published(str(tmp_path / "no"), plain(10), 5, seed=0)
    with pytest.raises(DataError, match=r"gaussian_noise.npy, shot_noise.npy.* missing"):
        open_published(str(tmp_path), plain(10), 5, seed=0)
    written(tmp_path, np.arange(PUBLISHED_IMAGES) % 10)
    with pytest.raises(DataError, match="knows 10 classes, and plain has 100"):
        open_published(str(tmp_path), plain(100), 5, seed=0)
    with pytest.raises(DataError, match=r"holds uint8 of \(50000, 32, 32, 3\), and for plain"):
        open_published(str(tmp_path), plain(10, side=64), 5, seed=0)
    np.save(tmp_path / "labels.npy", np.arange(5 * PUBLISHED_IMAGES) % 10)
    open_published(str(tmp_path), plain(10), 5, seed=0)
    np.save(tmp_path / "labels.npy", np.arange(5 * PUBLISHED_IMAGES) // PUBLISHED_IMAGES)
    with pytest.raises(DataError, match="other labels for other severities"):
        open_published(str(tmp_path), plain(10), 5, seed=0)
    (tmp_path / "fog.npy").write_bytes(b"fog")
    with pytest.raises(DataError, match=r"fog.npy: no array of numpy"):
        open_published(str(tmp_path), plain(10), 5, seed=0)


def test_errors_are_means_over_severities_and_then_over_kinds() -> None:
    rows = [
        {"kind": "clean", "severity": 0, "error": 0.9},
        {"kind": "fog", "severity": 1, "error": 0.1},
        {"kind": "fog", "severity": 2, "error": 0.3},
        {"kind": "snow", "severity": 1, "error": 0.5},
    ]
    assert kind_errors(rows) == pytest.approx({"fog": 0.2, "snow": 0.5})
    assert relative_error({"fog": 0.2, "snow": 0.5}, {"fog": 0.4, "snow": 0.4}) == pytest.approx(0.875)
    assert relative_error({"fog": 0.2}, {"fog": 0.0}) is None


def test_alexnet_has_its_published_accuracy_and_is_its_own_measure() -> None:
    assert 100 * (1 - fmean(ALEXNET.values())) == pytest.approx(41.0, abs=0.05)
    assert ALEXNET["glass_blur"] == 0.706
    assert relative_error(ALEXNET, ALEXNET) == 1
