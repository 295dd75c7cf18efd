"""Read the graph of a base, or of one of its layouts, without a search."""

from typing import Literal, cast

from buildup.engine.problems import Problems
from buildup.graph.network import Network
from buildup.models.read import read_network
from buildup.space.load import load
from buildup.space.schema import STEMS
from buildup.strategies.moves import from_layout, moves, start
from buildup.training.data import describe_data

StemChoice = Literal["auto", "small", "base"]


def staged_graph(
    base: str,
    *,
    layout: str | None = None,
    space: str = "alternet",
    dataset: str | None = None,
    data_dir: str | None = None,
    size: int | None = None,
    stem: str = "auto",
) -> tuple[Network, tuple[str, ...]]:
    """Read a network, and list the blocks that the rule may replace, in the order that it tries them.

    With a `layout`, the network is that layout of the base, instead of the one that a search starts from. The size of
    the images and the number of classes are those of the dataset; without one, `size` (224 by default) and 1,000.
    """
    problems = Problems()
    pixels = problems.whole("--size", size, 224, least=8, most=4096)
    chosen = cast(StemChoice, problems.choice("stem", stem, "auto", STEMS))
    if dataset and size:
        problems.found.append("--size and --dataset: the dataset says how large its images are. Leave one out.")
    shape, classes = (3, pixels, pixels), 1000
    if dataset and (data := problems.checked(None, describe_data, dataset, data_dir)):
        shape, classes = (data.channels, data.image_size, data.image_size), data.num_classes
    loaded = problems.checked(None, load, space)
    network = None
    tries: tuple[str, ...] = ()
    with problems.caught():
        network = read_network(base, input_shape=shape, num_classes=classes, stem=chosen)
        if loaded:
            begin = start(network, loaded)
            stages = moves(begin, loaded)
            tries = tuple(move.path for number in loaded.stage_order(len(stages)) for move in stages[number])
            network = from_layout(layout, network, loaded) if layout else begin
    problems.raise_any()
    assert network is not None
    return network, tries
