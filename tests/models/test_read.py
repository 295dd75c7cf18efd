import pytest
import timm

from buildup.errors import BaseError, LayoutError
from buildup.graph.base_name import base_text, parse_base
from buildup.graph.kinds import LocalAttention
from buildup.graph.layout import layout
from buildup.graph.network import apply, chain, replacement
from buildup.models.read import read_network
from buildup.models.trace import trace_calls


def test_a_resnet_is_read_with_the_paths_and_shapes_that_timm_gives_it() -> None:
    network = read_network("resnet50", input_shape=(3, 224, 224), num_classes=1000)
    assert [stage.name for stage in network.stages] == ["layer1", "layer2", "layer3", "layer4"]
    assert [len(stage.blocks) for stage in network.stages] == [3, 4, 6, 3]
    block = network.block("layer4.2")
    assert (block.module, block.in_shape, block.out_shape) == ("Bottleneck", (2048, 7, 7), (2048, 7, 7))
    assert network.block("layer4.0").in_shape == (1024, 14, 14)
    assert network.stem == "base"


def test_a_pre_activation_resnet_is_read_with_the_paths_that_timm_gives_it() -> None:
    network = read_network("resnetv2_50", input_shape=(3, 32, 32), num_classes=100)
    assert [stage.name for stage in network.stages] == ["stages.0", "stages.1", "stages.2", "stages.3"]
    assert network.block("stages.3.blocks.2").module == "PreActBottleneck"
    assert [stage.size for stage in network.stages] == [(32, 32), (16, 16), (8, 8), (4, 4)]
    assert network.edges[0] == ("stem", "stages.0.blocks.0")
    assert network.edges[-1] == ("stages.3.blocks.2", "head")


@pytest.mark.parametrize(
    ("size", "stem", "chosen"),
    [(64, "auto", "small"), (65, "auto", "base"), (32, "base", "base"), (224, "small", "small")],
)
def test_small_images_get_the_small_stem_unless_told_otherwise(size: int, stem: str, chosen: str) -> None:
    network = read_network("resnet18", input_shape=(3, size, size), num_classes=10, stem=stem)  # type: ignore[arg-type]
    assert network.stem == chosen


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("resnet50.a1_in1k", "resnet50"),
        ("resnet50d.untrained", "resnet50d"),
        ("resnet50t.untrained", "resnet50t"),
        ("gluon_resnet50_v1b", "resnet50"),
    ],
)
def test_tags_and_old_names_lead_to_the_same_network(name: str, base: str) -> None:
    shape = {"input_shape": (3, 32, 32), "num_classes": 10}
    assert read_network(name, **shape) == read_network(base, **shape)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("resnet5O", "did you mean 'resnet50'"),
        ("resnet50.a9_in1k", "Known: a1_in1k, a1h_in1k"),
        ("", "unknown base ''"),
        ("local-dir:/nowhere", "unknown base"),
        ("vit_tiny_patch16_224", r"has attention of its own \(blocks.0.attn.qkv\)"),
        ("mobilevit_xxs", "has attention of its own"),
        ("alter_resnet18", "has attention of its own"),
        ("mixer_b16_224", "has no convolutional stages"),
        ("densenet121", "no stage has, after its first block, one with spatial convolutions"),
    ],
)
def test_a_model_that_cannot_be_a_base_is_refused_with_the_reason(name: str, says: str) -> None:
    with pytest.raises(BaseError, match=says):
        read_network(name, input_shape=(3, 32, 32), num_classes=10)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"colour": 1}, "unexpected keyword argument 'colour'"),
        ({"num_classes": 5}, "num_classes, which the network itself says"),
    ],
)
def test_base_arguments_that_do_not_fit_are_refused(arguments: dict[str, object], says: str) -> None:
    with pytest.raises(BaseError, match=says):
        read_network("resnet18", input_shape=(3, 32, 32), num_classes=10, base_args=arguments)


