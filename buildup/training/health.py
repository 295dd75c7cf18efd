"""Checks that the base was trained well. On top of a broken base every change looks like an improvement."""

import math
from collections.abc import Collection, Sequence
from statistics import fmean

from buildup.graph.kinds import known_kinds
from buildup.graph.network import Network
from buildup.training.recipe import Recipe
from buildup.trials.outcome import START, Epoch

STANDARD_ERRORS = 3
LEAST_PROGRESS = 0.1
"""The share of the way from chance to 100 % that a base must reach. Being better than chance is not enough: ResNet-50
after one epoch on 700 images of CIFAR-100 reached 3 %, where chance is 1 %."""
SHORTFALL = 0.1
"""The share of the expected accuracy that may be missing; `LEAST_SHORTFALL` points may always be missing."""
LEAST_SHORTFALL = 5.0
FEW_IMAGES = 500
"""With fewer validation images, plan and search warn."""
FALL = 0.99
"""The training loss of the last epoch must be below this share of the first epoch's."""


def check_base(
    curves: Sequence[Sequence[Epoch]], *, num_classes: int, images: int, expected: float | None
) -> list[str]:
    """List what is wrong with the trainings of a base, by the epochs of each.

    `images` is the number of validation images; `expected` the accuracy in percent that the recipe states for this base
    and dataset, if any.
    """
    curves = [curve for curve in curves if curve]
    if not curves:
        return ["The base has no finished epoch, so nothing is known about it."]
    accuracy = _last(curves, "accuracy")
    p = 1 / num_classes
    noise = STANDARD_ERRORS * math.sqrt(p * (1 - p) / max(1, images * len(curves)))
    floor = min(100.0, 100 * (p + max(noise, LEAST_PROGRESS * (1 - p))))  # of two images, noise alone is over 100 %
    problems = []
    if accuracy < floor:
        said = f"The base reaches {accuracy:.2f} % of the validation images, where guessing reaches {100 * p:.2f} %"
        learned = all("train_accuracy" in curve[-1].metrics for curve in curves)
        if learned and (seen := _last(curves, "train_accuracy")) >= min(2 * floor, (floor + 100) / 2):
            problems.append(
                f"{said}, but it gets {seen:.2f} % of its training images right: training and evaluation do not "
                "match. Batch norm statistics (a tiny batch, a high rate) or wrong labels are the usual causes."
            )
        else:
            problems.append(
                f"{said} and a base worth building on at least {floor:.2f} %. "
                "Train longer or on more data, or check the labels."
            )
    # A base that starts from trained weights may have nothing left to learn.
    if all(len(curve) > 1 and "train_loss" in curve[-1].metrics and START not in curve[0].metrics for curve in curves):
        first = fmean(curve[0].metrics["train_loss"] for curve in curves)
        last = _last(curves, "train_loss")
        if not last < FALL * first:
            problems.append(
                f"The training loss does not fall: {first:.3f} in the first epoch, {last:.3f} in the last. "
                "Try a lower learning rate, and check the images and labels."
            )
    if dead := max(curve[-1].metrics.get("dead_weights", 0) for curve in curves):
        problems.append(
            f"{dead:.0f} of its weight tensors get no gradient, so a part of it never learns. Norms that start at zero "
            "at two places of one branch do that: only the last one of a residual branch may."
        )
    if expected is not None and accuracy < expected - max(LEAST_SHORTFALL, SHORTFALL * expected):
        problems.append(
            f"The base reaches {accuracy:.2f} % of the validation images; by this recipe it should reach about "
            f"{expected:.1f} %. Check data, recipe and device before building on it."
        )
    return problems


def validation_warning(images: int) -> str | None:
    """Why a validation set is too small for small gains; None if it is not.

    >>> validation_warning(12)
    '12 validation images a seed: one image is 8.3 points. Small gains need more images, or many seeds.'
    """
    if images >= FEW_IMAGES:
        return None
    points = f"{100 / max(1, images):.2g} points"
    return f"{images} validation images a seed: one image is {points}. Small gains need more images, or many seeds."


def recipe_warning(network: Network, recipe: Recipe, beside_trained: Collection[str] = ()) -> str | None:
    """Why a recipe is likely to train a network badly; None where no reason is known.

    `beside_trained` are the kinds of new blocks beside pretrained weights.
    """
    if not recipe.transplant and not all(known_kinds()[kind].within for kind in beside_trained):
        way = "Without transplant=0" if recipe.name == "finetune" else "By recipe finetune"
        return (
            f"recipe {recipe.name} starts attention from random weights beside the trained ones of {network.base}. "
            f"{way} attention first learns what the blocks did that it replaces."
        )
    norms = {block.style.norm.kind for block in network.blocks if block.style}
    if recipe.optimizer == "sgd" and norms and norms <= {"layer", "rms"}:
        return (
            f"{network.base} has layer norms, and such networks learn slowly by SGD as recipe {recipe.name} has it. "
            "Recipe quick-adamw is as short as quick and suits them better."
        )
    return None


def _last(curves: Sequence[Sequence[Epoch]], name: str) -> float:
    return fmean(curve[-1].metrics[name] for curve in curves)
