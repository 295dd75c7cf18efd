"""Names, close names, and what other packages offer."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from buildup.errors import DataError
from buildup.registry import Registry


@dataclass(frozen=True)
class Tree:
    name: str


class Species:
    name: ClassVar[str]


def trees(*names: str) -> Registry[Tree]:
    forest = Registry[Tree]("tree", group="buildup.trees", error=DataError)
    for name in names:
        forest.register(Tree(name))
    return forest


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, package: str, points: str, code: str = "") -> None:
    """A package as pip leaves it."""
    told = folder / f"{package}-1.0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (told / "entry_points.txt").write_text(f"[buildup.trees]\n{points}\n")
    (folder / f"{package}.py").write_text(f"from types import SimpleNamespace\n{code}\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, package, raising=False)


def test_a_member_is_found_by_its_name() -> None:
    assert trees("oak", "elm")["elm"] == Tree("elm")
    assert list(trees("oak", "elm")) == ["oak", "elm"]
    assert "elm" in trees("elm")
    assert "elm" not in trees("oak")


def test_a_wrong_name_is_answered_by_close_ones() -> None:
    with pytest.raises(DataError, match="unknown tree 'birhc': did you mean 'birch'"):
        trees("oak", "birch")["birhc"]


def test_a_name_that_is_taken_is_refused() -> None:
    with pytest.raises(DataError, match="There is a tree 'oak' already"):
        trees("oak").register(Tree("oak"))


def test_a_class_is_registered_by_a_decorator() -> None:
    forest = Registry[type[Species]]("tree", group="buildup.trees")

    @forest.register
    class Pine(Species):
        name = "pine"

    assert forest["pine"] is Pine


def test_a_package_offers_a_member(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, tmp_path, "grove", "ash = grove:ASH", "ASH = SimpleNamespace(name='ash')")
    forest = trees("oak")
    assert list(forest) == ["oak", "ash"]
    assert "grove" not in sys.modules
    assert forest["ash"].name == "ash"
    assert [tree.name for tree in forest.values()] == ["oak", "ash"]


@pytest.mark.parametrize(
    ("points", "code", "problem"),
    [
        ("ash = grove:ASH", "import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("ash = grove:ASH", "1 / 0", "ZeroDivisionError: division by zero"),
        ("ash = grove:ASH", "", "has no attribute 'ASH'"),
        ("ash = grove:ASH", "ASH = 1", "'int' object has no attribute 'name'"),
        ("ash = grove:ASH", "ASH = SimpleNamespace(name='elm')", "it is named 'elm' there"),
    ],
)
def test_a_broken_package_is_an_error_for_its_name_and_a_warning_for_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, points: str, code: str, problem: str
) -> None:
    install(monkeypatch, tmp_path, "grove", points, code)
    forest = trees("oak")
    assert forest["oak"] == Tree("oak")
    with pytest.raises(DataError, match=rf"tree 'ash' of the package grove 1.0 \(grove:ASH\) .*{problem}"):
        forest["ash"]
    with pytest.warns(UserWarning, match=problem):
        assert forest.values() == [Tree("oak")]
    assert forest.values() == [Tree("oak")]  # said once is enough


def test_a_package_does_not_replace_a_member_of_ours_or_of_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, tmp_path, "grove", "oak = grove:OAK")
    forest = trees("oak")
    with pytest.warns(UserWarning, match="tree 'oak' of the package grove 1.0 is left out: the one of buildup has"):
        assert list(forest) == ["oak"]
    install(monkeypatch, tmp_path, "wood", "oak = wood:OAK")
    forest = trees()
    with pytest.warns(UserWarning, match="of the package wood 1.0 is left out: the one of the package grove 1.0 has"):
        assert list(forest) == ["oak"]
