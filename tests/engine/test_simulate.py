"""What a table of scores is followed by, beside the usual rule."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from buildup.engine import simulate
from buildup.engine.simulate import Simulation, run_simulation
from buildup.errors import RequestError
from buildup.graph.network import Network, sketch
from buildup.report.text_table import decisions_table
from buildup.settings import SimulateSettings
from buildup.strategies.strategy import Strategy
from buildup.trials.training import Candidate


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


def followed(table: str, **settings: Any) -> Simulation:
    return run_simulation(SimulateSettings(**{"layout": "CC|CC", "scores": table, **settings}))


def test_a_control_is_followed_on_a_table(table: str) -> None:
    found = followed(table, strategy="exhaustive")
    assert [one.layout for one in found.decisions] == ["CM|CC", "CC|CM", "CM|CM"]
    assert found.layout == "CM|CC"


def test_less_is_better_where_the_objective_says_so(table: str) -> None:
    found = followed(table, objective="nll")
    assert [one.verdict for one in found.decisions] == ["keep", "drop"]
    assert found.layout == "CC|CM"
    text = decisions_table(found.decisions)
    assert "gain (centinats)" in text
    assert "+5.00" in text


def test_what_a_control_leaves_unused_of_a_space_is_said(table: str, tmp_path: Path) -> None:
    space = tmp_path / "mine.yaml"
    space.write_text("failures: 2\n")
    unused = followed(table, space=str(space), strategy="random").left_unused
    assert unused is not None
    assert "strategy random: failures of space mine steer the build-up rule alone" in unused
    assert followed(table, space=str(space)).left_unused is None


def test_settings_of_a_kept_block_are_followed_in_the_space_that_asks_for_them(table: str, tmp_path: Path) -> None:
    space = tmp_path / "mine.yaml"
    space.write_text("tune: {window: [2, 4]}\nmin_gain: 0.01\n")
    found = followed(table, space=str(space))
    assert [one.layout for one in found.decisions] == ["CC|CM", "CM|CC", "CM|CC"]
    assert "c1.1: msa(heads=12, window=4) -> msa(heads=12, window=2)" in [one.edit for one in found.decisions]
    assert "not more than the 0.01 asked for" in found.decisions[-1].reason


def test_all_that_is_wrong_is_said_at_once(table: str) -> None:
    with pytest.raises(RequestError) as error:
        followed(table, workers=0, seeds=-1, noise=-1.0, strategy="nsga2", objective="loss", default_score="x")
    assert len(error.value.problems) == 6


def test_a_strategy_that_can_not_be_loaded_hides_no_other_problem(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(dict[str, Strategy]):
        def __getitem__(self, name: str) -> Strategy:
            raise RequestError(f"strategy {name} can't be loaded.")

    monkeypatch.setattr(simulate, "STRATEGIES", Broken())
    with pytest.raises(RequestError) as error:
        followed(table, workers=0, strategy="random")
    assert len(error.value.problems) == 2


@pytest.mark.parametrize("strategy", ["nsga2", "nsga2-params"])
def test_a_strategy_that_weighs_costs_is_followed_where_a_base_has_them(
    table: str, strategy: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("HOME", "LOCALAPPDATA", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr("buildup.models.read.read_network", small)
    monkeypatch.setattr("buildup.engine.simulate.costs_of", counted)
    settings = SimulateSettings(base="a sketch", scores=table, strategy=strategy)
    assert len(run_simulation(settings).decisions) == 2


def test_a_layout_is_followed_without_torch_and_timm(table: str) -> None:
    code = (
        "import sys\n"
        "from buildup.cli.main import main\n"
        f"assert main(['simulate', '--layout', 'CC|CC', '--scores', {table!r}]) == 0\n"
        "assert not {'torch', 'timm', 'ray'} & set(sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "is left after 3 trainings" in said
