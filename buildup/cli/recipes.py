"""`recipes` and `spaces`: what ships of both, and their files to copy and change."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from buildup.cli.output import AsJson, answer
from buildup.files import is_file_name

AsYaml = Annotated[bool, Parameter(name="--yaml", help="Print the file, to copy and to change.")]


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

    if name and is_file_name(name):
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
