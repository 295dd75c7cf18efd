"""What a recipe promises."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildup.errors import RecipeError
from buildup.training.recipe import (
    Recipe,
    learning_rate,
    load_recipe,
    recipe_from_values,
    recipe_to_values,
    shipped_recipes,
)


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_shipped_recipe_survives_the_way_through_plain_values(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe_from_values(recipe_to_values(recipe)) == recipe


def test_every_problem_of_a_file_is_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "epochs: 0\nbatch_size: 32\noptimizer: sdg\nschedule: cosine\nlr: 1e-3\nflipp: true\nbetas: 3\nmix_prob: 0.5\n"
    )
    with pytest.raises(RecipeError) as error:
        load_recipe(str(path))
    said = "\n".join(error.value.problems)
    for found in ("epochs is 0", "eval_batch_size is missing", "'sdg'", "1.0e-4", "did you mean 'flip'", "betas is 3"):
        assert found in said
    assert "mix_prob is 0.5, which has no effect" in said
    assert all(problem.startswith(f"{path}: ") for problem in error.value.problems)


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("epochs: 1\nepochs: 2\n")
    with pytest.raises(RecipeError, match="stands twice"):
        load_recipe(str(path))


def test_unknown_name_gets_the_closest_one() -> None:
    with pytest.raises(RecipeError, match="did you mean 'quick'"):
        load_recipe("quikc")


@pytest.mark.parametrize(
    "values",
    [
        {"randaugment": {"magnitude": 9}},
        {"randaugment": 9},
        {"expected": {"resnet50": 68.6}},
        {"expected": 7},
        {"milestones": [5, 3]},
        {"snapshots": "warmup"},
        {"snapshots": ["warm-up"]},
        {"snapshots": [3, 3]},
        {"snapshots": [0]},
        {"snapshots": [15]},
        {"snapshots": ["warmup"], "warmup_epochs": 0},
        {"momentum": True},
        {"clip_grad": 0},
        {"amp": "yes"},
        {"colour_jitter": 2},
        {"layer_decay": 0},
        {"layer_decay": 1.5},
        {"ema": 1},
        {"crop_padding": 4, "resized_crop": [0.08, 1.0]},
        {"resized_crop": [1.0, 0.08], "crop_padding": 0},
        {"resized_crop": 0.5, "crop_padding": 0},
        {"lr": float("nan")},
        {"description": 3},
        {"schedule": "steps"},
    ],
)
def test_a_wrong_value_is_refused_by_its_name(values: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match=next(iter(values)) if "schedule" not in values else "milestones"):
        recipe_from_values({**recipe_to_values(load_recipe("quick")), **values})


def test_snapshots_scale_with_the_epochs_and_are_left_out_where_there_are_none() -> None:
    recipe = replace(load_recipe("paper"), snapshots=("warmup", 100, 200, 305))
    assert recipe.snapshot_epochs == (5, 100, 200)  # the last weights are kept anyway
    assert recipe_from_values(recipe_to_values(recipe)) == recipe
    half = recipe.with_epochs(61)
    assert half.snapshots == ("warmup", 20, 40, 61)
    assert half.snapshot_epochs == (1, 20, 40)
    assert "snapshots" not in recipe_to_values(load_recipe("paper"))


def test_the_paper_recipe_is_the_papers() -> None:
    """Section 5 of the paper's specification, column "CIFAR strong"."""
    recipe = load_recipe("paper")
    rates = [learning_rate(recipe, epoch * 10, 10) for epoch in range(recipe.epochs)]
    assert rates[0] == 0.0
    assert rates[4] == pytest.approx(1e-4)
    assert rates[5] == pytest.approx(1.25e-4)
    assert rates[155] == pytest.approx(1.25e-4 / 2)
    assert learning_rate(recipe, 1559, 10) == rates[155]
    assert 0 < rates[-1] < 1e-8


def test_the_weak_recipe_is_the_papers() -> None:
    recipe = load_recipe("paper-weak")
    rates = [learning_rate(recipe, epoch, 1) for epoch in (0, 1, 60, 61, 121, 161)]
    assert rates == pytest.approx([0, 0.1, 0.1, 0.02, 4e-3, 8e-4])


