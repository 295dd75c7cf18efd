"""`graph`, `spaces` and `recipes`: what people see before anything is searched."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from buildup.cli.main import main
from buildup.engine.staged_graph import staged_graph
from buildup.errors import RequestError
from buildup.space.load import load, shipped
from buildup.training.recipe import RECIPES, load_recipe, shipped_recipes


@pytest.fixture
def graph(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What `graph` prints of resnet18."""

    def graph(*asked: str) -> str:
        assert main(["graph", "resnet18", "--size", "32", *asked]) == 0
        return capsys.readouterr().out

    return graph


def test_a_layout_becomes_a_network_with_the_settings_of_the_space(graph: Callable[..., str]) -> None:
    text, values = graph("--layout", "CM|CK|CG|CS"), json.loads(graph("--layout", "CM|CK|CG|CS", "--json"))
    assert values["layout"] == "CM|CK|CG|CS"
    blocks = [stage["blocks"][1] for stage in values["stages"]]
    assert [(block["kind"], block.get("heads")) for block in blocks] == [("M", 3), ("K", 6), ("G", 12), ("S", None)]
    for phrase in ("msa(heads=3, window=4)", "conv-msa(heads=6)", "global-msa(heads=12)", "smoothing"):
        assert phrase in text


def test_a_space_that_adds_blocks_lists_them_as_tries_and_takes_them_in_a_layout(graph: Callable[..., str]) -> None:
    assert "try 1: one more block, layer4.2" in graph("--space", "smoothing")
    asked = ("--space", "smoothing", "--layout", "CC|CC|CC|CCS")
    text, values = graph(*asked), json.loads(graph(*asked, "--json"))
    assert [block.get("added", False) for block in values["stages"][3]["blocks"]] == [False, False, True]
    assert "smoothing, added" in text


def test_tries_are_numbered_in_the_order_of_the_space(graph: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "order.yaml").write_text("description: another order\norder: [2, 4, 1, 3]\n")
    said = graph("--space", str(tmp_path / "order.yaml"))
    places = [re.search(rf"layer{stage}\.1 .*try (\d)", said) for stage in (2, 4, 1, 3)]
    assert [found and found[1] for found in places] == ["1", "2", "3", "4"]


@pytest.mark.parametrize("form", ["json", "dot", "svg"])
def test_a_layout_is_shown_in_every_form(form: str, graph: Callable[..., str]) -> None:
    assert "CM|CK|CG|CS" in graph("--layout", "CM|CK|CG|CS", "--format", form)


def test_every_problem_of_a_layout_is_named_at_once() -> None:
    with pytest.raises(RequestError) as error:
        staged_graph("resnet18", size=32, layout="CMS|CC|CX|MC")
    first, second, third = error.value.problems
    assert "layer1 of resnet18 has 2 blocks, not 3: CC" in first
    assert "letter 'X' at layer3.1 is not known; known are C, M, G, K, S" in second
    assert "layer4.0 turns (256, 8, 8) into (512, 4, 4)" in third
    assert third.endswith("M fits at layer4.1.")


def test_all_that_is_wrong_with_a_graph_is_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--dataset", "digits", "--size", "7", "--stem", "tiny", "--format", "gif", "--space", "none"]
    assert main(["graph", "resnet5", *asked]) == 2
    said = capsys.readouterr().err
    for problem in ("--size 7", "--size and --dataset", "stem 'tiny'", "format 'gif'", "'none'", "resnet5"):
        assert problem in said


def test_every_shipped_space_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["spaces"]) == 0
    text = capsys.readouterr().out
    assert main(["spaces", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert {space["name"] for space in values} == set(shipped()) >= {"alternet", "paper", "smoothing", "kernels"}
    assert "kind K (conv-msa) at every 2nd block" in text
    assert "one more block of kind S (smoothing) at the end of each stage" in text
    assert "heads 3, head size 64, window auto" in text


@pytest.mark.parametrize(("command", "load_it"), [("recipes", load_recipe), ("spaces", load)])
def test_a_printed_file_is_read_as_what_it_was_printed_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, load_it: Callable[[str], Any]
) -> None:
    for name in shipped_recipes() if command == "recipes" else shipped():
        assert main([command, name, "--yaml"]) == 0
        copy = tmp_path / f"{name}.yaml"
        copy.write_text(capsys.readouterr().out)
        assert load_it(str(copy)) == load_it(name)
        bare = copy.rename(tmp_path / name)  # a path is a file without an ending, too
        assert main([command, str(bare), "--yaml"]) == 0
        assert capsys.readouterr().out == bare.read_text()
        assert main([command, str(bare)]) == 0
        assert name in capsys.readouterr().out


def test_all_files_are_printed_as_documents(capsys: pytest.CaptureFixture[str]) -> None:
    for command, names in (("recipes", shipped_recipes()), ("spaces", shipped())):
        assert main([command, "--yaml"]) == 0
        assert len(list(yaml.safe_load_all(capsys.readouterr().out))) == len(names)


def test_a_recipe_of_a_package_without_a_file_is_printed_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = replace(load_recipe("paper"), name="mine")
    monkeypatch.setitem(RECIPES._members, "mine", mine)
    assert main(["recipes", "mine", "--yaml"]) == 0
    copy = tmp_path / "mine.yaml"
    copy.write_text(capsys.readouterr().out)
    assert load_recipe(str(copy)) == mine


def test_recipes_answer_in_json_with_all_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "--json"]) == 0
    values = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert values["cifar100_vit_noaug"]["lr"] == 1.25e-4
    assert main(["recipes", "papr"]) == 2
    assert "did you mean 'paper'" in capsys.readouterr().err
