"""Space files: those that ship, and what a wrong one is told."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from buildup.errors import SpaceError
from buildup.space.load import load, shipped, space_from_values
from buildup.space.schema import Tuning


@pytest.mark.parametrize("name", list(shipped()))
def test_a_shipped_space_loads_and_survives_its_own_values(name: str) -> None:
    space = load(name)
    assert space.name == name
    assert space.description
    assert space_from_values(asdict(space)) == space


def test_a_misspelt_name_is_told_the_close_one() -> None:
    with pytest.raises(SpaceError, match="did you mean 'alternet'"):
        load("alternt")


def test_every_problem_of_a_file_is_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "heads: three\nwindow: -1\nwindwo: 7\nkind: X\nstem: tiny\nstages:\n  - {max_replaced: -2, block: 3}\n  - 7\n"
    )
    with pytest.raises(SpaceError) as error:
        load(str(path))
    text = str(error.value)
    assert all(problem.startswith(str(path)) for problem in error.value.problems)
    for expected in (
        "heads is 'three'",
        "window is -1",
        "unknown key 'windwo': did you mean 'window'",
        "kind is 'X'",
        "stem is 'tiny'",
        "stages[0].max_replaced is -2",
        "stages[0]: unknown key 'block': did you mean 'blocks'",
        "stages[1] is 7",
    ):
        assert expected in text


def test_lists_in_a_file_survive_their_own_values(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("order: [2, 4, 3, 1]\nfailures: 2\nmin_gain: 0.2\ntune: {window: [4, 7], kind: [M, G]}\n")
    space = load(str(path))
    assert (space.order, space.failures, space.min_gain) == ((2, 4, 3, 1), 2, 0.2)
    assert space.tune == Tuning(kind=("M", "G"), window=(4, 7))
    assert space_from_values(json.loads(json.dumps(asdict(space)))) == space


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("heads: [", "not valid YAML"),
        ("- 1\n- 2\n", "this is list"),
        ("heads: 3\nheads: 4\n", "stands twice"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML"),
        ("", "this is NoneType"),
        ("description: 7\n", "description is 7"),
        ("stages: 4\n", "stages is 4"),
        ("tune: [4, 7]\n", r"tune is \[4, 7\]; a mapping is needed"),
        ("tune: {windows: [4, 7]}\n", "tune: unknown key 'windows': did you mean 'window'"),
    ],
)
def test_a_file_that_is_no_space_is_refused(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(SpaceError, match=expected):
        load(str(path))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="can't be read"):
        load(str(tmp_path / "none.yaml"))
