"""`train`: one training of any timm model or layout by a recipe, in this process: no Ray and no study."""

from typing import Annotated

from buildup.cli.output import AsJson, Flags, answer, interruptible, reading
from buildup.settings import TrainSettings


def train(name: str, /, settings: Annotated[TrainSettings, Flags] = TrainSettings(), *, as_json: AsJson = False) -> int:
    """One training of any timm model or layout; the same command goes on after a stop.

    Example: buildup train resnet18 --layout 'CC|CC|CM|CM' --dataset digits --epochs 6

    Args:
        name: A timm model, or one of the paper's networks for CIFAR, such as vit_tiny_cifar and resnet50_cifar.
    """
    reading(name)
    from buildup.engine.train import train_once, trained_values
    from buildup.errors import counted
    from buildup.report.words import duration

    with interruptible():
        found = train_once(name, settings)
    score = found.score
    width = max(map(len, score.metrics))
    lines = [
        f"{score.accuracy:.2f} % of {score.images:,} validation images after {counted(found.epochs, 'epoch')}, "
        f"{duration(score.seconds)}.",
        *(f"  {name:{width}}  {value:.4g}" for name, value in score.metrics.items()),
        f"Weights: {found.weights}",
    ]
    return answer("\n".join(lines), trained_values(found), as_json=as_json)
