"""Weights of the paper's reference code in our networks: do both compute the same, in evaluation and in training?

    python bench/compare_with_reference.py PATH_TO_A_CHECKOUT_OF_how-do-vits-work

The checkout's `models` package is imported as it is; it needs einops. Every reference network is made with random
weights and statistics, which are copied into ours name by name; then logits and, in training mode, the statistics of
all batch norms are compared in float64. The largest differences are printed, and the exit code is 1 where one is over
1e-10.
"""

import argparse
import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from buildup.graph.layout import layout
from buildup.graph.network import Network
from buildup.models.build import build
from buildup.models.zoo import PAPER, paper_network

CLOSE = 1e-10
CLASSES = 100
IMAGES = 2
WINDOWS = {224: 7, 32: 4}

CONV = {"shortcut.0": "downsample.conv", "conv1": "conv1"}
NAMES = {
    "BasicBlock": CONV | {"bn": "norm1", "conv2.0": "norm2", "conv2.2": "conv2"},
    "Bottleneck": CONV
    | {"bn": "norm1", "conv2.0": "norm2", "conv2.2": "conv2", "conv3.0": "norm3", "conv3.2": "conv3"},
    "attention": {"norm1": "norm1", "conv": "conv", "norm2": "norm2", "attn.attn.to_out.0": "attention.out"},
}
"""What modules inside a block are called there and here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """The largest differences between two networks with the same weights."""

    name: str
    size: int
    layout: str
    logits_eval: float
    logits_train: float
    statistics: float

    @property
    def largest(self) -> float:
        """The worst of them; not a number is worse than all."""
        values = torch.tensor([self.logits_eval, self.logits_train, self.statistics])
        return float(values.nan_to_num(nan=torch.inf).max())


def main() -> int:
    """Compare, print a table, and tell by the exit code whether all is equal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="the folder that holds models/alternet.py")
    parser.add_argument("names", nargs="*", help=f"networks to compare (default: {', '.join(PAPER)})")
    asked = parser.parse_args()
    if not (asked.checkout / "models" / "alternet.py").is_file():
        parser.error(f"{asked.checkout} has no models/alternet.py")
    if unknown := sorted(set(asked.names) - PAPER.keys()):
        parser.error(f"{', '.join(unknown)}: not among {', '.join(PAPER)}")
    sys.path.insert(0, str(asked.checkout))
    reference = importlib.import_module("models.alternet")

    print(f"{'network':22}{'size':>5}  {'layout':52}{'eval':>10}{'train':>10}{'batch norms':>13}")
    worst = 0.0
    for name in asked.names or PAPER:
        for size in WINDOWS:
            gap = compare(reference, name, size)
            print(
                f"{gap.name:22}{gap.size:>5}  {gap.layout:52}"
                f"{gap.logits_eval:10.1e}{gap.logits_train:10.1e}{gap.statistics:13.1e}",
                flush=True,
            )
            worst = max(worst, gap.largest)
    print(f"largest difference: {worst:.1e}; at most {CLOSE:.0e} is asked for")
    return int(worst > CLOSE)


def compare(reference: Any, name: str, size: int) -> Gap:
    """One network of the paper at one input size."""
    torch.manual_seed(0)
    network = paper_network(name, input_shape=(3, size, size), num_classes=CLASSES)
    theirs = made(reference, name, size).double()
    shake(theirs)
    ours = build(network).double()
    names = dict(renamed(network, theirs))
    ours.load_state_dict(translated(theirs, names))

    images = torch.randn(IMAGES, 3, size, size, dtype=torch.float64)
    gaps = []
    for training in (False, True):
        with torch.no_grad():
            gaps.append(gap(ours.train(training)(images), theirs.train(training)(images)))
    after, expected = ours.state_dict(), translated(theirs, names)
    statistics = max(gap(after[key], expected[key]) for key in after if "running_" in key)
    return Gap(
        name=name,
        size=size,
        layout=layout(network),
        logits_eval=gaps[0],
        logits_train=gaps[1],
        statistics=statistics,
    )


def made(reference: Any, name: str, size: int) -> nn.Module:
    """The reference code's network; only its constructor knows the one for small images."""
    settings = {"num_classes": CLASSES, "window_size": WINDOWS[size]}
    large = size > 64
    if name == "alter_resnet50_cifar":
        model: nn.Module = reference.AlterNet(
            reference.preresnet_dnn.Bottleneck,
            reference.AttentionBlockB,
            stem=partial(reference.StemB, pool=large),
            num_blocks=(3, 4, 6, 4),
            num_blocks2=(0, 1, 1, 2),
            heads=(3, 6, 12, 24),
            **settings,
        )
        return model
    make: Callable[..., nn.Module] = getattr(reference, name.replace("alter_resnet", "dnn_"))
    return make(stem=large, **settings)


def shake(model: nn.Module) -> None:
    """Give norms weights and statistics that are not all zeros and ones, so that none can stand for another."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.uniform_(module.weight, 0.8, 1.2)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)


def renamed(network: Network, theirs: nn.Module) -> Iterator[tuple[str, str]]:
    """What each module of the reference's network is called in ours."""
    yield from {"layer0.layer0.0": "stem.conv", "classifier.0.bn": "norm", "classifier.0.dense": "head.fc"}.items()
    for number, stage in enumerate(network.stages, start=1):
        for index, block in enumerate(stage.blocks):
            path = f"layer{number}.{index}"
            kind = type(theirs.get_submodule(path)).__name__
            for there, here in NAMES.get(kind, NAMES["attention"]).items():
                yield f"{path}.{there}", f"{block.path}.{here}"


def translated(theirs: nn.Module, names: dict[str, str]) -> dict[str, Tensor]:
    """The reference's weights under our names; those of queries and of keys and values become one."""
    weights = dict(theirs.state_dict())
    found = {}
    for name in [name for name in weights if name.endswith("attn.pos_embedding")]:
        inside = name.removesuffix("attn.pos_embedding")
        path = names[f"{inside}conv"].removesuffix(".conv")
        halves = [weights.pop(f"{inside}attn.attn.{part}.weight") for part in ("to_q", "to_kv")]
        found[f"{path}.attention.qkv.weight"] = torch.cat(halves)
        found[f"{path}.attention.position_bias"] = weights.pop(name)
    fc = names["classifier.0.dense"]
    for name, weight in weights.items():
        module, _, last = name.rpartition(".")
        here = f"{names[module]}.{last}"
        found[here] = weight[:, :, None, None] if here == f"{fc}.weight" else weight
    return found


def gap(found: Tensor, expected: Tensor) -> float:
    """The largest difference between two tensors."""
    return float((found - expected).abs().max())


if __name__ == "__main__":
    sys.exit(main())
