"""A block kind of another package works everywhere, though no file of buildup names it."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import timm
import torch
from torch import Tensor

import buildup
from buildup.engine.loop import run_loop
from buildup.engine.replay import make_replay
from buildup.errors import ExportError, KindError, LayoutError, SpaceError
from buildup.execution.simulated import InMemoryWriter, ScoreRow, SimulatedEvaluator
from buildup.graph import kinds
from buildup.graph.kinds import BlockKind, from_values, known_kinds, register_kind
from buildup.graph.layout import layout, parse
from buildup.graph.network import Network, apply, replacement, sketch
from buildup.graph.serialize import fingerprint, network_from_values, network_to_values
from buildup.models.build import build, data_config
from buildup.models.export import export_network, probe_logits
from buildup.models.read import read_network
from buildup.models.standalone import standalone
from buildup.report.diagram import graph_dot, graph_svg
from buildup.report.text_table import graph_text
from buildup.space.load import load, space_from_values
from buildup.space.schema import SearchSpace
from buildup.store.trial_attrs import params
from buildup.strategies.moves import moves
from buildup.training.fit import Job, fit
from buildup.training.recipe import load_recipe
from buildup.trials.history import History

ROOT = Path(buildup.__file__).parent.parent
SECTION = (
    (ROOT / "docs" / "extending.md").read_text(encoding="utf-8").partition("## A block kind")[2].partition("\n## ")[0]
)
DEPTHWISE = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)[0]

KIND = """
from dataclasses import dataclass
from typing import ClassVar, Literal

from buildup.graph.kinds import BlockKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Dilated(BlockKind):
    letter, name, label = "E", "dilated", "dilated convolution"
    module = "dilation.layers:Dilated2d"
    branch = True

    steps: int = 2
    shape: Literal["square", "cross"] = "square"
"""
LAYERS = """
import torch
from torch import Tensor, nn

from .parts import SIDE, centred


class Dilated2d(nn.Module):
    def __init__(self, in_chs: int, out_chs: int, steps: int, shape: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_chs, in_chs, SIDE, padding=centred(steps), dilation=steps)
        self.out = nn.Conv2d(in_chs, out_chs, 1)
        self.cross = shape == "cross"

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(torch.tanh(self.conv(x)))
        return y
"""
PARTS = """
SIDE = 3


def centred(steps: int) -> int:
    return steps * (SIDE // 2)
"""
ENTRY = "[buildup.kinds]\ndilated = dilation.kind:Dilated\n"


def install(folder: Path, files: dict[str, str], entry: str) -> Path:
    """A package as pip would leave it."""
    for name, text in {**files, "extra-1.0.dist-info/METADATA": "Name: extra\nVersion: 1.0\n"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "extra-1.0.dist-info" / "entry_points.txt").write_text(entry)
    return folder


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    """Kinds and modules as before, whatever a test registers."""
    kinds_before, modules_before = dict(kinds._REGISTERED), set(sys.modules)
    kinds.known_kinds.cache_clear()
    yield
    kinds.known_kinds.cache_clear()
    kinds._REGISTERED.clear()
    kinds._REGISTERED.update(kinds_before)
    for name in set(sys.modules) - modules_before:
        if name.partition(".")[0] in {"depthwise", "dilation", "broken"}:
            del sys.modules[name]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The kind of the documentation and one more, both found by their entry points."""
    files = {"depthwise.py": DEPTHWISE, "dilation/__init__.py": "", "dilation/kind.py": KIND}
    files |= {"dilation/layers.py": LAYERS, "dilation/parts.py": PARTS}
    folder = install(tmp_path / "site", files, f"{ENTRY}depthwise = depthwise:Depthwise\n")
    monkeypatch.syspath_prepend(folder)
    return folder


def base() -> Network:
    return read_network("resnet18", input_shape=(1, 16, 16), num_classes=10, base_args={"channels": [16, 16, 32, 64]})


def edited(letter: str, **settings: Any) -> Network:
    """The base with one block of a kind in its last stage."""
    network = base()
    return apply(network, replacement(network, "layer4.1", from_values({"kind": letter, **settings})))


def space_file(folder: Path, text: str) -> SearchSpace:
    (folder / "mine.yaml").write_text(text)
    return load(str(folder / "mine.yaml"))


def trained(network: Network) -> dict[str, Tensor]:
    model = build(network, seed=0)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.05)
    return model.state_dict()


