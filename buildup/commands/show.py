"""`graph`, `models` and `spaces`: what there is to search, shown before anything is searched."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, Literal, cast

from buildup.commands.problems import Problems
from buildup.errors import RequestError, unknown
from buildup.graph.edit import apply, replacement
from buildup.graph.layout import parse
from buildup.graph.network import Network
from buildup.graph.values import network_to_values
from buildup.models.read import bases, catalogue, read, refusal
from buildup.report.diagram import graph_dot, graph_svg
from buildup.report.table import graph_text
from buildup.rules.moves import moves, start
from buildup.space.load import load, shipped
from buildup.space.schema import STEMS
from buildup.training.data import describe_data

StemChoice = Literal["auto", "small", "base"]
SHOWN = 6
"""So many names of a refused group are listed."""
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
    with problems.caught():
        network = read(flags["base"], input_shape=shape, num_classes=classes, stem=stem)
        if space:
            network = start(network, space)
            if flags["layout"]:
                network = _with_layout(network, flags["layout"], flags["space"] or "alternet")
    problems.raise_any()
    assert network is not None
    values = network_to_values(network)
    texts = {
        "text": lambda: graph_text(network),
        "json": lambda: json.dumps(values, indent=2),
        "dot": lambda: graph_dot(network),
        "svg": lambda: graph_svg(network),
    }
    return texts[form](), values


def models(flags: Mapping[str, Any]) -> tuple[str, Any]:
    """Which timm names can be a base, and for the others why not."""
    pattern = flags["pattern"] or "*"
    rows = catalogue(pattern)
    if not rows:
        raise RequestError(unknown("model", pattern, bases()))
    if len(rows) == 1:  # one name is worth a close look
        rows = [replace(rows[0], reason=refusal(rows[0].name))]
    fit = [row for row in rows if row.reason is None]
    others: dict[str, list[str]] = {}
    for row in rows:
        if row.reason is not None:
            others.setdefault(row.reason, []).append(row.name)
    lines = [row.name for row in fit]
    lines += ["", f"{len(fit)} of {len(rows)} can be a base."] if len(rows) > 1 else []
    for reason, names in others.items():
        shown = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
        lines.append(f"{len(names)} can't ({shown}): {reason}")
    values = [
        {"name": row.name, "family": row.family, "supported": row.reason is None, "reason": row.reason} for row in rows
    ]
    return "\n".join(lines).strip(), values


def spaces(flags: Mapping[str, Any]) -> tuple[str, Any]:
    """The spaces that ship."""
    loaded = {name: load(name) for name in shipped()}
    lines = []
    for name, space in loaded.items():
        lines += [
            f"{name}: {space.description}",
            f"    blocks {space.kind}, heads {space.heads} in the first stage and twice as many in each later one, "
            f"head size {space.head_size}, window {space.window}",
            f"    stem {space.stem}, a try at every {_ordinal(space.step)} block from a stage's end, "
            f"look-ahead {space.look_ahead}, judge {space.judge}",
        ]
        if space.stages:
            wishes = (
                {key: value for key, value in asdict(stage).items() if value is not None} for stage in space.stages
            )
            lines.append(
                "    stages "
                + "; ".join(", ".join(f"{k} {v}" for k, v in wish.items()) or "as they are" for wish in wishes)
            )
    lines += ["", "A space of your own is a YAML file with the same keys: --space FILE."]
    return "\n".join(lines), [{**asdict(space), "file": str(shipped()[name])} for name, space in loaded.items()]


def _with_layout(network: Network, text: str, space: str) -> Network:
    """The network with the kinds of a layout, with the settings that the space gives them."""
    wanted = parse(text, network)
    kinds = {move.path: move.kind for stage in moves(network, load(space)) for move in stage}
    # Every place that a layout may name, not only those that the rule would try.
    for stage, letters in zip(network.stages, wanted, strict=True):
        for block, letter in zip(stage.blocks, letters, strict=True):
            if letter == "C":
                continue
            usual = next((kinds[other.path] for other in stage.blocks if other.path in kinds), None)
            kind = kinds.get(block.path, usual)
            if kind is None:
                raise RequestError(f"--layout {text}: space {space} allows no {letter} in {stage.name}.")
            network = apply(network, replacement(network, block.path, kind))
    return network


def _ordinal(number: int) -> str:
    return {1: "1st", 2: "2nd", 3: "3rd"}.get(number, f"{number}th")
