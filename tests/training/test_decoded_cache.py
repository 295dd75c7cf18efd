"""A machine decodes a set once, whoever asks for it, and again when the files have changed."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import run
from sys import executable

import pytest
import torch
from PIL import Image

from buildup.errors import DataError
from buildup.training.dataset import Dataset, load_or_decode

LOAD = "import sys; from buildup.training.data import load_data; print(load_data(*sys.argv[1:], 16).origin)"


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