WRITTEN: dict[str, tuple[str, dict[str, object]]] = {
    "resnet18": ("resnet18", {}),
    "resnet18()": ("resnet18", {}),
    "resnet18 (channels=[8, 16, 16, 32])": ("resnet18", {"channels": [8, 16, 16, 32]}),
    "resnet18.a1_in1k(drop_path_rate=-.5, aa_layer=None)": (
        "resnet18.a1_in1k",
        {"drop_path_rate": -0.5, "aa_layer": None},
    ),
}


@pytest.mark.parametrize("text", WRITTEN)
def test_a_base_is_written_with_its_arguments(text: str) -> None:
    assert parse_base(text) == WRITTEN[text]
    assert parse_base(base_text(*WRITTEN[text])) == WRITTEN[text]


def test_written_arguments_are_base_arguments() -> None:
    shape, arguments = (3, 32, 32), {"channels": [8, 16, 16, 32]}
    written = read_network("resnet18(channels=[8, 16, 16, 32])", input_shape=shape, num_classes=10)
    assert written == read_network("resnet18", input_shape=shape, num_classes=10, base_args=arguments)
    assert [stage.blocks[-1].out_shape[0] for stage in written.stages] == [8, 16, 16, 32]


def test_arguments_of_a_base_of_our_own_go_before_its_own() -> None:
    network = read_network("resnet6(stem_chs=4)", input_shape=(1, 28, 28), num_classes=10)
    assert network.base_args == {"stem_chs": 4, "channels": [8, 16, 32], "layers": [0, 1, 1]}


@pytest.mark.parametrize(
    "text",
    [
        "resnet18(8)",
        "resnet18(**{'channels': 1})",
        "resnet18(channels=[8)",
        "resnet18(channels=8)(1)",
        "resnet18(channels=open('x'))",
        "resnet18(channels=1, channels=2)",
        "resnet18(",
        "(channels=1)",
        "resnet18(\0)",
        "resnet18(a=" + "(" * 10_000,
    ],
)
def test_arguments_that_are_not_plain_values_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(BaseError, match=r"'resnetv2_18\(stem_chs=16"):
        read_network(text, input_shape=(3, 32, 32), num_classes=10)


def test_arguments_that_the_dataset_says_are_refused() -> None:
    with pytest.raises(BaseError, match="num_classes can't be given here"):
        read_network("resnet18(num_classes=5)", input_shape=(3, 32, 32), num_classes=10)


SIZES = {
    # A base of each sort, its layout, and the side of its stages' maps for pictures of 32 px.
    "resnext26ts": ("CC|CC|CC|CC", [32, 16, 8, 4]),
    "regnety_002": ("C|C|CCCC|CCCCCCC", [32, 16, 8, 4]),
    "convnext_atto": ("CC|CC|CCCCCC|CC", [32, 16, 8, 4]),
    "convnextv2_atto": ("CC|CC|CCCCCC|CC", [32, 16, 8, 4]),
    "inception_next_atto": ("CC|CC|CCCCCC|CC", [32, 16, 8, 4]),
    "mambaout_femto": ("CCC|CCC|CCCCCCCCC|CCC", [32, 16, 8, 4]),
    "efficientnet_b0": ("CC|CC|CCCCCC|CCCCC", [32, 16, 8, 4]),
    "tf_efficientnetv2_b0": ("CC|CC|CCCCCCCC|CCCCCCCC", [32, 16, 8, 4]),
    "mobilenetv3_small_050": ("CC|CCCCC|CCC", [16, 8, 4]),
    "mobilenetv4_conv_small": ("CCCCCC|CCCCCC", [8, 4]),
    "ghostnet_050": ("C|CC|CC|CCCCCC|CCCCC", [32, 32, 16, 8, 4]),
    "repvgg_a0": ("CC|CCCC|CCCCCCCCCCCCCC|C", [32, 16, 8, 4]),
    "repvit_m0_9": ("CCC|CCC|CCCCCCCCCCCCCCC|CC", [32, 16, 8, 4]),
    "starnet_s1": ("CC|CC|CCCCCCCC|CCC", [32, 16, 8, 4]),
    "nf_resnet26": ("CC|CC|CC|CC", [32, 16, 8, 4]),
    "cspresnet50": ("CCC|CCC|CCCCC|CC", [32, 16, 8, 4]),
    "darknet53": ("C|CC|CCCCCCCC|CCCCCCCC|CCCC", [32, 32, 16, 8, 4]),
    "dla34": ("CC|CCCC|CCCC|CC", [32, 16, 8, 4]),
    "hrnet_w18_small": ("CCCCCC|CCCCCC|CCCC|CC", [32, 16, 8, 4]),
    "hgnetv2_b0": ("C|C|CC|C", [32, 16, 8, 4]),
    "skresnet18": ("CC|CC|CC|CC", [32, 16, 8, 4]),
    "dpn48b": ("CCC|CCCC|CCCCCC|CCC", [32, 16, 8, 4]),
    "vgg11_bn": ("CC|CC|CC", [32, 16, 8]),
    "ese_vovnet19b_dw": ("CCC|CCC|CCC|CCC", [32, 16, 8, 4]),
    "xception41": ("C|C|CCCCCCCCC|CC", [32, 16, 8, 4]),
    "convmixer_768_32": ("C" * 32, [4]),
    "fasternet_t0": ("C|CC|CCCCCCCC|CC", [32, 16, 8, 4]),
}


