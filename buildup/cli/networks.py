"""The commands that need no run: `graph`, `models`, `spaces`, `recipes`, `train` and `doctor`."""

from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from buildup.cli.output import AsJson, Flags, answer, interruptible, log, reading
from buildup.errors import counted
from buildup.settings import TrainSettings

AsYaml = Annotated[bool, Parameter(name="--yaml", help="Print the file, to copy and to change.")]
MARKS = {"ok": "ok   ", "note": "note ", "fails": "FAILS"}


def graph(
    base: str,
    /,
    *,
    dataset: str | None = None,
    data_dir: str | None = None,
    space: str = "alternet",
    layout: str | None = None,
    size: int | None = None,
    stem: str = "auto",
    format: str = "text",
    as_json: AsJson = False,
) -> int:
    """The staged graph of a base or a layout.

    Example: buildup graph resnet50 --dataset cifar100

    Args:
        base: A timm model.
        dataset: digits, cifar10, cifar100, folder:DIR, csv:FILE, torch/NAME, hfds/NAME or wds:DIR.
        data_dir: Where cifar10 and cifar100 are, or are downloaded to.
        space: What may be searched: a name that `buildup spaces` lists, or a YAML file.
        layout: Show this layout of the base, such as 'CC|CC|CM|CM'.
        size: Input size, where no dataset is given (default: 224).
        stem: auto (small at up to 64 px), small or base.
        format: text, json, dot or svg.
    """
    reading(base)
    from buildup.engine.problems import Problems
    from buildup.engine.staged_graph import staged_graph
    from buildup.graph.serialize import network_to_values
    from buildup.report.diagram import graph_dot, graph_svg
    from buildup.report.text_table import graph_text

    problems = Problems()
    form = problems.choice("format", format, "text", ("text", "json", "dot", "svg"))
    with problems.caught():
        network, tries = staged_graph(
            base, layout=layout, space=space, dataset=dataset, data_dir=data_dir, size=size, stem=stem
        )
    problems.raise_any()
    match form:
        case "dot":
            text = graph_dot(network)
        case "svg":
            text = graph_svg(network, base)
        case _:
            text = graph_text(network, tries)
    return answer(text, network_to_values(network), as_json=as_json or form == "json")


def models(pattern: str | None = None, /, *, as_json: AsJson = False) -> int:
    """Which timm names can be a base, and for the others why not.

    Example: buildup models 'resnet*'

    Args:
        pattern: Names to list, with * for any letters (default: all convolutional ones).
    """
    from buildup.engine.graph_cache import base_models

    rows = base_models(pattern)
    fit = [row for row in rows if row["supported"]]
    width = max((len(row["name"]) for row in fit), default=0)
    lines = [
        f"{row['name']:{width}}  {counted(row['stages'], 'stage')}, "
        f"{counted(row['positions'], 'block')} can be replaced"
        for row in fit
    ]
    lines += [row["reason"] for row in rows if not row["supported"]]
    if len(rows) > 1:
        what = f"names like {pattern}" if pattern else f"convolutional names of timm {version('timm')}"
        lines += ["", f"{len(fit)} of {len(rows)} {what} can be a base."]
    return answer("\n".join(lines), rows, as_json=as_json)


def recipes(name: str | None = None, /, *, as_yaml: AsYaml = False, as_json: AsJson = False) -> int:
    """The recipes that ship or are installed, or all settings of one.

    Example: buildup recipes paper --yaml

    Args:
        name: A recipe, or a YAML file (default: all recipes).
    """
    from buildup.training.recipe import RECIPES, load_recipe, recipe_to_values, shipped_recipes

    loaded = [load_recipe(name)] if name else RECIPES.values()
    values = [recipe_to_values(recipe) for recipe in loaded]
    if as_yaml:
        changed = {one["name"]: {key: value for key, value in one.items() if key != "name"} for one in values}
        return answer(_yaml(changed, shipped_recipes(), name), values, as_json=as_json)
    if name:
        return answer("\n".join(f"{key}: {value}" for key, value in values[0].items()), values, as_json=as_json)
    lines = [f"{recipe.name}: {recipe.description}" for recipe in loaded]
    more = "A recipe of your own is a YAML file, which may extend one of these (extends: NAME): --recipe FILE."
    return answer("\n".join([*lines, "", more]), values, as_json=as_json)


