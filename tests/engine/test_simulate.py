"""What a table of scores is followed by, beside the usual rule."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from buildup.cli.menu import COMMANDS

from buildup.engine.simulate import simulate
from buildup.errors import RequestError
from buildup.graph.network import Network, sketch
from buildup.trials.candidate import Candidate

FLAGS = {
    flag.name.replace("-", "_"): None if flag.metavar else False
    for command in COMMANDS
    if command.name == "simulate"
    for flag in command.flags
}


def no_base(*arguments: object, **named: object) -> Network:
    raise AssertionError("a layout needs no base")


READ: Callable[..., Network] = no_base


def counted(candidate: Candidate) -> tuple[int, int]:
    """Attention costs nothing in MACs and a parameter a block."""
    return 100 + candidate.layout.count("M"), 1000


def small(*arguments: object, **named: object) -> Network:
    return sketch("CC|CC")


@pytest.fixture
def table(tmp_path: Path) -> str:
    path = tmp_path / "table.csv"
    path.write_text("layout,score\nCC|CC,1.20\nCC|CM,1.15\nCM|CM,1.17\nCM|CC,1.30\n")
    return str(path)


def followed(table: str, **flags: Any) -> tuple[str, dict[str, Any]]:
    return simulate({**FLAGS, "layout": "CC|CC", "scores": table, **flags}, READ, counted)


def test_a_control_is_followed_on_a_table(table: str) -> None:
    _, values = followed(table, strategy="exhaustive")
    assert [one["layout"] for one in values["verdicts"]] == ["CM|CC", "CC|CM", "CM|CM"]
    assert values["layout"] == "CM|CC"


def test_less_is_better_where_the_objective_says_so(table: str) -> None:
    text, values = followed(table, objective="nll")
    assert [one["verdict"] for one in values["verdicts"]] == ["keep", "drop"]
    assert values["layout"] == "CC|CM"
    assert "gain (centinats)" in text
    assert "+5.00" in text


def test_what_a_control_leaves_unused_of_a_space_is_said(table: str, tmp_path: Path) -> None:
    space = tmp_path / "mine.yaml"
    space.write_text("failures: 2\n")
    text, _ = followed(table, space=str(space), strategy="random")
    assert "strategy random: failures of space mine steer the build-up rule alone" in text
    assert "steer" not in followed(table, space=str(space))[0]


def test_settings_of_a_kept_block_are_followed_in_the_space_that_asks_for_them(table: str, tmp_path: Path) -> None:
    space = tmp_path / "mine.yaml"
    space.write_text("tune: {window: [2, 4]}\nmin_gain: 0.01\n")
    text, values = followed(table, space=str(space))
    assert [one["layout"] for one in values["verdicts"]] == ["CC|CM", "CM|CC", "CM|CC"]
    assert "c1.1: msa(heads=12, window=4) -> msa(heads=12, window=2)" in text
    assert "not more than the 0.01 asked for" in values["verdicts"][-1]["reason"]


def test_all_that_is_wrong_is_said_at_once(table: str) -> None:
    with pytest.raises(RequestError) as error:
        followed(table, workers="0", seeds="-1", noise="-1", strategy="nsga2", objective="loss")
    assert len(error.value.problems) == 5


@pytest.mark.parametrize("strategy", ["nsga2", "nsga2-params"])
def test_a_strategy_that_weighs_costs_is_followed_where_a_base_has_them(
    table: str, strategy: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("HOME", "LOCALAPPDATA", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    flags = {**FLAGS, "base": "a sketch", "scores": table, "strategy": strategy}
    _, values = simulate(flags, small, counted)
    assert len(values["verdicts"]) == 2
