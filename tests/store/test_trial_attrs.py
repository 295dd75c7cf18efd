"""What a trial says of its network."""

from buildup.graph.kinds import Smoothing
from buildup.graph.network import Append, apply, sketch
from buildup.store.trial_attrs import params


def test_every_kind_of_attention_counts_with_what_it_sees() -> None:
    network = sketch("CM|CK|CG|CMKG")
    assert {name: value for name, value in params(network).items() if value} == {
        "c1.msa": 1,
        "c1.window": 7,
        "c1.heads": 3,
        "c2.msa": 1,
        "c2.window": 3,
        "c2.heads": 6,
        "c3.msa": 1,
        "c3.window": 8,
        "c3.heads": 12,
        "c4.msa": 3,
        "c4.window": 4,
        "c4.heads": 24,
    }


def test_smoothing_and_added_blocks_are_counted_apart() -> None:
    network = sketch("CS|CC|CC")
    for stage, kind in (("c2", Smoothing()), ("c3", None)):
        network = apply(network, Append(stage=stage, kind=kind) if kind else Append(stage=stage))
    found = {name: value for name, value in params(network).items() if value}
    assert found == {"c1.others": 1, "c2.others": 1, "c3.others": 1}


def test_all_networks_of_a_run_have_the_same_parameters() -> None:
    names = [set(params(sketch(text))) for text in ("CC|CC", "CM|CS", "CCS|CCC")]
    assert names[0] == names[1] == names[2]
