"""Members of one's own: in a process, and as docs/extending.md has them, by the entry points of a package."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from buildup.cli.main import COMMANDS, main, make_app
from buildup.engine.loop import run_loop
from buildup.engine.replay import make_replay
from buildup.errors import DataError, RecipeError
from buildup.execution.simulated import InMemoryWriter, ScoreRow, SimulatedEvaluator
from buildup.graph.network import sketch
from buildup.models.read import read_network
from buildup.registry import Registry
from buildup.report.trackers import TRACKERS
from buildup.space.schema import SearchSpace
from buildup.statistics.judges import JUDGES
from buildup.statistics.paired_difference import Comparison
from buildup.strategies.fixed_order import Layouts, ListedRule
from buildup.strategies.registered import STRATEGIES
from buildup.strategies.strategy import Rule, Strategy
from buildup.training.augmentation import Augmentation, Change, EpochImages
from buildup.training.data import DATASETS, describe_data
from buildup.training.dataset_sources import Source, SourceDataset
from buildup.training.fit import Job, fit
from buildup.training.metrics import METRICS, Metric
from buildup.training.recipe import AUGMENTATIONS, RECIPES, load_recipe, recipe_from_values, recipe_to_values
from buildup.trials.decision import Verdict
from buildup.trials.history import History
from buildup.trials.objective import ACCURACY, OBJECTIVES, Objective
from buildup.trials.outcome import Epoch
from buildup.trials.training import Candidate
from held_out import load_test

GUIDE = Path(__file__).parent.parent / "docs" / "extending.md"
CONCEPTS = ("dataset", "augmentation", "metric", "objective", "recipe", "strategy", "judge", "tracker")
MEMBERS = {
    "datasets": "stripes = my_package:STRIPES",
    "augmentations": "negative = my_package:NEGATIVE",
    "metrics": "confidence = my_package:SURE",
    "objectives": "brier = my_package:BRIER",
    "recipes": "gentle = my_package:GENTLE",
    "strategies": "smallest-first = my_package:SMALLEST",
    "judges": "steady = my_package:STEADY",
    "trackers": "printed = my_package:PRINTED",
}
TABLES: tuple[Registry[Any], ...] = (
    *(AUGMENTATIONS, DATASETS, JUDGES, METRICS),
    *(OBJECTIVES, RECIPES, STRATEGIES, TRACKERS),
)
FLAGS = {"tracker": "track"}
"""Flags that have another name than what they choose."""


@pytest.fixture(autouse=True)
def tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    for table in TABLES:
        monkeypatch.setattr(table, "_members", dict(table._members))


def left_or_right(index: int) -> Image.Image:
    image = Image.new("RGB", (16, 16))
    image.paste((255, 255, 255), (8 * (index % 2), 0, 8 * (index % 2) + 8, 16))
    return image


def halves(name: str, data_folder: Path, train: bool) -> Source:
    labels = torch.arange(200 if train else 20) % 2
    return Source(name=name, labels=labels, class_names=("left", "right"), open=left_or_right, state=[name, train])


def darker(share: float, seen: EpochImages) -> Change:
    def change(images: Tensor, here: slice) -> Tensor:
        calls.append((seen.epoch, len(images)))
        return images * share

    calls: list[tuple[int, int]] = CALLS
    return change


CALLS: list[tuple[int, int]] = []
HALVES = SourceDataset(name="halves", usage="halves:SIDE", open=halves)
DARKER = Augmentation(name="darker", draw=darker, check=lambda setting: None if setting == 0.5 else "must be 0.5.")
LEFT = Metric(name="said_left", sums=lambda seen: (seen.top[1] == 0).sum(), value=lambda sums, n: sums.item() / n)


def train(folder: Path, **changes: Any) -> Epoch:
    settings = {
        "network": read_network("test_resnet", input_shape=(3, 16, 16), num_classes=2),
        "seed": 0,
        "dataset": "halves:any",
        "data_dir": str(folder / "data"),
        "image_size": 16,
        "recipe": replace(load_recipe("quick").with_epochs(4), flip=False),
        "folder": str(folder / "attempt"),
    }
    *_, epoch = fit(Job(**{**settings, **changes}))
    return epoch


def test_a_dataset_of_ones_own_is_described_and_trained_on(tmp_path: Path) -> None:
    DATASETS.register(HALVES)
    info = describe_data("halves:any", str(tmp_path))
    assert (info.num_classes, info.image_size, info.train_images, info.val_images) == (2, 16, 180, 20)
    assert train(tmp_path).metrics["accuracy"] == 100.0
    assert load_test("halves:any", str(tmp_path), 16).labels.tolist() == [0, 1] * 10
    with pytest.raises(DataError, match=r"unknown dataset 'halves'.* halves:SIDE"):
        describe_data("halves")


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([0, 1] * 20, "one row of torch.int64, they are list"),
        (torch.rand(40), r"one row of torch.int64, they are torch.float32, 1-dimensional"),
        (torch.arange(40) % 2 - 1, "from 0 to 1, they are -1 to 0"),
        (torch.arange(40) % 3, "from 0 to 1, they are 0 to 2"),
    ],
)
def test_labels_that_can_t_be_classes_are_refused(labels: Any, said: str, tmp_path: Path) -> None:
    def opened(name: str, data_folder: Path, train: bool) -> Source:
        return replace(halves(name, data_folder, train), labels=labels)

    DATASETS.register(replace(HALVES, open=opened))
    with pytest.raises(DataError, match=f"halves:any: its labels must be {said}"):
        describe_data("halves:any", str(tmp_path))


def test_an_augmentation_of_ones_own_sees_every_image_of_a_training(tmp_path: Path) -> None:
    DATASETS.register(HALVES)
    AUGMENTATIONS.register(DARKER)
    CALLS.clear()
    recipe = replace(load_recipe("quick").with_epochs(1), flip=False, augmentations={"darker": 0.5})
    train(tmp_path, recipe=recipe)
    assert {epoch for epoch, _ in CALLS} == {1}
    assert sum(images for _, images in CALLS) == 180
    assert recipe_from_values(json.loads(json.dumps(recipe_to_values(recipe)))) == recipe


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"darkr": 0.5}, "unknown augmentation 'darkr': did you mean 'darker'"),
        ({"darker": 0.4}, r"augmentations.darker must be 0.5"),
        ({"erasing": 0.5}, "erasing is a setting of the recipe itself"),
        (3, "augmentations is 3; a mapping"),
    ],
)
def test_a_wrong_setting_of_an_augmentation_is_refused_with_the_recipe(settings: Any, problem: str) -> None:
    AUGMENTATIONS.register(DARKER)
    with pytest.raises(RecipeError, match=problem):
        replace(load_recipe("quick"), augmentations=settings)


def test_a_metric_of_ones_own_is_in_every_epoch(tmp_path: Path) -> None:
    DATASETS.register(HALVES)
    METRICS.register(LEFT)
    assert train(tmp_path).metrics["said_left"] == 0.5


def test_a_recipe_of_ones_own_has_a_name() -> None:
    mine = RECIPES.register(replace(load_recipe("quick"), name="mine", lr=0.01))
    assert load_recipe("mine") is mine
    with pytest.raises(RecipeError, match="did you mean 'mine'"):
        load_recipe("mien")


@dataclass(frozen=True, kw_only=True)
class Reluctant:
    """Keeps what gains more than a whole point."""

    name: str = "reluctant"
    least_seeds: int = 1
    most_times: int = 1
    min_gain: float = 0.0
    objective: Objective = ACCURACY

    def judge(
        self, current: Comparison, earlier: Sequence[Comparison], *, first: int, last: int, share: float
    ) -> Verdict | None:
        gain = current.gain
        verdict = Verdict(verdict="keep", gain=gain, ci=(gain, gain), level=0.0, reason="kept: more than a point")
        return verdict if gain > 1 else replace(verdict, verdict="drop", reason="dropped: not a whole point")


def later_stages_first(base: Candidate, space: SearchSpace, seed: int) -> Rule:
    layouts = Layouts(base=base, space=space)
    return ListedRule(base=base, layouts=layouts, order=((0, 1), (1, 1)))


def test_a_strategy_a_judge_and_an_objective_of_ones_own_run_a_search() -> None:
    STRATEGIES.register(Strategy(name="later-first", make=later_stages_first))
    JUDGES.register(Reluctant())
    sharp = Objective(name="sharp", title="sharpness", unit="points", sign=-1, largest=1.0, seed_deviation=0.5)
    OBJECTIVES.register(sharp)
    table = {"CC|CC": ScoreRow(score=0.50), "CC|CM": ScoreRow(score=0.47), "CM|CM": ScoreRow(score=0.465)}
    replay = make_replay(
        sketch("CC|CC"),
        SearchSpace(name="test", description=""),
        strategy=STRATEGIES["later-first"],
        judge="reluctant",
        objective=OBJECTIVES["sharp"],
        seeds=2,
    )
    evaluator = SimulatedEvaluator(table=table, objective=sharp, workers=2)
    view, _ = run_loop(replay, evaluator, InMemoryWriter(), History())
    assert [(one.layout, one.verdict, one.judge) for one in view.decisions] == [
        ("CC|CM", "keep", "reluctant"),
        ("CM|CM", "drop", "reluctant"),
    ]
    assert view.decisions[0].gain == pytest.approx(3.0)
    assert view.decisions[0].objective == "sharp"


def test_a_strategy_names_what_it_leaves_unused_of_a_space() -> None:
    space = SearchSpace(name="mine", description="", failures=2, look_ahead=1)
    assert STRATEGIES["random"].unused(space) == (
        "strategy random: look_ahead, failures of space mine steer the build-up rule alone, and change nothing here."
    )
    assert STRATEGIES["alternet"].unused(space) is None


def helps(flag: str) -> dict[str, str]:
    """The help of a flag in each command that has it."""
    app = make_app()
    return {
        command: argument.parameter.help or ""
        for command in COMMANDS
        for argument in app[command].assemble_argument_collection(parse_docstring=True)
        if flag in argument.names
    }


@pytest.mark.parametrize(
    "table", [DATASETS, JUDGES, OBJECTIVES, RECIPES, STRATEGIES, TRACKERS], ids=lambda table: table.what
)
def test_a_flag_whose_help_lists_members_lists_all_that_ship(table: Registry[Any]) -> None:
    named = {
        command: {name for name in table if re.search(rf"(?<![\w-]){name}(?![\w-])", told)}
        for command, told in helps(f"--{FLAGS.get(table.what, table.what)}").items()
    }
    assert named["search"] == set(table)
    for command, names in named.items():
        assert len(names) < 2 or set(table) - names <= {"readable"}, command


def section(concept: str) -> str:
    """The code of the section on a concept."""
    found = re.search(rf"^## An? {concept}\n.*?```python\n(.*?)```", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
    assert found, f"docs/extending.md has no code for a {concept}"
    return found[1]


Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tables: None) -> Iterator[Install]:
    """Installs the package of the guide with the code of some concepts, or with other code, and gives its folder."""

    def install(*concepts: str, code: str = "") -> Path:
        place = tmp_path / "site"
        told = place / "my_package-1.0.dist-info"
        told.mkdir(parents=True)
        (place / "my_package.py").write_text(code or "\n".join(map(section, concepts)))
        points = "".join(f"[buildup.{group}]\n{line}\n" for group, line in MEMBERS.items())
        (told / "entry_points.txt").write_text(points)
        (told / "METADATA").write_text("Metadata-Version: 2.1\nName: my_package\nVersion: 1.0\n")
        monkeypatch.syspath_prepend(place)
        for table in TABLES:  # each has asked already what is installed
            monkeypatch.setattr(table, "_offered", vars(type(table))["_offered"].func(table))
        return place

    yield install
    sys.modules.pop("my_package", None)


@pytest.mark.parametrize("concept", CONCEPTS)
def test_the_guide_shows_a_concept_in_few_lines(concept: str) -> None:
    assert sum(bool(line.strip()) for line in section(concept).splitlines()) <= 20


def test_the_dataset_augmentation_metric_and_recipe_of_the_guide_make_a_training(
    install: Install, tmp_path: Path
) -> None:
    install(*CONCEPTS)
    info = describe_data("stripes", str(tmp_path / "data"))
    shape = (info.channels, info.image_size, info.image_size)
    network = read_network("test_resnet", input_shape=shape, num_classes=info.num_classes)
    recipe = load_recipe("gentle").with_epochs(1)
    assert recipe.setting("negative") == 0.5
    epoch = train(tmp_path, network=network, dataset="stripes", image_size=info.image_size, recipe=recipe)
    assert 0.5 <= epoch.metrics["confidence"] <= 1
    assert epoch.metrics["accuracy"] >= 50


def test_the_strategy_judge_and_objective_of_the_guide_run_a_search_in_a_process_of_its_own(
    install: Install, tmp_path: Path
) -> None:
    (tmp_path / "table.csv").write_text("layout,score\nCC|CC,0.50\nCC|CM,0.47\nCM|CC,0.51\nCM|CM,0.48\n")
    command = f"simulate --layout CC|CC --scores {tmp_path / 'table.csv'} --strategy smallest-first --judge steady"
    paths = [str(install("objective", "strategy", "judge")), *filter(None, sys.path)]
    done = subprocess.run(
        [sys.executable, "-m", "buildup", *command.split(), "--objective", "brier", "--seeds", "2", "--json"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert (found["judge"], found["objective"], found["layout"]) == ("steady", "brier", "CC|CM")


@pytest.mark.parametrize("flags", [["--dataset", "stripes"], ["--dataset", "digits", "--judge", "steady"]])
def test_a_package_that_is_broken_is_named_when_it_is_asked_for(
    install: Install, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    install(code="import no_such_module\n")
    assert main(["plan", "--base", "test_resnet", *flags]) == 2
    said = capsys.readouterr().err
    assert "of the package my_package 1.0" in said
    assert "No module named 'no_such_module'" in said
