import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildup.graph.network import Append, Network, apply, sketch
from buildup.report.diagram import graph_dot, graph_svg
from buildup.report.findings import Findings

SVG = "{http://www.w3.org/2000/svg}"
RESNET152 = sketch(f"CCC|CCCCCCCM|{'C' * 30}CMCMCM|CMCM", base="resnet152")
HOSTILE = '"]; x [label="\\</title><script>alert(1)</script>&\x00\n\''

layouts = st.lists(st.text("CMGKS", min_size=1, max_size=40), min_size=1, max_size=5).map("|".join)
networks = layouts.map(sketch)


def _boxes(svg: str) -> list[tuple[float, float, float, float]]:
    """Left, top, right and bottom of each block."""
    rects = (
        group.find(f"{SVG}rect")
        for group in ElementTree.fromstring(svg).iter(f"{SVG}g")
        if group.find(f"{SVG}title") is not None
    )
    sides = (
        [float(rect.get(name, "")) for name in ("x", "y", "width", "height")] for rect in rects if rect is not None
    )
    return [(x, y, x + width, y + height) for x, y, width, height in sides]


@given(networks)
def test_every_block_has_a_box_that_covers_no_other(network: Network) -> None:
    boxes = _boxes(graph_svg(network))
    assert len(boxes) == len(list(network.blocks))
    for one, other in combinations(boxes, 2):
        assert one[2] < other[0] or other[2] < one[0] or one[3] < other[1] or other[3] < one[1]


@given(networks)
def test_the_picture_holds_all_its_boxes(network: Network) -> None:
    svg = graph_svg(network)
    _, _, width, height = map(float, ElementTree.fromstring(svg).get("viewBox", "").split())
    assert width == 900
    for left, top, right, bottom in _boxes(svg):
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height


@given(networks)
def test_every_edge_is_drawn(network: Network) -> None:
    paths = ElementTree.fromstring(graph_svg(network)).iter(f"{SVG}path")
    assert sum(path.get("class") == "edge" for path in paths) == len(network.edges)


def test_skips_between_rows_run_beside_the_boxes_and_join_before_their_end() -> None:
    chain = sketch("CC|CC|CC")
    far = [("stem", "c2.0"), ("c1.1", "c3.0"), ("c1.0", "head"), ("c2.1", "head"), ("c3.1", "c1.0")]
    svg = graph_svg(replace(chain, edges=(*chain.edges, *far)))
    right = max(box[2] for box in _boxes(svg))
    lanes = []
    for path in ElementTree.fromstring(svg).iter(f"{SVG}path"):
        if path.get("class") == "edge skip":
            lane, start, end = map(float, re.findall(r"Q([\d.]+) ([\d.]+) [^V]*V([\d.]+)Q", path.get("d", ""))[0])
            assert right < lane < 900 - 12
            lanes.append((lane, start < end))
    assert [down for _, down in lanes] == [True, True, True, True, False]
    assert lanes[2][0] == lanes[3][0]
    assert len({lane for lane, _ in lanes}) == 4


def test_colours_are_there_for_viewers_that_know_no_variables() -> None:
    svg = graph_svg(sketch("CM|CG|CK|CS"))
    used = re.findall(r"([\w-]+):(#\w+);\1:var\(--[\w-]+\)", svg)
    assert len(used) == svg.count("var(--") > 20


def test_a_picture_has_the_name_that_the_user_gave() -> None:
    network = sketch("CC|CM", base="resnetv2_18")
    assert "resnetv2_18" in graph_svg(network)
    svg = graph_svg(network, "resnet6")
    assert "resnetv2_18" not in svg
    assert 'aria-label="resnet6 as CC|CM"' in svg


def test_a_block_names_its_timm_path_and_settings() -> None:
    titles = [title.text or "" for title in ElementTree.fromstring(graph_svg(sketch("CC|CM"))).iter(f"{SVG}title")]
    assert titles[-1] == "c2.1: msa(heads=6, window=7), Block of the base, 128x16x16 -> 128x16x16"


