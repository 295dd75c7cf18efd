"""`graph` and `spaces`: what people see before anything is searched."""

from collections.abc import Mapping
from typing import Any

import pytest
from buildup.cli.show import graph, spaces

from buildup.errors import RequestError
from buildup.space.load import shipped

NAMES = ("dataset", "data_dir", "space", "layout", "stem", "format", "json")
FLAGS: Mapping[str, Any] = {**dict.fromkeys(NAMES), "base": "resnet18", "size": "32"}


def test_a_layout_becomes_a_network_with_the_settings_of_the_space() -> None:
    text, values = graph({**FLAGS, "layout": "CM|CK|CG|CS"})
    assert values["layout"] == "CM|CK|CG|CS"
    blocks = [stage["blocks"][1] for stage in values["stages"]]
    assert [(block["kind"], block.get("heads")) for block in blocks] == [("M", 3), ("K", 6), ("G", 12), ("S", None)]
    for phrase in ("msa(heads=3, window=4)", "conv-msa(heads=6)", "global-msa(heads=12)", "smoothing"):
        assert phrase in text


def test_a_space_that_adds_blocks_lists_them_as_tries_and_takes_them_in_a_layout() -> None:
    text, _ = graph({**FLAGS, "space": "smoothing"})
    assert "try 1: one more block, layer4.2" in text
    text, values = graph({**FLAGS, "space": "smoothing", "layout": "CC|CC|CC|CCS"})
    assert [block.get("added", False) for block in values["stages"][3]["blocks"]] == [False, False, True]
    assert "smoothing, added" in text


@pytest.mark.parametrize("form", ["json", "dot", "svg"])
def test_a_layout_is_shown_in_every_form(form: str) -> None:
    text, _ = graph({**FLAGS, "layout": "CM|CK|CG|CS", "format": form})
    assert "CM|CK|CG|CS" in text


def test_every_problem_of_a_layout_is_named_at_once() -> None:
    with pytest.raises(RequestError) as error:
        graph({**FLAGS, "layout": "CMS|CC|CX|MC"})
    first, second, third = error.value.problems
    assert "layer1 of resnet18 has 2 blocks, not 3: CC" in first
    assert "letter 'X' at layer3.1 is not known; known are C, M, G, K, S" in second
    assert "layer4.0 turns (256, 8, 8) into (512, 4, 4)" in third
    assert third.endswith("M fits at layer4.1.")


def test_every_shipped_space_is_described() -> None:
    text, values = spaces({})
    assert {space["name"] for space in values} == set(shipped()) >= {"alternet", "paper", "smoothing", "kernels"}
    assert "kind K (conv-msa) at every 2nd block" in text
    assert "one more block of kind S (smoothing) at the end of each stage" in text
    assert "heads 3, head size 64, window auto" in text