@pytest.mark.usefixtures("installed")
def test_layouts_and_files_name_it() -> None:
    network = sketch("CC|CDED")
    assert layout(network) == "CC|CDED"
    assert parse("CC|CDCC", sketch("CC|CCCC")) == ("CC", "CDCC")
    again = network_from_values(json.loads(json.dumps(network_to_values(edited("D", kernel=3)))))
    assert again == edited("D", kernel=3)
    assert len({fingerprint(one) for one in (base(), edited("D"), edited("D", kernel=3), edited("E"))}) == 4


@pytest.mark.usefixtures("installed")
def test_its_settings_are_checked_by_their_annotations() -> None:
    with pytest.raises(LayoutError, match="depthwise block: kernel is 0; a whole number of at least 1 is needed"):
        from_values({"kind": "D", "kernel": 0})
    with pytest.raises(LayoutError, match="dilated block: shape is 'round'; it must be square or cross"):
        from_values({"kind": "E", "shape": "round"})


@pytest.mark.usefixtures("installed")
def test_a_space_sets_its_settings_new_names_included(tmp_path: Path) -> None:
    space = space_file(tmp_path, "kind: D\nkernel: 3\nsteps: 4\ntune: {kind: [D, E]}\n")
    [last] = moves(sketch("CC|CC"), space)[-1]
    assert last.kind == from_values({"kind": "D", "kernel": 3})
    assert last.variants == (from_values({"kind": "E", "steps": 4}),)
    values = json.loads(json.dumps({"settings": space.settings}))
    assert space_from_values({"name": "mine", "description": "", "kind": "E", **values}).given("E") == {"steps": 4}


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("kind: D\nsteps: 2\n", "steps is 2, but kind D has no steps. Leave it out"),
        ("kind: E\nshape: round\n", "shape is round, but for kind E it must be square or cross"),
        ("kind: D\nheads: 3\n", "heads is 3, but kind D has no heads"),
        ("kind: Z\n", "kind is 'Z'; it must be one of C, M, G, K, S, T, E, D"),
    ],
)
def test_a_setting_that_it_lacks_is_refused(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=says):
        space_file(tmp_path, text)


