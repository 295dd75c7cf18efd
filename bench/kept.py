"""What does a trained network still know after a block was replaced, before anything but that block has learned?

    python bench/kept.py WEIGHTS --base BASE --dataset NAME --fraction 1/4

replaces the last block of each stage by each kind, one at a time: with random weights, and after it has learned to give
the base's features, as recipe `finetune` has it. The weights are those of a training on the same dataset with the
same seed, so that the validation images are new to them. Prints a line of JSON for each.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from buildup.graph.network import Network
from buildup.models.pretrained import find_pretrained
from buildup.models.read import read_network
from buildup.training.data import describe_data, open_data
from buildup.training.dataset import Dataset, parse_fraction, split
from buildup.training.execution import keep_freed_memory
from buildup.training.execution_words import Execution
from buildup.training.feed import Feed
from buildup.training.recipe import load_recipe
from buildup.training.train_step import Stepper, create_training_model, make_optimizer, prepare_model
from buildup.training.transplant import transplant
from buildup.training.validation import validate
from buildup.trials.training import Pretrained

STEPS = 10
"""Of an epoch of the base, that are timed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the flags, replace and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", metavar="WEIGHTS", help="a file of `buildup train`")
    parser.add_argument("--base", required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--data-dir")
    parser.add_argument("--fraction", default="1", help="of the training images (default: all)")
    parser.add_argument("--kinds", nargs="*", default=["M", "G", "T"], help="(default: M G T)")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="bf16")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    keep_freed_memory()
    for line in measured(given):
        print(json.dumps(line), flush=True)
    return 0


def measured(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The base, and then the network with each block replaced."""
    info = describe_data(given.dataset, given.data_dir)
    shape = (info.channels, info.image_size, info.image_size)
    base = read_network(given.base, input_shape=shape, num_classes=info.num_classes)
    start = find_pretrained(base, given.base, str(Path(given.weights).absolute()))
    recipe = load_recipe("finetune")
    dataset = open_data(given.dataset, given.data_dir, info.image_size, recipe)
    assert isinstance(dataset, Dataset)
    train, val = split(dataset, 0, fraction=parse_fraction(given.fraction))
    recipe = recipe.resolved(train_images=len(train))
    feed = Feed(recipe=recipe, dataset=dataset, train=train, val=val, seed=0, device=torch.device("cpu"))
    execution = Execution(precision=given.precision, channels_last=True, steps="eager")
    whole = accuracy(base, start, feed, execution)
    training = seconds_of_training(base, start, feed, execution)
    yield {"place": "the base", "accuracy": whole, "training_seconds": round(training)}
    for kind in given.kinds:
        for stage in base.stages:
            path = stage.blocks[-1].path
            network = base.replace(path, kind)
            found: dict[str, Any] = {"place": path, "kind": kind}
            found["at_random"] = accuracy(network, start, feed, execution)
            began, errors = time.process_time(), list[float]()
            found["accuracy"] = accuracy(network, start, feed, execution, errors)
            seconds = time.process_time() - began
            found |= {"kept": round(found["accuracy"] / whole, 4), "error": round(errors[0], 4) if errors else None}
            yield found | {"share_of_a_training": round(seconds / training, 4)}


def accuracy(
    network: Network, start: Pretrained, feed: Feed, execution: Execution, errors: list[float] | None = None
) -> float:
    """In percent of the validation images; after imitation, if its error is asked for, which blocks that learn have."""
    model = prepare_model(
        create_training_model(network, feed.recipe, seed=feed.seed, device=feed.device, start=start), network, execution
    )
    if errors is not None and (error := transplant(model, network, start, feed, execution)) is not None:
        errors.append(error)
    return round(validate(model, feed, execution).accuracy, 2)


def seconds_of_training(network: Network, start: Pretrained, feed: Feed, execution: Execution) -> float:
    """How long a training of the base takes, without its validation, by some of its steps."""
    recipe = feed.recipe
    model = create_training_model(network, recipe, seed=feed.seed, device=feed.device, start=start)
    model = prepare_model(model, network, execution).train()
    stepper = Stepper(model, make_optimizer(model, recipe, execution), recipe, execution)
    batches = feed.epoch(1)
    stepper(*next(batches), lr=0.0)
    began, images = time.process_time(), 0
    for inputs, targets in (next(batches) for _ in range(STEPS)):
        stepper(inputs, targets, lr=0.0)
        images += len(inputs)
    return (time.process_time() - began) / images * len(feed.train) * recipe.epochs


if __name__ == "__main__":
    sys.exit(main())
