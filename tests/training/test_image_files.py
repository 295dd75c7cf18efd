"""One's own images: folders, tables, what is wrong with them, and pictures of all modes."""

import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from buildup.engine import doctor
from buildup.engine.doctor import check_machine
from buildup.errors import DataError
from buildup.training.data import absolute_name, check_images, check_test, describe_data, forget_data, load_data
from buildup.training.dataset_sources import SOURCES
from buildup.training.image_files import MOST_NAMED, contradictions, open_image, shortened
from held_out import load_test

TABLES = next(kind for kind in SOURCES if kind.name == "csv")
Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes class folders with pictures that all differ."""
    monkeypatch.setenv("BUILDUP_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    light = iter(range(250))

    def make(*parts: str, count: int = 12, size: int = 10) -> Path:
        for part in parts or ("train", "val"):
            for name in ("cat", "dog"):
                folder = tmp_path / "pets" / part / name
                folder.mkdir(parents=True, exist_ok=True)
                for number in range(count):
                    Image.new("RGB", (size, size), (next(light), number, 0)).save(folder / f"{number}.png")
        return tmp_path / "pets"

    return make


def table(folder: Path, *rows: str, head: str = "path,label,split") -> str:
    (folder / "labels.csv").write_text("\n".join([head, *rows]) + "\n")
    return f"csv:{folder / 'labels.csv'}"


def test_images_too_small_to_be_kept_are_refused_with_their_size(make: Make) -> None:
    with pytest.raises(DataError, match="image size is 4; 8 to 4096 px"):
        describe_data(f"folder:{make(size=4)}")
    assert describe_data(f"folder:{make(size=4)}", image_size=8).image_size == 8


def test_a_table_gives_the_images_of_a_folder(make: Make) -> None:
    pets = make()
    rows = [f"{path.relative_to(pets)},{path.parent.name},{path.parts[-3]}" for path in sorted(pets.rglob("*.png"))]
    name = table(pets, *rows)
    for load in (load_data, load_test):
        assert load(name).hash == load(f"folder:{pets}").hash
    swapped = table(pets, *(row.replace("cat,", "dog,", 1) if row.endswith("0.png") else row for row in rows[:-1]))
    assert load_data(swapped).class_names == ("cat", "dog")


def test_a_table_whose_labels_changed_is_decoded_anew(make: Make) -> None:
    pets = make("train")
    rows = [f"{path.relative_to(pets)},{path.parent.name}" for path in sorted(pets.rglob("*.png"))]
    states = []
    for swapped in (0, 3):
        text = [*(row.replace(",cat", ",dog") for row in rows[:swapped]), *rows[swapped:]]
        name = table(pets, *text, head="file,class")
        states.append(TABLES.open(name, pets, True).state)
    assert states[0] != states[1]


@pytest.mark.parametrize(
    ("rows", "head", "expected"),
    [
        (["train/cat/0.png,cat"], "name,kind", "its first line is 'name,kind'; path,label"),
        (["train/cat/none.png,cat,train"], "path,label,split", "line 2: train/cat/none.png is not there"),
        (["train/cat/0.png,,train"], "path,label,split", "line 2: train/cat/0.png has no label"),
        (["train/cat/0.png,cat,dev"], "path,label,split", "split is 'dev'; train, val or test"),
        (["train/cat/0.png,cat", "train/cat/0.png,dog"], "path,label", "labelled 'dog', and 'cat' before"),
        (["train/cat/0.png,cat"], "path,label", "class cat: 1 image; a class needs at least 5"),
        ([], "path,label", "no row after its first line"),
        (["~nobody-here.png,cat"], "path,label", "line 2: ~nobody-here.png is not there"),
        ([f"{'x' * 300}.png,cat"], "path,label", "xxx.png is not there"),
        (["train/cat/0.png,cat", "./train/cat/0.png,cat"], "path,label", r"line 3: \./train/cat/0.png is in line 2"),
        (["train/cat/0.png,cat,train", "train/cat/0.png,cat,test"], "path,label,split", "is in line 2 already"),
        ([f"train/cat/{number}.png,cat" for number in range(9)], "path,label", "only the class cat; at least two"),
    ],
)
def test_a_wrong_table_is_told_the_line(rows: list[str], head: str, expected: str, make: Make) -> None:
    with pytest.raises(DataError, match=expected):
        describe_data(table(make("train"), *rows, head=head))


def test_all_wrong_lines_of_a_table_are_named_at_once(make: Make) -> None:
    with pytest.raises(DataError) as error:
        describe_data(table(make("train"), "no.png,cat,train", "train/cat/0.png,,train", "train/cat/1.png,cat,dev"))
    assert len(error.value.problems) == 3


def test_all_unreadable_images_are_named_at_once_and_can_be_left_out(make: Make) -> None:
    pets = make()
    for path in (pets / "train/cat/torn.png", pets / "train/dog/empty.jpg"):
        path.write_bytes((pets / "train/cat/0.png").read_bytes()[:40] if path.stem == "torn" else b"")
    name = f"folder:{pets}"
    for check in (load_data, check_images):
        with pytest.raises(
            DataError, match=r"(?s)torn\.png can't be read.*empty\.jpg can't be read.*--skip-unreadable"
        ):
            check(name)
    assert not list((pets.parent / "data").rglob("*")), "a refused request leaves nothing"
    found = load_data(f"readable:{name}")
    assert found.labels.bincount().tolist() == [12, 12]
    assert "2 unreadable images left out" in describe_data(f"readable:{name}").notes[0]
    with pytest.raises(DataError, match="leave --skip-unreadable out"):
        describe_data("readable:digits")


def test_a_small_file_of_a_huge_image_is_named_and_not_opened(make: Make) -> None:
    pets = make()
    parts = {b"IHDR": struct.pack(">II5B", 60_000, 60_000, 8, 2, 0, 0, 0), b"IDAT": b""}  # 10 GB of pixels
    bomb = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts.items()
    )
    (pets / "train/cat/bomb.png").write_bytes(bomb)
    with pytest.raises(DataError, match=r"bomb\.png can't be read as an image: .*decompression bomb"):
        check_images(f"folder:{pets}")


def test_what_is_left_out_and_uneven_is_said(make: Make) -> None:
    pets = make("train", "val", "test")
    (pets / "train/cat/notes.txt").write_text("no image")
    Image.new("RGB", (10, 10)).save(pets / "train/stray.png")
    for number in range(12 * 9, 12 * 10 + 100):
        Image.new("L", (10, 10), number % 255).save(pets / f"train/dog/more{number}.png")
    said = " ".join(describe_data(f"folder:{pets}").notes)
    for part in (".txt (1)", "in no class folder: stray.png", "val beside test", "Classes of very different size: 124"):
        assert part in said


@pytest.mark.parametrize(
    ("train", "test"), [("Train", "Test"), ("training", "testing"), ("TRAINING", "valid"), ("train", "Validation")]
)
def test_the_parts_of_a_folder_are_known_by_their_usual_names(train: str, test: str, make: Make) -> None:
    pets = make(train, test)
    assert load_data(f"folder:{pets}").class_names == load_test(f"folder:{pets}").class_names == ("cat", "dog")
    assert len(load_data(f"folder:{pets}").labels) == 24


def test_a_class_may_have_the_name_of_a_part(make: Make) -> None:
    pets = make("train")
    (pets / "train/cat").rename(pets / "train/valid")
    assert load_data(f"folder:{pets}/train").class_names == ("dog", "valid")


def test_what_is_a_part_is_no_class_and_the_other_way_round(make: Make) -> None:
    pets = make(".", "val", "validation")  # cat and dog beside two parts
    assert load_data(f"folder:{pets}").class_names == ("cat", "dog")
    for name in ("val", "validation"):
        shutil.rmtree(pets / name)
    make("Test")  # beside cat and dog, with cat and dog in it
    forget_data()
    assert load_data(f"folder:{pets}").class_names == ("cat", "dog")
    (pets / "Test").rename(pets / "Train")
    for name in ("cat", "dog"):
        (pets / "Train" / name).rename(pets / "Train" / f"20{len(name)}{name[0]}")
    forget_data()
    assert load_data(f"folder:{pets}").class_names == ("Train", "cat", "dog")  # pictures of trains, by years


def test_hidden_copies_are_no_images(make: Make) -> None:
    pets = make("train")
    copies = pets / "train/cat/.ipynb_checkpoints"
    copies.mkdir()
    (copies / "0-checkpoint.png").write_bytes((pets / "train/cat/0.png").read_bytes())
    assert load_data(f"folder:{pets}").labels.bincount().tolist() == [12, 12]


def test_classes_that_hold_equal_folders_are_remarked(make: Make) -> None:
    make("2023", "2024")
    said = " ".join(describe_data(f"folder:{make('2023', '2024')}").notes)
    assert "each class folder of" in said
    assert "holds cat, dog, whose images are those of the class above" in said


def test_test_images_that_cannot_be_read_are_named_before_a_final_trains(make: Make) -> None:
    pets = make("train", "test")
    (pets / "test/dog/torn.png").write_bytes(b"torn")
    with pytest.raises(DataError, match=r"(?s)torn\.png can't be read.*These are test images\. Mend or remove them"):
        check_test(f"folder:{pets}")
    (pets / "test/dog/torn.png").unlink()
    forget_data()
    check_test(f"folder:{pets}")


def test_the_folder_above_and_the_folder_at_home_are_understood(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    pets = make()
    with pytest.raises(DataError, match=rf"did you mean folder:{pets}\?"):
        describe_data(f"folder:{pets.parent}")
    monkeypatch.setenv("HOME", str(pets.parent))
    assert absolute_name("readable:folder:~/pets") == f"readable:folder:{pets}"


@pytest.mark.parametrize(("size", "expected"), [(10, 10), (64, 64), (65, 224), (300, 224)])
def test_small_images_keep_their_size(size: int, expected: int, make: Make) -> None:
    assert describe_data(f"folder:{make('train', size=size, count=5)}").image_size == expected


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_a_picture_of_any_mode_keeps_its_lightness(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    white = np.full((8, 8), 255, np.uint8)
    image = Image.fromarray(white.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(white).convert(mode)
    image.save(path)
    opened = open_image(path)
    assert opened.mode == "RGB"
    assert np.asarray(opened).min() == 255


def test_a_black_drawing_on_nothing_is_seen(tmp_path: Path) -> None:
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.putpixel((0, 0), (0, 0, 0, 255))
    image.save(tmp_path / "drawing.png")
    assert np.asarray(open_image(tmp_path / "drawing.png"))[..., 0].tolist()[0][:2] == [0, 255]


@given(labels=st.lists(st.integers(0, 2), min_size=1, max_size=6))
def test_equal_files_contradict_each_other_if_and_only_if_their_labels_differ(
    labels: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("same")
    paths = [folder / str(number) for number in range(len(labels))]
    for path in paths:
        path.write_bytes(b"same")
    assert len(contradictions(paths, labels)) == (len(set(labels)) > 1)


def test_a_message_names_so_many_files_and_counts_the_rest() -> None:
    problems = [str(number) for number in range(MOST_NAMED + 3)]
    assert shortened(problems)[-1].startswith("... and 3 more")
    assert shortened(problems[:MOST_NAMED]) == problems[:MOST_NAMED]


def test_the_doctor_names_every_wrong_file(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    pets = make("train")
    for number in range(MOST_NAMED + 1):
        (pets / f"train/cat/torn{number}.png").write_bytes(b"torn" + bytes(number))
    (pets / "train/cat/same.png").write_bytes((pets / "train/dog/0.png").read_bytes())
    for part in ("_ray", "_storage"):
        monkeypatch.setattr(doctor, part, lambda _: "works")
    checks = [one for one in check_machine(dataset=f"folder:{pets}") if one.name in {"dataset", "labels", "images"}]
    assert [one.state for one in checks[:2]] == ["fails", "note"]
    assert all(f"torn{number}.png" in checks[0].advice for number in range(MOST_NAMED + 1))
    assert "same.png" in checks[1].advice
    assert any("no test images" in one.found for one in checks)