@pytest.mark.usefixtures("installed")
def test_every_picture_shows_it_in_its_colours() -> None:
    network = edited("D", kernel=3)
    assert "depthwise(kernel=3)" in graph_text(network)
    assert 'fillcolor="#a2456b", fontcolor=white' in graph_dot(network)
    svg = graph_svg(network)
    texts = [text.text for text in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert "D depthwise convolution" in texts
    assert ".buildup-network .depthwise .box{fill:#a2456b;fill:var(--kind-depthwise)}" in svg
    assert "--kind-depthwise:#a2456b;--ink-depthwise:#fff;" in svg
    assert "--kind-depthwise:#e58fb3;--ink-depthwise:#06243a;" in svg


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("letter", ["D", "E"])
def test_its_trial_has_other_parameters_than_the_base(letter: str) -> None:
    assert params(edited(letter)) != params(base())
    assert params(edited(letter)).keys() == params(base()).keys()


@pytest.mark.usefixtures("installed")
def test_a_search_keeps_it_where_it_helps(tmp_path: Path) -> None:
    space = space_file(tmp_path, "kind: D\n")
    scores = {"CC|CC": 80.0, "CC|CD": 81.0, "CD|CD": 79.0}
    table = SimulatedEvaluator(
        table={name: ScoreRow(score=score) for name, score in scores.items()}, workers=1, default=None
    )
    replay = make_replay(sketch("CC|CC"), space, judge="point", seeds=1)
    view, _ = run_loop(replay, table, InMemoryWriter(), History())
    assert view.best.layout == "CC|CD"
    assert [decision.kept for decision in view.decisions] == [True, False]


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("letter", ["D", "E"])
def test_its_weights_are_trained(letter: str, tmp_path: Path) -> None:
    recipe = load_recipe("quick").with_epochs(1)
    network = edited(letter)
    job = Job(
        network=network, seed=1, dataset="digits", image_size=16, fraction=0.1, recipe=recipe, folder=str(tmp_path)
    )
    [epoch] = fit(job)
    assert epoch.number == 1
    start = build(network, seed=1).state_dict()
    [weights] = tmp_path.glob("**/weights.safetensors")
    end = timm.models.load_state_dict(str(weights))
    fresh = [name for name in start if name.startswith("layer4.1.") and name.endswith("weight")]
    assert fresh
    assert all(not torch.equal(start[name], end[name]) for name in fresh)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(("letter", "settings"), [("D", {"kernel": 3}), ("E", {"steps": 3})])
def test_it_is_exported_with_equal_logits(letter: str, settings: dict[str, Any], tmp_path: Path) -> None:
    network = edited(letter, **settings)
    weights = trained(network)
    model = build(network)
    model.load_state_dict(weights)
    # It runs the stand-alone file in a process without buildup and without that package.
    export_network(network, weights, tmp_path / "net", card="")
    loaded = timm.create_model(f"local-dir:{tmp_path / 'net'}", pretrained=True)
    assert torch.equal(probe_logits(loaded, network), probe_logits(model, network))
    text = (tmp_path / "net" / "alternet.py").read_text()
    assert not re.search(r"^(from|import) (buildup|depthwise|dilation|\.)", text, re.MULTILINE)


@pytest.mark.usefixtures("installed")
def test_the_stand_alone_file_holds_what_its_module_uses_and_its_name() -> None:
    text = standalone(edited("E"), data_config(edited("E")))
    assert "E  dilated convolution" in text
    assert text.index("SIDE = 3") < text.index("def centred") < text.index("class Dilated2d")
    assert "Attention2d" not in text


@pytest.mark.usefixtures("installed")
def test_two_texts_of_one_name_are_refused(installed: Path) -> None:
    clash = PARTS.replace("centred", "find_part")
    (installed / "dilation" / "parts.py").write_text(clash)
    (installed / "dilation" / "layers.py").write_text(LAYERS.replace("centred", "find_part"))
    with pytest.raises(ExportError, match=r"find_part and .*find_part can't be in one file. Rename one of them"):
        standalone(edited("E"), data_config(edited("E")))


def test_another_process_finds_it_by_its_entry_point(installed: Path) -> None:
    code = "from buildup.graph.network import sketch; print(*sketch('CDE').blocks)"
    paths = {"PYTHONPATH": f"{installed}:{ROOT}"}
    done = subprocess.run([sys.executable, "-c", code], env=paths, capture_output=True, text=True, check=True)
    assert "Depthwise(kernel=5)" in done.stdout


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("missing:Kind", "ModuleNotFoundError: No module named 'missing'"),
        ("broken:Kind", "ZeroDivisionError"),
        ("json:JSONDecoder", "json.decoder.JSONDecoder is no block kind. Derive it from BlockKind"),
    ],
)
def test_a_broken_entry_point_is_named(value: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(install(tmp_path, {"broken.py": "1 / 0\n"}, f"[buildup.kinds]\nnew = {value}\n"))
    with pytest.raises(KindError, match=rf"entry point new = {value} of extra .*{says}.*Repair or remove"):
        known_kinds()


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": "other"}, r"Other: its letter 'D' is taken by depthwise.Depthwise. Give one of them another letter"),
        (
            {"letter": "X"},
            r"Other: its name 'depthwise' is taken by depthwise.Depthwise. Give one of them another name",
        ),
        ({"letter": "xy"}, "letter is 'xy'; it must be one capital letter"),
        ({"letter": "X", "name": "Deep"}, "name is 'Deep'; it must be small letters"),
        (
            {"letter": "X", "name": "x", "module": "depthwise"},
            "module is 'depthwise'; it must be 'package.module:Class'",
        ),
        ({"letter": "X", "name": "x", "colour": ("red", "blue")}, r"colour is \('red', 'blue'\); it must be two of"),
    ],
)
def test_what_cannot_be_registered_says_why(changes: dict[str, Any], says: str) -> None:
    depthwise = known_kinds()["D"]
    other = type("Other", (depthwise,), {"__slots__": (), "__dataclass_fields__": {}, **changes})
    with pytest.raises(KindError, match=says):
        register_kind(other)


def test_a_kind_says_all_that_others_ask() -> None:
    with pytest.raises(KindError, match="has no letter, name, label, module"):
        register_kind(type("Empty", (BlockKind,), {"__slots__": (), "__dataclass_fields__": {}}))


@pytest.mark.usefixtures("installed")
def test_a_module_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    network = edited("D")
    monkeypatch.setattr(known_kinds()["D"], "module", "depthwise:Gone")
    with pytest.raises(KindError, match=r"kind D \(depthwise\): its module depthwise:Gone is missing"):
        build(network)


def test_known_kinds_come_without_torch() -> None:
    code = "import sys; from buildup.graph.kinds import known_kinds; known_kinds(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