@settings(max_examples=40)
@given(epochs=st.integers(1, 400), steps=st.integers(2, 40), name=st.sampled_from(sorted(shipped_recipes())))
def test_the_rate_stays_between_zero_and_its_top_over_any_number_of_epochs(epochs: int, steps: int, name: str) -> None:
    recipe = load_recipe(name).with_epochs(epochs)
    rates = [learning_rate(recipe, step, steps) for step in range(epochs * steps)]
    assert all(0 <= rate <= recipe.lr * (1 + 1e-12) for rate in rates)
    assert max(rates) > 0


def test_a_file_extends_a_recipe_and_null_is_a_default(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: paper\nepochs: 20\nclip_grad: null\nmixup: null\n")
    (tmp_path / "sgd.yaml").write_text(
        "extends: mine.yaml\noptimizer: sgd\nbetas: null\nlr: 0.1\nmix_switch_prob: null\n"
    )
    paper, mine, sgd = (load_recipe(name) for name in ("paper", *map(str, sorted(tmp_path.iterdir()))))
    changes: dict[str, Any] = {"epochs": 20, "clip_grad": None, "mixup": 0.0, "expected": {}, "description": ""}
    assert mine == replace(paper, name="mine", **changes)
    assert sgd == replace(mine, name="sgd", optimizer="sgd", lr=0.1)


def test_the_recipe_without_augmentation_is_the_papers() -> None:
    """Section 5 of the paper's specification, column "CIFAR strong-minus-aug"."""
    plain: dict[str, Any] = {
        "randaugment": None,
        "mixup": 0.0,
        "cutmix": 0.0,
        "label_smoothing": 0.0,
        "clip_grad": None,
    }
    own: dict[str, Any] = {
        "name": "cifar100_vit_noaug",
        "expected": {},
        "description": load_recipe("cifar100_vit_noaug").description,
    }
    assert load_recipe("cifar100_vit_noaug") == replace(load_recipe("paper"), **own, **plain)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("extends: papr", "did you mean 'paper'"),
        ("extends: 3", "extends is 3; the name of a recipe"),
        ("extends: mine.yaml", "can't extend itself"),
        ("extends: other.yaml", "can't extend itself"),
        ("extends: none.yaml", "can't be read"),
        ("extends: paper\nlr: null", "lr is missing"),
        ("extends: paper\nmixup: 2\nlabel_smoothing: 3", "label_smoothing is 3"),
        ("extend: paper", "did you mean 'extends'"),
    ],
)
def test_what_a_recipe_can_t_extend_is_said_with_the_file(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "mine.yaml").write_text(f"{text}\n")
    (tmp_path / "other.yaml").write_text("extends: mine.yaml\n")
    with pytest.raises(RecipeError) as error:
        load_recipe(str(tmp_path / "mine.yaml"))
    assert says in str(error.value)
    assert "mine.yaml: " in str(error.value)


def test_steps_fall_at_their_milestones_after_the_warmup() -> None:
    recipe = Recipe(
        name="weak", epochs=201, warmup_epochs=1, batch_size=128, eval_batch_size=256, optimizer="sgd", lr=0.1,
        schedule="steps", milestones=(60, 120, 160), gamma=0.2,
    )  # fmt: skip
    assert [learning_rate(recipe, epoch, 1) for epoch in (60, 61, 121, 161)] == pytest.approx([0.1, 0.02, 4e-3, 8e-4])
    assert recipe.with_epochs(101).milestones == (30, 60, 80)


def test_fewer_epochs_shrink_the_warmup_and_drop_what_was_expected() -> None:
    recipe = replace(load_recipe("quick"), expected={"resnet18 digits": 98.0})
    short = recipe.with_epochs(7)
    assert short.warmup_epochs == pytest.approx(recipe.warmup_epochs / 2)
    assert recipe.expectation("resnet18", "digits") == 98.0
    assert recipe.expectation("resnet18", "digits", fraction=0.5) is None
    assert short.expectation("resnet18", "digits") is None


@given(images=st.integers(1, 100_000))
def test_resolving_twice_changes_nothing_more(images: int) -> None:
    recipe = load_recipe("quick").resolved(train_images=images)
    assert recipe.resolved(train_images=images) == recipe
    assert recipe.batch_size <= max(8, images // 32)


@pytest.mark.parametrize(
    "change", ["lr={a: *b}", "lr=[0.1", "lr=2020-99-99", "lr=!!python/name:os.system", "name=x", "lr"]
)
def test_a_change_that_can_t_be_read_is_refused_and_named(change: str) -> None:
    with pytest.raises(RecipeError, match=f"--set {re.escape(change)}: "):
        load_recipe("quick", [change])
