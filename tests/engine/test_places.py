"""Where new blocks of a pretrained network come nearest to what they replace."""

import json
from pathlib import Path

import pytest
from safetensors.torch import save_file

from buildup.cli.main import main
from buildup.engine.places import Place, Places, measure_places, table_of_places
from buildup.engine.train import train_once
from buildup.errors import SearchError
from buildup.models.build import build
from buildup.models.read import read_network
from buildup.settings import PlacesSettings, TrainSettings
from buildup.trials.outcome import IMITATION

BASE = "resnetv2_18(stem_chs=8,channels=[8,16],layers=[2,4])"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    model = build(read_network(BASE, input_shape=(1, 8, 8), num_classes=10), seed=7)
    file = tmp_path_factory.mktemp("weights") / "base.safetensors"
    save_file(model.state_dict(), file)
    return str(file)


def test_an_error_is_that_with_which_a_training_begins(weights: str, tmp_path: Path) -> None:
    asked = {"dataset": "digits", "epochs": 1, "pretrained": weights, "threads": 1, "seed": 3}
    found = measure_places(BASE, PlacesSettings(**asked))  # type: ignore[arg-type]
    assert [(one.stage, one.layout) for one in found.tried] == [(2, "CC|CCCM"), (1, "CM|CCCC")]
    settings = TrainSettings(layout="CC|CCCM", space="alternet", recipe="finetune", to=str(tmp_path / "one"), **asked)  # type: ignore[arg-type]
    assert found.tried[0].error == train_once(BASE, settings).score.metrics[IMITATION]
    first, second = (one.error for one in found.tried)
    assert found.order == ((2, 1) if first <= second else (1, 2))


def test_every_place_that_the_rule_may_try_is_measured_when_asked(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--dataset", "digits", "--epochs", "1", "--threads", "1", "--everywhere", "--json"]
    assert main(["places", BASE, "--pretrained", weights, *flags]) == 0
    values = json.loads(capsys.readouterr().out)
    assert [one["layout"] for one in values["places"]] == ["CC|CCCM", "CC|CMCC", "CM|CCCC"]
    assert all(one["error"] > 0 for one in values["places"])
    assert sorted(values["order"]) == [1, 2]
    assert not list(tmp_path.iterdir())


def test_a_block_that_starts_as_the_one_that_it_replaces_has_no_error(weights: str, tmp_path: Path) -> None:
    space = tmp_path / "gated.yaml"
    space.write_text("kind: T\n")
    settings = PlacesSettings(dataset="digits", epochs=1, pretrained=weights, threads=1, space=str(space))
    assert [one.error for one in measure_places(BASE, settings).tried] == [0, 0]


def test_a_block_that_can_t_learn_has_no_error_either(weights: str) -> None:
    settings = PlacesSettings(dataset="digits", epochs=1, pretrained=weights, threads=1, space="smoothing")
    with pytest.raises(SearchError, match=r"CC\|CCCCS: its new block has no weights"):
        measure_places(BASE, settings)


def test_another_order_is_given_as_a_space_file_has_it() -> None:
    tried = tuple(Place(stage=stage, edit="", layout="", error=0.5 / stage, seconds=1.0) for stage in (2, 1))
    assert "in which the rule tries stages anyway" in table_of_places(Places(tried=tried, usual=(2, 1)))
    assert "In its space file: order: [2, 1]" in table_of_places(Places(tried=tried, usual=(1, 2)))


def test_a_wrong_request_says_what_would_be_right(weights: str, capsys: pytest.CaptureFixture[str]) -> None:
    for flags, said in (
        (["--recipe", "quick"], "recipe quick has no imitation"),
        (["--space", "nix", "--seed", "x"], "unknown space 'nix'"),
        (["--pretrained", ""], "--pretrained is empty"),
        (["--dataset", ""], "--dataset is missing"),
    ):
        assert main(["places", BASE, "--dataset", "digits", "--pretrained", weights, *flags]) == 2
        assert said in capsys.readouterr().err
