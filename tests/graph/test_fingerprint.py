import json
import subprocess
import sys
from dataclasses import replace

import pytest

from buildup.graph.edit import Append, apply, replacement
from buildup.graph.fingerprint import fingerprint
from buildup.graph.kinds import Conv, LocalAttention
from buildup.graph.network import Network, chain, sketch
from buildup.graph.values import network_from_values, network_to_values

BASE = sketch("CCC|CCCM")


def with_attention(path: str, **settings: int) -> Network:
    network = BASE if isinstance(BASE.block(path).kind, Conv) else sketch("CCC|CCCC")
    kind = LocalAttention(**{"heads": 6, "head_size": 64, "window": 4} | settings)
    return apply(network, replacement(network, path, kind))


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
    "a window of 4": with_attention("c2.3"),
    "a window of 2": with_attention("c2.3", window=2),
    "other heads": with_attention("c2.3", heads=3),
    "another head size": with_attention("c2.3", head_size=32),
    "another place": with_attention("c2.2"),
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


def test_equal_fingerprints_come_from_another_process_with_another_hash_seed() -> None:
    code = (
        "from buildup.graph.network import sketch; from buildup.graph.fingerprint import fingerprint;"
        "print(fingerprint(sketch('CCC|CCCM')))"
    )
    environment = {"PYTHONHASHSEED": "12345", "PYTHONPATH": ":".join(sys.path)}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == fingerprint(BASE)


def test_the_fingerprint_of_a_known_network_stays_what_it_is() -> None:
    # Runs and exports are named by it: a change here makes every one of them a stranger.
    assert fingerprint(BASE) == "8e7a528fb3085468"
