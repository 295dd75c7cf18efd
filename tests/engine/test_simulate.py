"""What a table of scores is followed by, beside the usual rule."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from buildup.cli.menu import COMMANDS

from buildup.cli.studies import STUDIES, TABLE
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
        followed(table, workers="0", seeds="-1", noise="-1", strategy="nsga2", objective="loss", runs="7")
    assert len(error.value.problems) == 6


@pytest.mark.parametrize(
    ("flags", "refused"),
    [
        ({"aa": True, "space": "nonsense", "judge": "proven"}, ["--space: without --base or --layout"]),
        ({"aa": True, "power": True}, ["--aa and --power are 2 studies"]),
        (
            {"aa": True, "layout": "CC|CC", "workers": "0", "default_score": "x", "speedup": True},
            ["--aa and --speedup are 2 studies", "--workers: --aa draws", "--default-score: --aa draws"],
        ),
        ({"power": True, "judge": "likely"}, ["--judge: --power draws"]),
        ({"layout": "CC|CC", "scores": "x.csv", "speedup": True, "noise": "1"}, ["--noise: --speedup", "x.csv"]),
    ],
)
def test_a_flag_that_a_study_would_ignore_is_refused(flags: dict[str, Any], refused: list[str]) -> None:
    with pytest.raises(RequestError) as error:
        simulate({**FLAGS, **flags}, READ, counted)
    assert len(error.value.problems) == len(refused)
    for part in refused:
        assert any(part in problem for problem in error.value.problems)


def test_each_flag_is_read_by_some_study_and_each_study_is_a_flag() -> None:
    read = TABLE.reads.union(*(study.reads for study in STUDIES.values()))
    assert read | set(STUDIES) | {"json"} == set(FLAGS)


@pytest.mark.parametrize("strategy", ["nsga2", "nsga2-params"])
def test_a_strategy_that_weighs_costs_is_followed_where_a_base_has_them(
    table: str, strategy: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("HOME", "LOCALAPPDATA", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    flags = {**FLAGS, "base": "a sketch", "scores": table, "strategy": strategy}
    _, values = simulate(flags, small, counted)
    assert len(values["verdicts"]) == 2


@pytest.mark.parametrize("space", ["place: end\nkind: C\n", "stages: [{}, {max_replaced: 0}]\n", "order: first-last\n"])
def test_power_puts_the_gain_where_the_rule_goes(space: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(space)
    flags = {**FLAGS, "power": True, "layout": "CC|CC", "space": str(path), "noise": "0", "runs": "2"}
    _, values = simulate(flags, READ, counted)
    (found,) = (one for one in values["searches"] if (one["gain"], one["own_images"]) == (1.0, 0.0))
    assert found["kept_true"] == 1.0


def test_the_study_without_a_gain_counts_seeds_that_differ_much_and_that_of_power_does_not() -> None:
    flags = {**FLAGS, "layout": "CC|CC", "runs": "1"}
    drawn = {
        study: [one["seed_deviation"] for one in simulate({**flags, study: True}, READ, counted)[1]["searches"]]
        for study in ("aa", "power")
    }
    assert set(drawn["aa"]) == {0.0, 0.2, 0.4, 1.0, 2.0}
    assert set(drawn["power"]) == {0.0, 0.2, 0.4}
