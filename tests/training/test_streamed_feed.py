"""Sets that are read from their files: the same law as for those in memory, and the same images."""

import io
import os
import random
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from buildup.errors import DataError, RecipeError
from buildup.models.build import build
from buildup.models.read import read_network
from buildup.training.augmentation import normalise
from buildup.training.data import DATASETS, describe_data, forget_data, load_data, open_data, open_test, streamed_hashes
from buildup.training.dataset import split
from buildup.training.dataset_sources import Source, open_source
from buildup.training.execution import reading_processes
from buildup.training.execution_words import Execution
from buildup.training.feed import Feed, StreamedDataset
from buildup.training.fit import Job, fit
from buildup.training.recipe import Recipe, load_recipe
from buildup.training.validation import evaluate_model, validate
from fake_cuda import fake_cuda
from held_out import load_test

IMAGENET = replace(load_recipe("imagenet").with_epochs(2), batch_size=6, eval_batch_size=4)
PLAIN = replace(load_recipe("quick"), batch_size=6, crop_padding=0, flip=False, label_smoothing=0.0)


def picture(label: int, number: int) -> Image.Image:
    draws = np.random.RandomState(100 * label + number)
    return Image.fromarray(draws.randint(0, 256, (40, 40, 3)).astype(np.uint8))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    for label, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for number in range(10):
            picture(label, number).save(root / name / f"{number:02}.png")
    return root


def opened(shards: Path, *, train: bool = True) -> Source:
    source = DATASETS["wds"].source(f"wds:{shards}", Path(), train=train)
    assert source is not None
    return source


def streamed(name: str, recipe: Recipe = IMAGENET, size: int = 40) -> StreamedDataset:
    found = open_data(name, None, size, recipe)
    assert isinstance(found, StreamedDataset)
    return found


def feed(dataset: StreamedDataset, recipe: Recipe, workers: int = 0, seed: int = 0) -> Feed:
    train, val = split(dataset, 0)
    return Feed(
        recipe=recipe, dataset=dataset, train=train, val=val, seed=seed, device=torch.device("cpu"), workers=workers
    )


def epoch(given: Feed, number: int = 1) -> tuple[Tensor, Tensor]:
    inputs, targets = zip(*given.epoch(number), strict=True)
    return torch.cat(inputs), torch.cat(targets)


def test_draws_depend_on_seed_and_epoch_and_not_on_who_reads(images: Path) -> None:
    data = streamed(f"folder:{images}")
    before = random.getstate(), torch.get_rng_state()
    inputs, targets = epoch(feed(data, IMAGENET))
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    ahead, same = epoch(feed(data, IMAGENET, workers=2))
    assert torch.equal(inputs, ahead)
    assert torch.equal(targets, same)
    assert not torch.equal(inputs, epoch(feed(data, IMAGENET), 2)[0])
    assert not torch.equal(inputs, epoch(feed(data, IMAGENET, seed=1))[0])
    assert inputs.shape == (18, 3, 40, 40)


def test_the_same_processes_read_all_epochs_and_those_that_are_left_early(images: Path, tmp_path: Path) -> None:
    data = streamed(f"folder:{images}")
    log = tmp_path / "readers"

    def noting(index: int) -> Image.Image:
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        return data.source.open(index)

    noted = replace(data, source=replace(data.source, open=noting))
    given = feed(noted, IMAGENET, workers=2)
    next(given.epoch(1))
    assert torch.equal(epoch(given, 2)[0], epoch(feed(data, IMAGENET), 2)[0])
    labels = torch.cat([labels for _, labels in given.validation()])
    assert torch.equal(labels, data.labels[given.val])
    assert len(set(log.read_text().split())) == 2


def test_an_epoch_can_begin_in_its_middle(images: Path) -> None:
    given = feed(streamed(f"folder:{images}"), IMAGENET)
    whole, rest = list(given.epoch(2)), list(given.epoch(2, 1))
    assert all(torch.equal(ours[0], theirs[0]) for ours, theirs in zip(rest, whole[1:], strict=True))


def test_without_augmentation_the_images_are_those_in_memory(images: Path) -> None:
    data = streamed(f"folder:{images}")
    resident = load_data(f"folder:{images}", None, 40)
    given = feed(data, PLAIN)
    known = normalise(resident.images, resident.mean, resident.std)
    inputs, targets = epoch(given)
    for image, target in zip(inputs, targets, strict=True):
        distance = (known - image).abs().flatten(1).amax(1)
        assert distance.min() < 1e-5
        assert resident.labels[distance.argmin()] == target.argmax()
    val, labels = (torch.cat(parts) for parts in zip(*given.validation(), strict=True))
    torch.testing.assert_close(val, known[given.val], rtol=0, atol=1e-5)
    assert torch.equal(labels, resident.labels[given.val])


