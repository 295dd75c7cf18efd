"""`graph` and `spaces`: what there is to search, shown before anything is searched."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, Literal, cast

from buildup.engine.problems import Problems
from buildup.graph.kinds import known_kinds
from buildup.graph.serialize import network_to_values
from buildup.models.read import read
from buildup.report.diagram import graph_dot, graph_svg
from buildup.report.text_table import graph_text
from buildup.space.describe import how_it_walks, tuned
from buildup.space.load import load, shipped
from buildup.space.schema import OWN, STEMS, SearchSpace, settable
from buildup.strategies.moves import from_layout, moves, start
from buildup.training.data import describe_data

StemChoice = Literal["auto", "small", "base"]
FORMATS = ("text", "json", "dot", "svg")


def graph(flags: Mapping[str, Any]) -> tuple[str, Any]:
    """The staged graph of a base or of a layout of it."""
    problems = Problems()
    form = problems.choice("format", flags["format"], "json" if flags["json"] else "text", FORMATS)
    size = problems.whole("--size", flags["size"], 224, least=8, most=4096)
    stem = cast(StemChoice, problems.choice("stem", flags["stem"], "auto", STEMS))
    if flags["dataset"] and flags["size"]:
        problems.found.append("--size and --dataset: the dataset says how large its images are. Leave one out.")
    shape, classes = (3, size, size), 1000
    with problems.caught():
        if flags["dataset"]:
            data = describe_data(flags["dataset"], flags["data_dir"])
            shape, classes = (data.channels, data.image_size, data.image_size), data.num_classes
    space = None
    with problems.caught():
        space = load(flags["space"] or "alternet")
    network = None
    tries: tuple[str, ...] = ()
    with problems.caught():
        network = read(flags["base"], input_shape=shape, num_classes=classes, stem=stem)
        if space:
            begin = start(network, space)
            tries = tuple(move.path for stage in reversed(moves(begin, space)) for move in stage)
            network = from_layout(flags["layout"], network, space) if flags["layout"] else begin
    problems.raise_any()
    assert network is not None
    values = network_to_values(network)
    texts = {
        "text": lambda: graph_text(network, tries),
        "json": lambda: json.dumps(values, indent=2),
        "dot": lambda: graph_dot(network),
        "svg": lambda: graph_svg(network),
    }
    return texts[form](), values


def spaces(flags: Mapping[str, Any]) -> tuple[str, Any]:
    """The spaces that ship."""
    loaded = {name: load(name) for name in shipped()}
    lines = []
    for name, space in loaded.items():
        lines += [f"{name}: {space.description}", *(f"    {line}" for line in _allows(space))]
    lines += ["", "A space of your own is a YAML file with the same keys: --space FILE."]
    return "\n".join(lines), [{**asdict(space), "file": str(shipped()[name])} for name, space in loaded.items()]


def _allows(space: SearchSpace) -> Iterator[str]:
    """What a space allows, in a few lines."""
    kinds = " and ".join(f"{letter} ({known_kinds()[letter].name})" for letter in space.placed)
    if space.place == "end":
        yield f"one more block of kind {kinds} at the end of each stage"
    else:
        yield f"kind {kinds} at every {_ordinal(space.step)} block from a stage's end"
    yield how_it_walks(space)
    had = {name for letter in space.kinds for name in settable(letter)}
    asked = {name: space.asked(name) for name in (*OWN, *dict(space.settings)) if name in had}
    settings = [f"{name.replace('_', ' ')} {value}" for name, value in asked.items() if value is not None]
    yield ", ".join([*settings, f"stem {space.stem}", f"judge {space.judge}"])
    if space.tune:
        yield f"where a block was kept: {tuned(space.tune)}"
    if space.stages:
        wishes = ({key: value for key, value in asdict(stage).items() if value is not None} for stage in space.stages)
        yield "stages " + "; ".join(", ".join(f"{k} {v}" for k, v in wish.items()) or "as they are" for wish in wishes)


def _ordinal(number: int) -> str:
    return {1: "1st", 2: "2nd", 3: "3rd"}.get(number, f"{number}th")