@pytest.mark.parametrize("base", SIZES)
def test_every_sort_of_base_is_read_by_the_same_means(base: str) -> None:
    network = read_network(base, input_shape=(3, 32, 32), num_classes=10)
    expected, sides = SIZES[base]
    assert layout(network) == expected
    assert [stage.size for stage in network.stages] == [(side, side) for side in sides]
    assert len({stage.name for stage in network.stages}) == len(network.stages)


def test_single_convolutions_are_the_blocks_of_a_net_without_others() -> None:
    network = read_network("vgg11_bn", input_shape=(3, 224, 224), num_classes=10)
    assert [block.path for block in network.stages[1].blocks] == ["features.15", "features.18"]
    assert [stage.name for stage in network.stages] == ["features.13", "features.20", "features.27"]


def test_a_block_that_is_given_more_than_one_map_stays() -> None:
    network = read_network("dla34", input_shape=(3, 224, 224), num_classes=10)
    block = network.block("level3.tree2.tree1")
    assert block.keeps_shape
    assert "given 2 things" in block.fixed
    with pytest.raises(LayoutError, match="given 2 things"):
        apply(network, replacement(network, block.path, LocalAttention(heads=1, window=7, width=8)))


@pytest.mark.parametrize(
    ("base", "grows"),
    [("resnet18", True), ("regnety_002", True), ("dla34", False), ("efficientnet_b0", False), ("vgg11", False)],
)
def test_a_stage_grows_where_a_module_behind_its_last_block_would_run(base: str, grows: bool) -> None:
    assert read_network(base, input_shape=(3, 64, 64), num_classes=10).stages[-1].grows == grows


def test_a_base_without_a_small_stem_keeps_its_own_or_is_refused() -> None:
    assert read_network("convmixer_768_32", input_shape=(3, 32, 32), num_classes=10).stem == "base"
    with pytest.raises(BaseError, match="can't be given the small stem"):
        read_network("convmixer_768_32", input_shape=(3, 32, 32), num_classes=10, stem="small")


def test_edges_say_what_every_block_reads_around_others_too() -> None:
    plain = read_network("resnet50", input_shape=(3, 64, 64), num_classes=10)
    assert plain.edges == chain(block.path for block in plain.blocks)
    crossing = read_network("cspresnet50", input_shape=(3, 64, 64), num_classes=10)
    assert set(crossing.graph.predecessors("stages.1.blocks.0")) == {"stem", "stages.0.blocks.2"}
    tree = read_network("dla34", input_shape=(3, 64, 64), num_classes=10)
    assert set(tree.graph.predecessors("level3.tree1.tree1")) == {"level2.tree1", "level2.tree2"}


def test_tracing_leaves_the_model_as_it_was() -> None:
    model = timm.create_model("resnet18", device="meta").train()
    before = {name: id(module) for name, module in model.named_modules()}
    trace_calls("resnet18", model, (3, 64, 64))
    assert {name: id(module) for name, module in model.named_modules()} == before
    assert all(module.training and not module._forward_hooks for module in model.modules())