def test_every_kind_and_an_added_block_have_a_look_of_their_own() -> None:
    svg = graph_svg(apply(sketch("CM|CG|CK|CS|CT"), Append(stage="c2")))
    groups = ElementTree.fromstring(svg).iter(f"{SVG}g")
    looks = [group.get("class") or "" for group in groups if group.find(f"{SVG}title") is not None]
    kinds = ["msa", "global-msa", "conv-msa", "smoothing", "gated-msa"]
    own = [look for kind in kinds for look in ("conv", kind)]
    assert looks == [*own[:4], "conv added", *own[4:]]
    fills = re.findall(r"\.buildup-network \.([\w-]+) \.box\{fill:([^}]+)\}", svg)
    assert [name for name, _ in fills] == kinds
    assert len({fill for _, fill in fills}) == len(kinds)


@given(networks, st.booleans())
def test_the_legend_lists_the_kinds_that_are_there_and_no_others(network: Network, add: bool) -> None:
    stage = network.stages[-1]
    network = apply(network, Append(stage=stage.name)) if add and not stage.closed else network
    legend = [text for text in ElementTree.fromstring(graph_svg(network)).iter(f"{SVG}text") if _is_legend(text)]
    marks = {(text.text or "")[0] for text in legend}
    added = {"+"} if any(block.added for block in network.blocks) else set()
    assert marks == {block.kind.letter for block in network.blocks} | added
    # A letter of 12 px takes about 6.3 px.
    assert all(float(text.get("x", "")) + 6.3 * len(text.text or "") < 890 for text in legend)


def _is_legend(text: ElementTree.Element) -> bool:
    return "legend" in (text.get("class") or "")


def test_an_edge_that_skips_blocks_is_drawn_as_an_arc() -> None:
    network = sketch("CCC")
    network = replace(network, edges=(*network.edges, ("c1.0", "c1.2")))
    paths = ElementTree.fromstring(graph_svg(network)).iter(f"{SVG}path")
    assert sum(path.get("class") == "edge skip" for path in paths) == 1


def test_hostile_names_stay_text_in_the_picture() -> None:
    network = sketch("CM", base=HOSTILE)
    stage = replace(network.stages[0], name=HOSTILE)
    root = ElementTree.fromstring(graph_svg(network.with_stage(0, stage)))
    assert not list(root.iter(f"{SVG}script"))
    assert any("<script>" in (text.text or "") for text in root.iter(f"{SVG}text"))


def test_the_picture_loads_nothing_from_elsewhere(with_text: Callable[[str], Findings]) -> None:
    svg = graph_svg(with_text("").winner)
    assert re.findall(r"https?:[^\"]*", svg) == ["http://www.w3.org/2000/svg"]
    assert "href" not in svg


def test_a_deep_network_stays_within_a_screen_or_two() -> None:
    root = ElementTree.fromstring(graph_svg(RESNET152))
    assert float(root.get("height", "")) < 900


def _dot_strings(dot: str) -> list[str]:
    return re.findall(r'"(?:[^"\\]|\\.)*"', dot)


@pytest.mark.parametrize("base", ["resnet50", HOSTILE, "ends in a backslash\\"])
def test_dot_quotes_every_name(base: str) -> None:
    network = sketch("CC|CM", base=base)
    dot = graph_dot(network.with_stage(1, replace(network.stages[1], name=base)))
    bare = dot
    for string in _dot_strings(dot):
        bare = bare.replace(string, "NAME", 1)
    assert re.fullmatch(r"[\w\s\[\]{}=,;>-]*", bare)
    assert bare.count("{") == bare.count("}") == 3
    assert "script" not in bare


@given(networks)
def test_dot_has_a_node_a_block_and_an_arrow_an_edge(network: Network) -> None:
    lines = graph_dot(network).splitlines()
    assert sum(" -> NAME;" in re.sub(r'"(?:[^"\\]|\\.)*"', "NAME", line) for line in lines) == len(network.edges)
    assert sum("tooltip=" in line for line in lines) == len(list(network.blocks))
    assert sum("subgraph cluster_" in line for line in lines) == len(network.stages)


@pytest.mark.skipif(shutil.which("dot") is None, reason="graphviz is not installed")
@pytest.mark.parametrize("network", [RESNET152, sketch("CM", base=HOSTILE)], ids=["resnet152", "hostile"])
def test_graphviz_reads_the_dot(network: Network) -> None:
    done = subprocess.run(["dot", "-Tcanon"], input=graph_dot(network), text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
