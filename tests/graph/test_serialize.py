import json
import subprocess
import sys
from dataclasses import fields, replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildup.graph.kinds import (
    BlockKind,
    Conv,
    ConvAttention,
    GatedAttention,
    GlobalAttention,
    LocalAttention,
    Smoothing,
)
from buildup.graph.network import Append, Network, apply, chain, replacement, sketch
from buildup.graph.serialize import fingerprint, network_from_values, network_to_values

BASE = sketch("CCC|CCCM")
COMMON = {"heads": 3, "head_size": 32, "width": 24}
KINDS: list[BlockKind] = [
    Conv(),
    LocalAttention(heads=6, window=4),
    GlobalAttention(heads=6),
    ConvAttention(heads=6),
    GatedAttention(),
    Smoothing(),
]
OTHERWISE: dict[type[BlockKind], dict[str, Any]] = {
    Conv: {},
    LocalAttention: {**COMMON, "window": 2, "tables": "heads"},
    GlobalAttention: COMMON,
    ConvAttention: {**COMMON, "kernel": 5, "borders": "attended"},
    GatedAttention: {},
    Smoothing: {"kernel": 3, "temperature": 5, "borders": "grow"},
}
"""Every setting of every kind, at another value than above."""


def with_kind(path: str, kind: BlockKind) -> Network:
    network = sketch("CCC|CCCC")
    return apply(network, replacement(network, path, kind)) if kind != Conv() else network


DIFFERENT = {
    "the network itself": BASE,
    "another layout": sketch("CCC|CCCC"),
    "another kind elsewhere": sketch("CCC|CMCM"),
    "one block more": apply(BASE, Append(stage="c1")),
    "the same depth without an added block": sketch("CCCC|CCCM"),
    "another base": replace(BASE, base="other"),
    "another stem": replace(BASE, stem="small"),
    "other base arguments": replace(BASE, base_args={"drop_path_rate": 0.1}),
    "another value of a base argument": replace(BASE, base_args={"drop_path_rate": 0.2}),
    "other classes": replace(BASE, num_classes=10),
    "other channels": replace(BASE, input_shape=(1, 32, 32)),
    "another place": with_kind("c2.2", KINDS[1]),
    **{f"{kind.name} at the end": apply(sketch("CCC|CCCC"), Append(stage="c2", kind=kind)) for kind in KINDS},
    **{f"{kind.name} in place": with_kind("c2.3", kind) for kind in KINDS[1:]},
    **{
        f"{kind.name} with {name} {value}": with_kind("c2.3", replace(kind, **{name: value}))
        for kind in KINDS
        for name, value in OTHERWISE[type(kind)].items()
    },
}


def test_no_setting_of_a_kind_is_left_out_below() -> None:
    assert {kind: set(settings) for kind, settings in OTHERWISE.items()} == {
        type(kind): {field.name for field in fields(kind)} for kind in KINDS
    }


def test_any_difference_in_function_changes_the_fingerprint() -> None:
    fingerprints = {name: fingerprint(network) for name, network in DIFFERENT.items()}
    assert len(set(fingerprints.values())) == len(DIFFERENT)


@pytest.mark.parametrize("name", DIFFERENT)
def test_plain_values_keep_the_network_and_its_fingerprint(name: str) -> None:
    network = DIFFERENT[name]
    values = json.loads(json.dumps(network_to_values(network)))
    again = network_from_values(values)
    assert again == network
    assert fingerprint(again) == fingerprint(network) == values["fingerprint"]


def test_the_size_of_the_images_is_no_part_of_the_function() -> None:
    assert fingerprint(replace(BASE, input_shape=(3, 40, 48))) == fingerprint(BASE)


def test_names_of_blocks_and_order_of_edges_do_not_count() -> None:
    stages = tuple(
        replace(stage, blocks=tuple(replace(block, path=f"x.{block.path}") for block in stage.blocks))
        for stage in BASE.stages
    )
    edges = chain(block.path for stage in stages for block in stage.blocks)
    assert fingerprint(replace(BASE, stages=stages, edges=edges[::-1])) == fingerprint(BASE)


@given(st.lists(st.text("CMGKS", max_size=4).map("C".__add__), min_size=1, max_size=4), st.randoms())
def test_isomorphic_networks_have_one_fingerprint(stages: list[str], random: Random) -> None:
    network = sketch("|".join(stages))
    paths = [block.path for block in network.blocks]
    names = dict(zip(paths, random.sample(range(1000), len(paths)), strict=True))
    renamed = tuple(
        replace(stage, blocks=tuple(replace(block, path=f"n.{names[block.path]}") for block in stage.blocks))
        for stage in network.stages
    )
    edges = list(chain(f"n.{names[path]}" for path in paths))
    random.shuffle(edges)
    assert fingerprint(replace(network, stages=renamed, edges=tuple(edges))) == fingerprint(network)


def test_equal_fingerprints_come_from_another_process_with_another_hash_seed() -> None:
    code = (
        "import json, sys; from buildup.graph.serialize import network_from_values;"
        "from buildup.graph.serialize import fingerprint;"
        "print(*(fingerprint(network_from_values(values)) for values in json.load(sys.stdin)))"
    )
    environment = {"PYTHONHASHSEED": "12345", "PYTHONPATH": ":".join(sys.path)}
    values = json.dumps([network_to_values(network) for network in DIFFERENT.values()])
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environment, input=values, capture_output=True, text=True, check=True
    )
    assert ended.stdout.split() == [fingerprint(network) for network in DIFFERENT.values()]


def test_the_fingerprint_of_a_known_network_stays_what_it_is() -> None:
    # Runs and exports are named by it: a change here makes every one of them a stranger.
    assert fingerprint(BASE) == "8e7a528fb3085468"
