"""`bench train`: images a second of a plain loop, of the same with mixed precision, and of ours."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from buildup.engine.problems import Problems
from buildup.graph.layout import layout
from buildup.models.read import read
from buildup.space.load import load
from buildup.store.run_dir import cores
from buildup.strategies.moves import from_layout
from buildup.training.bench import Row, bench
from buildup.training.device import check_device
from buildup.training.recipe import load_recipe

LOADERS = 8
"""Processes that load data for the plain loops beside a GPU. A CPU's cores are all busy with the step."""


def bench_train(flags: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The rows of the bench, as text and as values."""
    problems = Problems()
    size = problems.whole("--size", flags["size"], 32, least=8, most=1024)
    classes = problems.whole("--classes", flags["classes"], 100, least=2, most=100_000)
    sizes = [problems.whole("--batch", text, 96, least=2, most=65_536) for text in (flags["batch"] or "96").split(",")]
    network, recipe, device = None, None, "cpu"
    with problems.caught():
        network = read(flags["base"] or "resnet50", input_shape=(3, size, size), num_classes=classes)
        if flags["layout"]:
            network = from_layout(flags["layout"], network, load("alternet"))
    with problems.caught():
        recipe = load_recipe(flags["recipe"] or "paper")
    with problems.caught():
        device = check_device(flags["device"] or "auto")
    problems.raise_any()
    assert network is not None
    assert recipe is not None
    on_gpu = device.startswith("cuda")
    rows = [
        row
        for batch in sizes
        for row in bench(
            network,
            layout(network),
            recipe,
            batch=batch,
            device=device,
            threads=cores(),
            workers=min(LOADERS, cores()) if on_gpu else 0,
        )
    ]
    return _text(rows), {"recipe": recipe.name, "image_size": size, "rows": [asdict(row) for row in rows]}


def _text(rows: list[Row]) -> str:
    lines = [f"{'variant':8} {'batch':>5} {'images/s':>9} {'data':>6} {'MiB':>7} {'of matrix rate':>14}  execution"]
    lines += [
        f"{row.variant:8} {row.batch:5} {row.images_per_s:9.1f} {row.data_share:6.1%} {row.peak_mib:7.0f} "
        f"{row.matrix_share:14.1%}  {row.execution}"
        for row in rows
    ]
    first = rows[0]
    return "\n".join([f"{first.base} {first.layout} on {first.device}, data and augmentation included", *lines])