def spaces(name: str | None = None, /, *, as_yaml: AsYaml = False, as_json: AsJson = False) -> int:
    """The search spaces that ship, and what each allows.

    Example: buildup spaces kernels --yaml

    Args:
        name: A space, or a YAML file (default: all spaces).
    """
    from buildup.space.load import load, shipped
    from buildup.space.schema import describe_spaces

    loaded = {space.name: space for space in map(load, [name] if name else shipped())}
    files = {one: shipped().get(one, Path(name or "")) for one in loaded}
    values = [{**asdict(space), "file": str(files[one])} for one, space in loaded.items()]
    text = _yaml({}, files, name) if as_yaml else describe_spaces(loaded)
    return answer(text, values, as_json=as_json)


def _yaml(values: Mapping[str, Mapping[str, Any]], files: Mapping[str, Path], name: str | None) -> str:
    """The files of what was named, or of all; values of what a package offers without a file."""
    import yaml

    if name and Path(name).suffix in {".yaml", ".yml"}:
        return Path(name).read_text(encoding="utf-8").rstrip()
    texts = {
        one: files[one].read_text(encoding="utf-8")
        if one in files
        else yaml.safe_dump(dict(values[one]), sort_keys=False)
        for one in ([name] if name else dict.fromkeys([*values, *files]))
    }
    if name:
        return texts[name].rstrip()
    return "\n---\n".join(f"# {one}.yaml\n{text.rstrip()}" for one, text in texts.items())


def train(name: str, /, settings: Annotated[TrainSettings, Flags] = TrainSettings(), *, as_json: AsJson = False) -> int:
    """One training of any timm model or layout; the same command goes on after a stop.

    Example: buildup train resnet18 --layout 'CC|CC|CM|CM' --dataset digits --epochs 6

    Args:
        name: A timm model, also vit_tiny_cifar, pit_, swin_, mixer_tiny_cifar and resnet50_cifar.
    """
    reading(name)
    from buildup.engine.train import train_once, trained_values
    from buildup.report.words import duration

    with interruptible():
        found = train_once(name, settings)
    score = found.score
    width = max(map(len, score.metrics))
    lines = [
        f"{score.accuracy:.2f} % of {score.images:,} validation images after {found.epochs} epochs, "
        f"{duration(score.seconds)}.",
        *(f"  {name:{width}}  {value:.4g}" for name, value in score.metrics.items()),
        f"Weights: {found.weights}",
    ]
    return answer("\n".join(lines), trained_values(found), as_json=as_json)


def doctor(
    *,
    dataset: str | None = None,
    data_dir: str | None = None,
    storage: str | None = None,
    ray: str | None = None,
    as_json: AsJson = False,
) -> int:
    """What works here, what does not, and what to do; exits with 1 where no search could run.

    Example: buildup doctor --dataset cifar100

    Args:
        dataset: digits, cifar10, cifar100, folder:DIR, csv:FILE, torch/NAME, hfds/NAME or wds:DIR.
        data_dir: Where cifar10 and cifar100 are, or are downloaded to.
        storage: An Optuna storage to try.
        ray: Address of a Ray cluster to try.
    """
    log.info("Checking this machine ...")
    from buildup.engine.doctor import check_machine

    checks = check_machine(dataset=dataset, data_dir=data_dir, storage=storage, ray=ray)
    lines = []
    for check in checks:
        lines.append(f"{MARKS[check.state]}  {check.name:<10} {check.found}")
        lines += [f"                  {line}" for line in check.advice.splitlines()]
    healthy = all(check.state != "fails" for check in checks)
    lines += ["", "A search can run here." if healthy else "A search can't run here yet: see what FAILS."]
    return answer("\n".join(lines), [asdict(check) for check in checks], as_json=as_json, code=0 if healthy else 1)
