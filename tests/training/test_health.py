"""Planted faults are found, and sound trainings pass."""

import pytest

from buildup.models.read import read_network
from buildup.training.health import check_base, recipe_warning
from buildup.training.recipe import load_recipe
from buildup.trials.outcome import START, Epoch


def curve(accuracy: list[float], loss: list[float], train: float = 50.0) -> list[Epoch]:
    return [
        Epoch(number=number, metrics={"accuracy": found, "train_loss": value, "train_accuracy": train})
        for number, (found, value) in enumerate(zip(accuracy, loss, strict=True), start=1)
    ]


def test_a_base_that_learned_has_no_problems() -> None:
    good = curve([30.0, 55.0, 66.0], [4.0, 3.0, 2.5])
    assert check_base([good, good], num_classes=100, images=5000, expected=68.6) == []


@pytest.mark.parametrize(("classes", "accuracy"), [(2, 52.0), (10, 15.0), (100, 3.08)])
def test_accuracy_near_chance_is_a_problem(classes: int, accuracy: float) -> None:
    (problem,) = check_base(
        [curve([accuracy] * 2, [2.0, 1.0], train=accuracy)], num_classes=classes, images=1000, expected=None
    )
    assert "where guessing reaches" in problem
    assert "Train longer" in problem


def test_a_loss_that_does_not_fall_is_a_problem() -> None:
    (problem,) = check_base([curve([50.0, 50.0], [2.3, 2.3])], num_classes=10, images=1000, expected=None)
    assert problem.startswith("The training loss does not fall: 2.300 in the first epoch, 2.300 in the last.")


def test_training_and_validation_that_do_not_match_are_a_problem() -> None:
    (problem,) = check_base([curve([9.0, 10.0], [2.0, 1.0], train=95.0)], num_classes=10, images=1000, expected=None)
    assert "training and evaluation do not match" in problem


def test_far_below_the_expectation_is_a_problem() -> None:
    (problem,) = check_base([curve([20.0, 40.0], [4.0, 3.0])], num_classes=100, images=5000, expected=68.6)
    assert "should reach about 68.6 %" in problem


def test_no_epoch_at_all_is_a_problem() -> None:
    assert check_base([[]], num_classes=10, images=100, expected=None) != []


def test_layer_norms_and_sgd_do_not_suit_each_other() -> None:
    quick, adamw = load_recipe("quick"), load_recipe("quick-adamw")
    convnext = read_network("convnext_atto", input_shape=(3, 32, 32), num_classes=10)
    assert "quick-adamw" in (recipe_warning(convnext, quick) or "")
    assert recipe_warning(convnext, adamw) is None
    resnet = read_network("resnet18", input_shape=(3, 32, 32), num_classes=10)
    assert recipe_warning(resnet, quick) is None
    assert "By recipe finetune attention first learns what the blocks did" in (recipe_warning(resnet, quick, "M") or "")
    assert recipe_warning(resnet, quick, "T") is None
    assert recipe_warning(resnet, load_recipe("finetune"), "M") is None


def test_a_base_from_trained_weights_need_not_learn_more() -> None:
    flat = curve([93, 93], [0.6, 0.6])
    known = [Epoch(number=epoch.number, metrics={**epoch.metrics, START: 93.0}) for epoch in flat]
    (problem,) = check_base([flat], num_classes=10, images=1000, expected=None)
    assert "does not fall" in problem
    assert check_base([known], num_classes=10, images=1000, expected=None) == []
