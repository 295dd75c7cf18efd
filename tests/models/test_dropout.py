"""One dropout a block, before its last convolution: nothing in evaluation mode, the expected share in training."""

import torch

from buildup.models.build import build
from buildup.models.dropout import NAME, add_dropout, dropout_places
from buildup.models.read import read_network
from buildup.space.load import load
from buildup.strategies.moves import from_layout


def places(base: str, layout: str = "", space: str = "alternet") -> tuple[str, ...]:
    network = read_network(base, input_shape=(3, 32, 32), num_classes=10)
    return dropout_places(from_layout(layout, network, load(space)) if layout else network)


def test_it_stands_where_the_reference_has_it_in_resnets() -> None:
    assert places("resnet18")[:3] == ("layer1.0.conv2", "layer1.1.conv2", "layer2.0.conv2")
    assert places("resnetv2_50")[:4][-1] == "stages.1.blocks.0.conv3"


def test_it_is_never_in_a_shortcut_or_in_what_weighs_channels() -> None:
    assert [path.rpartition(".")[2] for path in places("seresnext26d_32x4d")] == 8 * ["conv3"]
    assert {path.rpartition(".")[2] for path in places("mobilenetv3_small_050")} == {"conv_pwl"}


def test_each_block_with_weights_has_one() -> None:
    vgg = read_network("vgg11_bn", input_shape=(3, 32, 32), num_classes=10)
    assert dropout_places(vgg) == tuple(block.path for block in vgg.blocks)
    smoothed = places("resnet18", "CCS|CCS|CCS|CCS", "smoothing")
    assert smoothed == places("resnet18")
    assert places("resnet18", "CT|CT|CT|CT") == places("resnet18")
    mixed = places("resnet18", "CM|CG|CK|CC")
    assert [path.rpartition(".")[0].removesuffix(".attention") for path in mixed] == [
        f"layer{stage}.{block}" for stage in range(1, 5) for block in range(2)
    ]


def test_weights_and_predictions_are_those_of_the_plain_network_in_evaluation_mode() -> None:
    network = read_network("resnet10t", input_shape=(3, 32, 32), num_classes=10)
    plain, dropped = build(network, seed=0).eval(), build(network, seed=0).eval()
    add_dropout(dropped, network, 0.3)
    assert plain.state_dict().keys() == dropped.state_dict().keys()
    images = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(plain(images), dropped(images))


def test_the_rate_is_the_share_that_is_dropped() -> None:
    network = read_network("resnet10t", input_shape=(3, 32, 32), num_classes=10)
    model = build(network, seed=0)
    add_dropout(model, network, 0.3)
    found = []
    for path in dropout_places(network):
        layer = model.get_submodule(f"{path}.{NAME}")
        layer.register_forward_hook(lambda module, args, result: found.append((args[0], result)))
    with torch.no_grad():
        model.train()(torch.rand(8, 3, 32, 32))
    assert len(found) == len(dropout_places(network)) > 0
    for before, after in found:
        there = before != 0
        share = (after[there] == 0).double().mean().item()
        assert abs(share - 0.3) < 5 * (0.3 * 0.7 / there.sum().item()) ** 0.5
        kept = there & (after != 0)
        assert torch.allclose(after[kept], before[kept] / 0.7)
