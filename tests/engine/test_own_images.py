"""The whole way with one's own images: plan, search, final, export, and a prediction with the names of the classes."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from buildup.cli.main import main
from buildup.engine import final, search
from buildup.models import export
from buildup.models.build import build
from buildup.models.export import export_network
from buildup.models.read import read_network
from buildup.statistics.judges import PointJudge
from buildup.training.data import open_test
from buildup.training.feed import StreamedDataset
from buildup.training.image_files import open_image
from buildup.trials.decision import Verdict
from local_workers import LocalWorkers

SIZE = 12
MODES = ("RGB", "L", "RGBA", "P")
SEARCH = ["--base", "test_resnet", "--dataset", "folder:pets", "--skip-unreadable", "--run", "own"]
SEARCH += ["--epochs", "2", "--seeds", "1", "--workers", "1", "--judge", "point", "--no-base-checks"]


def draw(folder: Path, count: int) -> None:
    """Dark maple leaves and bright oak leaves, in all modes of pictures."""
    noise = np.random.RandomState(0)
    for name, light in (("maple_leaf", 40), ("oak_leaf", 210)):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = (light + noise.randint(0, 40, (SIZE + number, SIZE, 3))).astype(np.uint8)
            Image.fromarray(pixels).convert(MODES[number % len(MODES)]).save(folder / name / f"{number}.png")


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command beside a folder of pets, with workers in this process, and returns what it says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BUILDUP_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(search, "start_workers", LocalWorkers)
    monkeypatch.setattr(final, "start_workers", LocalWorkers)
    draw(Path("pets/train"), 10)
    draw(Path("pets/val"), 4)
    Path("pets/train/oak_leaf/torn.png").write_bytes(Path("pets/train/oak_leaf/0.png").read_bytes()[:60])
    usual = PointJudge.judge

    def keep(*given: Any, **named: Any) -> Verdict:
        """Every step is kept, so that there is something to prove."""
        found = usual(*given, **named)
        assert found is not None
        return replace(found, verdict="keep")

    monkeypatch.setattr(PointJudge, "judge", keep)

    def ask(*arguments: str) -> str:
        assert main(arguments) == 0
        return capsys.readouterr().out

    return ask


@pytest.mark.slow
def test_own_images_lead_to_a_model_that_names_its_classes(ask: Callable[..., str]) -> None:
    assert "1 unreadable image left out" in ask("plan", *SEARCH)
    said = ask("search", *SEARCH, "--allow-weak-base")
    assert "became CM|CM|CM" in said
    assert "buildup final" in said
    assert "Local attention at" in said
    verdict = json.loads(ask("final", "own", "--seeds", "3", "--json"))["verdict"]
    assert verdict in ask("status", "own")
    ask("export", "own", "--to", "leaves")
    model: Any = timm.create_model("local-dir:leaves", pretrained=True).eval()
    assert model.pretrained_cfg["label_names"] == ["maple_leaf", "oak_leaf"]
    assert model.pretrained_cfg["label_descriptions"]["oak_leaf"] == "oak leaf"
    data: Any = timm.data
    transform = data.create_transform(**data.resolve_model_data_config(model))
    with torch.inference_mode():
        logits = model(transform(open_image(Path("pets/val/oak_leaf/0.png")))[None])
    assert model.pretrained_cfg["label_names"][int(logits.argmax())] in {"maple_leaf", "oak_leaf"}


@pytest.mark.slow
def test_a_network_trained_on_own_images_of_224_px_is_searched_from_its_weights(ask: Callable[..., str]) -> None:
    own = ["--dataset", "folder:pets", "--skip-unreadable", "--image-size", "224"]
    ask("train", "test_resnet", *own, "--epochs", "6", "--threads", "1", "--to", "base")
    asked = [*SEARCH, *own[3:], "--pretrained", "base", "--recipe", "finetune"]
    assert "stem base" in ask("plan", *asked)
    said = ask("search", *asked, "--allow-weak-base")
    assert "became CM|CM|CM" in said
    report = ask("report", "own", "--format", "md")
    assert "Before any training the base knew " in report
    final_said = json.loads(ask("final", "own", "--seeds", "3", "--json"))
    assert final_said["verdict"]
    ask("export", "own", "--to", "leaves")
    card = Path("leaves/README.md").read_text(encoding="utf-8")
    assert "Before any training the base knew " in card


@pytest.mark.slow
def test_a_streamed_run_stays_streamed_and_its_export_cuts_images_as_it_did(
    ask: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [*SEARCH, "--image-size", "72"]
    with monkeypatch.context() as small:
        small.setattr("buildup.training.data._memory", lambda: 1000.0)
        ask("search", *asked, "--allow-weak-base")
    assert json.loads(Path("runs/own/export/config.json").read_text())["pretrained_cfg"]["crop_pct"] == 0.875
    for path in Path("pets").rglob("*.png"):  # copied anew, and on a machine with more memory
        path.touch()
    opened: list[object] = []

    def remembered(*place: Any) -> Any:
        opened.append(open_test(*place))
        return opened[-1]

    monkeypatch.setattr(final, "open_test", remembered)
    ask("final", "own", "--seeds", "3")
    assert isinstance(opened[0], StreamedDataset)


def test_an_export_carries_the_names_of_the_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "_check", lambda *_: None)  # loading it in a process without buildup takes seconds
    network = read_network("test_resnet", input_shape=(3, SIZE, SIZE), num_classes=2)
    data: dict[str, Any] = {"label_names": ["maple_leaf", "oak_leaf"]}
    export_network(network, build(network, seed=0).state_dict(), tmp_path / "leaves", card="", data=data)
    model: Any = timm.create_model(f"local-dir:{tmp_path / 'leaves'}")
    assert model.pretrained_cfg["label_names"] == data["label_names"]
