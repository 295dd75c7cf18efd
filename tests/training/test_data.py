"""Datasets by name: what is there is read, and what is wrong is said."""

import hashlib
import io
import os
import pickle
import socket
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR100

from buildup.errors import DataError
from buildup.training import standard_datasets
from buildup.training.data import check_folds, describe_data, load_data
from buildup.training.dataset import split
from buildup.training.standard_datasets import CIFARS, Cifar
from held_out import load_test


def test_digits_hold_out_a_balanced_test_set_that_shares_nothing_with_training() -> None:
    train, test = load_data("digits"), load_test("digits")
    assert len(train.images) + len(test.images) == 1797
    assert test.labels.bincount().min() >= 34
    assert not train.mirror
    pixels = [set(map(bytes, part.images.numpy())) for part in (train, test)]
    assert not pixels[0] & pixels[1]


def test_digits_are_those_of_scikit_learn() -> None:
    bunch, rows = load_digits(), standard_datasets._digit_rows()
    assert np.array_equal(rows[:, :-1].reshape(-1, 8, 8), bunch.images)
    assert np.array_equal(rows[:, -1], bunch.target)
    assert [str(name) for name in bunch.target_names] == list("0123456789")


def test_digits_without_their_file_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standard_datasets, "DIGITS_FILE", "elsewhere.csv.gz")
    with pytest.raises(DataError, match="the file of scikit-learn can't be read"):
        standard_datasets._digit_rows()


def test_digits_are_what_was_described() -> None:
    info = describe_data("digits", fraction=1 / 4)
    dataset = load_data("digits")
    train, val = split(dataset, 0, fraction=1 / 4)
    assert (info.train_images, info.val_images) == (len(train), len(val))
    assert (info.channels, info.image_size, info.num_classes) == (1, 16, 10)
    assert dataset.images.shape[1:] == (1, 16, 16)
    assert load_data("digits", image_size=8).images.shape[1:] == (1, 8, 8)
    assert load_data("digits") is dataset


@pytest.mark.parametrize("name", ["digit", "folder", "folder:", "flowers"])
def test_unknown_dataset_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(
        DataError, match=r"unknown dataset .* Known: cifar10, cifar100, csv:FILE, cued-digits, digits, folder:DIR"
    ):
        describe_data(name)


def test_cifar_is_described_without_its_files(tmp_path: Path) -> None:
    info = describe_data("cifar100", str(tmp_path), fraction=1 / 64)
    assert (info.train_images, info.val_images, info.num_classes, info.present) == (700, 10_000, 100, False)
    assert not list(tmp_path.iterdir())


def test_a_changed_cifar_file_is_refused_before_it_is_unpickled(tmp_path: Path) -> None:
    place = tmp_path / "cifar-100-python"
    place.mkdir()
    bomb = b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR."
    for name in ("train", "test", "meta"):
        (place / name).write_bytes(bomb)
    with pytest.raises(DataError, match="is not the published file"):
        load_data("cifar100", str(tmp_path))
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Cifar]:
    """Two images in CIFAR's form, served as the published archive is."""
    pixels = np.arange(2 * 3072, dtype=np.uint64).reshape(2, 3072).astype(np.uint8)
    contents = {
        "train": pickle.dumps({"data": pixels, "fine_labels": [1, 0]}),
        "test": pickle.dumps({"data": pixels, "fine_labels": [0, 1]}),
        "meta": pickle.dumps({"fine_label_names": ["cat", "dog"]}),
    }
    (tmp_path / "web").mkdir()
    packed = tmp_path / "web" / "cifar-100-python.tar.gz"
    with tarfile.open(packed, "w:gz") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"cifar-100-python/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    sums = {name: hashlib.md5(content).hexdigest() for name, content in contents.items()}
    served = partial(SimpleHTTPRequestHandler, directory=packed.parent)
    with ThreadingHTTPServer(("127.0.0.1", 0), served) as server:
        Thread(target=server.serve_forever, daemon=True).start()

        class Published(CIFAR100):  # type: ignore[misc]  # torchvision has no types
            url = f"http://127.0.0.1:{server.server_port}/{packed.name}"
            tgz_md5 = hashlib.md5(packed.read_bytes()).hexdigest()
            train_list = (("train", sums["train"]),)
            test_list = (("test", sums["test"]),)
            meta: ClassVar = {"filename": "meta", "key": "fine_label_names", "md5": sums["meta"]}

        yield replace(CIFARS[1], published=Published, num_classes=2)
        server.shutdown()


def republished(tiny: Cifar, **changed: str) -> Cifar:
    return replace(tiny, published=type("Published", (tiny.published,), changed))