def test_sets_are_read_from_their_files_when_they_would_fill_the_memory(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not isinstance(open_data(f"folder:{images}", None, 40, PLAIN), StreamedDataset)
    assert not isinstance(open_data(f"folder:{images}", None, 40, PLAIN, streamed=False), StreamedDataset)
    monkeypatch.setattr("buildup.training.data._memory", lambda: 1000.0)
    assert isinstance(open_data(f"folder:{images}", None, 40, PLAIN), StreamedDataset)
    assert not isinstance(open_data(f"folder:{images}", None, 40, PLAIN, streamed=False), StreamedDataset)


def test_a_recipe_with_resized_crops_is_refused_for_small_images() -> None:
    with pytest.raises(RecipeError, match="Use one with crop_padding, such as paper"):
        open_data("digits", None, None, IMAGENET)


def test_changed_files_are_another_set(images: Path) -> None:
    before = streamed(f"folder:{images}").hash
    assert streamed(f"folder:{images}").hash == before
    Image.new("RGB", (8, 8)).save(images / "cat" / "00.png")
    open_source.cache_clear()
    assert streamed(f"folder:{images}").hash != before


def test_a_copy_of_the_files_is_the_same_set_but_for_early_runs(images: Path) -> None:
    def hashes() -> list[str]:
        forget_data()
        known = open_data(f"folder:{images}", None, 40, IMAGENET, streamed=True).hash
        early = open_data(f"folder:{images}", None, 40, IMAGENET).hash
        assert {known, early} == streamed_hashes(f"folder:{images}", None, 40)
        return [known, early]

    before = hashes()
    os.utime(images / "cat" / "00.png", (1, 1))
    after = hashes()
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_a_broken_image_is_named_by_whoever_reads_it(images: Path) -> None:
    (images / "cat" / "03.png").write_bytes(b"no image")
    for workers in (0, 1):
        given = feed(streamed(f"folder:{images}"), PLAIN, workers)
        given = replace(given, train=torch.arange(20))
        with pytest.raises(DataError, match=r"03\.png can't be read as an image"):
            epoch(given)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    root = tmp_path / "shards"
    root.mkdir()
    for shard in range(2):
        pack(root / f"train-{shard:04}.tar", range(shard * 5, shard * 5 + 5), (0, 1))
    return root


def pack(shard: Path, numbers: Iterable[int], labels: Sequence[int]) -> None:
    with tarfile.open(shard, "w") as tar:
        for number in numbers:
            for label in labels:
                content = io.BytesIO()
                picture(label, number).save(content, "PNG")
                for suffix, data in (("png", content.getvalue()), ("cls", str(label).encode())):
                    member = tarfile.TarInfo(f"{label}-{number:02}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


def test_a_webdataset_holds_the_same_images_as_a_folder(images: Path, shards: Path) -> None:
    ours, theirs = load_data(f"wds:{shards}"), load_data(f"folder:{images}", None, 40)
    assert describe_data(f"wds:{shards}").train_images == describe_data(f"folder:{images}").train_images == 18
    assert ours.image_size == 40
    assert {(bytes(image.numpy()), int(label)) for image, label in zip(ours.images, ours.labels, strict=True)} == {
        (bytes(image.numpy()), int(label)) for image, label in zip(theirs.images, theirs.labels, strict=True)
    }


def test_the_headers_of_a_webdataset_are_read_once(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = opened(shards)
    open_source.cache_clear()  # as another process begins
    with monkeypatch.context() as patch:
        patch.setattr("tarfile.open", None)
        again = opened(shards)
    assert torch.equal(first.labels, again.labels)
    assert [bytes(first.open(i).tobytes()) for i in range(20)] == [bytes(again.open(i).tobytes()) for i in range(20)]
    pack(shards / "train-0001.tar", range(5, 9), (0, 1))
    open_source.cache_clear()
    assert len(opened(shards).labels) == 18


def test_parts_of_a_webdataset_are_whole_words(shards: Path) -> None:
    def rename(before: str, after: str) -> None:
        for file in shards.glob("*.tar"):
            file.rename(shards / file.name.replace(before, after))
        forget_data()

    rename("train", "contest-train")
    with pytest.raises(DataError, match="no tar file with test or val in its name"):
        load_test(f"wds:{shards}")
    rename("contest-train", "latest")
    assert len(load_data(f"wds:{shards}").labels) == 20
    for train, test in (("training", "validation"), ("trainA", "testA"), ("in1k-train", "in1k-validation")):
        for number, file in enumerate(sorted(shards.glob("*.tar"))):
            file.rename(shards / f"{(train, test)[number]}-000{number}.tar")
        forget_data()
        assert len(load_data(f"wds:{shards}").labels) == len(load_test(f"wds:{shards}").labels) == 10


def test_a_webdataset_has_test_images_where_its_files_say_so(shards: Path) -> None:
    with pytest.raises(DataError, match="no tar file with test or val in its name"):
        load_test(f"wds:{shards}")
    pack(shards / "test-0000.tar", range(20, 23), (0, 1))
    assert len(load_data(f"wds:{shards}").labels) == 20
    assert sorted(load_test(f"wds:{shards}").labels.tolist()) == [0, 0, 0, 1, 1, 1]
    for labels, problem in (((0, 1, 2), "differ in 2"), ((1,), "no test image shows 0")):
        pack(shards / "test-0000.tar", range(20, 23), labels)
        open_source.cache_clear()
        with pytest.raises(DataError, match=problem):
            opened(shards, train=False)


def test_test_images_are_read_and_cut_as_the_validation_images_were(shards: Path) -> None:
    pack(shards / "test-0000.tar", range(3), (0, 1))
    test = open_test(f"wds:{shards}", None, 32, IMAGENET)
    assert isinstance(test, StreamedDataset)
    model = build(read_network("resnet10t", input_shape=(3, 32, 32), num_classes=2), seed=0)
    found = evaluate_model(model, test, IMAGENET, threads=1)
    known = open_data(f"wds:{shards}", None, 32, IMAGENET)
    assert isinstance(known, StreamedDataset)
    same = replace(feed(known, IMAGENET), val=torch.arange(6))  # they are the first images for training
    assert found.losses.tolist() == validate(model, same, Execution()).losses.tolist()


def test_a_webdataset_without_tar_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no tar file is there"):
        describe_data(f"wds:{tmp_path}")


def test_a_gpu_is_read_for_by_its_part_of_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(24), raising=False)
    monkeypatch.setattr("buildup.training.execution.GPU_FILES", (tmp_path, "nvidia[0-9]*"))
    assert reading_processes(torch.device("cpu"), 4) == 0
    with fake_cuda(2) as cuda:
        assert reading_processes(torch.device("cuda:1"), 4) == 12
        assert reading_processes(torch.device("cuda:1"), 4, share=0.5) == 6
        assert reading_processes(torch.device("cuda:1"), 4, share=0.1) == 4
        for name in ("nvidia0", "nvidia1", "nvidia2", "nvidia3", "nvidiactl"):  # Ray lends two of the four
            (tmp_path / name).touch()
        assert reading_processes(torch.device("cuda:1"), 4) == 6
        assert not cuda.waits


def test_a_set_that_timm_cannot_open_is_refused(tmp_path: Path) -> None:
    for name in ("torch/cifar100", "torch/nothing", "hfds/nobody/nothing"):
        with pytest.raises(DataError, match="timm can't open this set"):
            describe_data(name, str(tmp_path))


@pytest.mark.slow
@pytest.mark.skipif("BUILDUP_TEST_CIFAR100" not in os.environ, reason="needs CIFAR-100")
def test_torchvisions_cifar100_is_ours() -> None:
    folder = os.environ["BUILDUP_TEST_CIFAR100"]
    info = describe_data("torch/cifar100", folder)
    assert (info.train_images, info.val_images, info.image_size) == (45_000, 5_000, 32)
    ours, theirs = load_data("cifar100", folder), load_data("torch/cifar100", folder)
    assert torch.equal(ours.images, theirs.images)
    assert torch.equal(ours.labels, theirs.labels)


def test_a_training_from_files_goes_on_after_a_stop_as_if_unbroken(images: Path, tmp_path: Path) -> None:
    whole = Job(
        network=read_network("resnet10t", input_shape=(3, 16, 16), num_classes=2),
        seed=0,
        dataset=f"folder:{images}",
        image_size=16,
        recipe=IMAGENET,
        folder=str(tmp_path / "whole"),
    )
    unbroken = list(fit(whole))
    first = fit(replace(whole, folder=str(tmp_path / "1")))
    next(first)
    first.close()
    resumed = list(fit(replace(whole, folder=str(tmp_path / "2"), resume_from=(str(tmp_path / "1"),))))
    assert [epoch.metrics["train_loss"] for epoch in resumed] == [epoch.metrics["train_loss"] for epoch in unbroken]
    assert resumed[-1].metrics["nll"] == unbroken[-1].metrics["nll"]


def test_streamed_images_reach_a_cuda_device_without_waiting_for_each_batch(images: Path) -> None:
    dataset = streamed(f"folder:{images}")
    plain = feed(dataset, IMAGENET)
    expected = [torch.cat([batch[0] for batch in batches]) for batches in (plain.epoch(1), plain.validation())]
    waits = []
    with fake_cuda(2) as cuda:
        for size in (6, 2):
            recipe = replace(IMAGENET, batch_size=size, eval_batch_size=size, mixup=0.0, cutmix=0.0)
            given = replace(feed(dataset, recipe), device=torch.device("cuda:1"))
            cuda.clear()
            found = [list(batches) for batches in (given.epoch(1), given.validation())]
            waits.append(len(cuda.waits))
            places = {tensor.device for batches in found for batch in batches for tensor in batch}
            assert places == {torch.device("cuda:1")}
        again = replace(plain, device=torch.device("cuda:1"))
        ours = [torch.cat([batch[0] for batch in batches]).cpu() for batches in (again.epoch(1), again.validation())]
    assert waits[0] == waits[1]
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(ours, expected, strict=True))