def test_a_missing_archive_is_fetched_checked_and_read(
    tiny: Cifar, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    dataset = tiny.load("tiny", root, 32, train=True)
    assert dataset.labels.tolist() == [1, 0]
    assert dataset.class_names == ("cat", "dog")
    assert dataset.images.flatten()[:4].tolist() == [0, 1, 2, 3]
    assert tiny.load("tiny", root, 32, train=False).labels.tolist() == [0, 1]
    assert sorted(path.name for path in root.iterdir()) == ["cifar-100-python", "decoded"]
    assert "%" not in capsys.readouterr().err  # no bar where nobody sees it


def test_an_archive_that_is_not_the_published_one_leaves_nothing(tiny: Cifar, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"md5 of what came is [0-9a-f]{32}, it should be 0000"):
        republished(tiny, tgz_md5="0000").fetch(tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_without_a_network_the_error_says_what_was_looked_for_and_leaves_nothing(tiny: Cifar, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        republished(tiny, url="http://127.0.0.1:9/gone.tar.gz").fetch(tmp_path / "data")
    said = str(error.value)
    assert f"{tmp_path / 'data' / 'cifar-100-python'} lacks train, test, meta" in said
    assert "refused" in said
    assert "--data-dir" in said
    assert not (tmp_path / "data").exists()


def test_a_server_that_does_not_answer_is_given_up(
    tiny: Cifar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standard_datasets, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/silent.tar.gz"
        with pytest.raises(DataError, match="timed out"):
            republished(tiny, url=url).fetch(tmp_path / "data")
    assert socket.getdefaulttimeout() is None


@pytest.mark.skipif("BUILDUP_TEST_CIFAR100" not in os.environ, reason="BUILDUP_TEST_CIFAR100 names no folder")
def test_the_published_cifar100_is_read() -> None:
    dataset = load_data("cifar100", os.environ["BUILDUP_TEST_CIFAR100"])
    assert dataset.images.shape == (50_000, 3, 32, 32)
    assert dataset.labels.bincount().tolist() == [500] * 100
    assert dataset.class_names[0] == "apple"
    channels = dataset.images[::50].float().div(255).mean(dim=(0, 2, 3)).tolist()
    assert channels == pytest.approx(dataset.mean, abs=0.02)


def draw(path: Path, mode: str = "RGB", size: tuple[int, int] = (20, 14)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, 128 if mode in {"L", "P"} else (200, 0, 0, 128)[: len(mode)]).save(path)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for name in ("ant", "bee"):
        for number in range(5):
            draw(tmp_path / "train" / name / f"{number}.png")
        draw(tmp_path / "test" / name / "0.png")
    return tmp_path


def test_folder_of_odd_images_is_read_as_rgb_of_one_size(pictures: Path) -> None:
    for number, mode in enumerate(("L", "RGBA", "P")):
        draw(pictures / "train" / "ant" / f"odd{number}.png", mode, (9, 31))
    (pictures / "train" / "ant" / "notes.txt").write_text("no image")
    dataset = load_data(f"folder:{pictures}", image_size=16)
    assert dataset.images.shape == (13, 3, 16, 16)
    assert dataset.labels.bincount().tolist() == [8, 5]
    assert load_test(f"folder:{pictures}", image_size=16).images.shape[0] == 2
    assert describe_data(f"folder:{pictures}", image_size=16).train_images == 11


def test_folder_without_a_train_folder_is_read_too(pictures: Path) -> None:
    assert load_data(f"folder:{pictures / 'train'}", image_size=8).class_names == ("ant", "bee")
    with pytest.raises(DataError, match="no test images"):
        load_test(f"folder:{pictures / 'train'}", image_size=8)


def test_test_images_are_found_under_their_usual_names(pictures: Path) -> None:
    (pictures / "test").rename(pictures / "val")
    assert load_test(f"folder:{pictures}", image_size=16).labels.tolist() == [0, 1]


def test_test_images_without_one_of_the_classes_are_refused(pictures: Path) -> None:
    (pictures / "test" / "bee" / "0.png").unlink()
    with pytest.raises(DataError, match=r"bee: 0 images; a class needs at least 1"):
        load_test(f"folder:{pictures}", image_size=8)
    (pictures / "test" / "bee").rename(pictures / "test" / "wasp")
    draw(pictures / "test" / "wasp" / "0.png")
    with pytest.raises(DataError, match="they differ in bee, wasp"):
        load_test(f"folder:{pictures}", image_size=8)


def test_an_unreadable_image_is_named(pictures: Path) -> None:
    broken = pictures / "train" / "bee" / "broken.png"
    broken.write_bytes((pictures / "train" / "bee" / "0.png").read_bytes()[:40])
    with pytest.raises(DataError, match=r"bee.broken\.png can't be read"):
        load_data(f"folder:{pictures}", image_size=16)


def test_folders_that_cannot_be_split_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        describe_data(f"folder:{tmp_path / 'none'}")
    with pytest.raises(DataError, match="no class folder"):
        describe_data(f"folder:{tmp_path}")
    draw(tmp_path / "ant" / "0.png")
    with pytest.raises(DataError) as error:
        describe_data(f"folder:{tmp_path}")
    assert "only the class folder 'ant'" in str(error.value)
    assert "1 image; a class needs at least 5" in str(error.value)


def test_a_set_smaller_than_its_classes_times_folds_is_too_small_for_a_search(pictures: Path) -> None:
    name = f"folder:{pictures}"
    describe_data(name)  # one training needs one fold only
    with pytest.raises(DataError, match=r"10 images in 2 classes .* 10 parts, so at least 20 images"):
        check_folds(name)
    for number in range(10):
        draw(pictures / "train" / "ant" / f"more{number}.png")
    check_folds(f"{name}/train")  # under the same name, the files of before are still known


def test_a_fraction_of_less_than_one_image_a_class_is_refused_with_the_name_of_the_set() -> None:
    with pytest.raises(DataError, match=r"^digits: fraction 1/1000 .* 10 classes need at least one each"):
        describe_data("digits", fraction=1 / 1000)
