"""Reads search spaces from YAML: shipped ones by name, others by the path of their file."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from buildup.errors import RequestError, SpaceError, unknown
from buildup.files import is_file_name
from buildup.graph.kinds import known_kinds
from buildup.space.schema import SearchSpace, StageSpace, Tuning, settable

INSTALLED = Path(__file__).parent.parent / "search_spaces"
CHECKOUT = Path(__file__).parent.parent.parent / "search_spaces"


def shipped() -> dict[str, Path]:
    """The files of the shipped spaces by name: beside the package in a checkout, inside it when installed."""
    folder = INSTALLED if INSTALLED.is_dir() else CHECKOUT
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load(name: str) -> SearchSpace:
    if is_file_name(name):
        return _read(Path(name))
    if name not in shipped():
        raise SpaceError(unknown("space", name, shipped()) + " A space of your own is given as a path ending in .yaml.")
    return _read(shipped()[name])


def space_from_values(values: dict[str, Any]) -> SearchSpace:
    """The space from the values that `dataclasses.asdict` gives."""
    stages, tune = values.get("stages"), values.get("tune")
    return SearchSpace(
        **{
            **_frozen(values),
            "settings": tuple((name, value) for name, value in values.get("settings", ())),
            "stages": tuple(StageSpace(**stage) for stage in stages) if stages else None,
            "tune": Tuning(**_frozen(tune)) if tune else None,
        }
    )


def read_mapping(path: Path, error: type[RequestError], what: str) -> dict[str, Any]:
    """The mapping in a YAML file; raises `error` if it can't be read or is no mapping."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise error(f"{path}: this {what} can't be read: {problem}.") from None
    try:
        values = yaml.load(text, Loader=_UniqueKeys)  # a SafeLoader
    except (yaml.YAMLError, RecursionError, ValueError) as problem:
        raise error(f"{path}: not valid YAML: {' '.join(str(problem).split())}.") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise error(f"{path}: a {what} is a mapping of names to values, this is {type(values).__name__}.")
    return values


def _read(path: Path) -> SearchSpace:
    values = read_mapping(path, SpaceError, "space file")
    of_kinds = {name for letter in known_kinds() for name in settable(letter)} - _keys(SearchSpace)
    others = tuple((name, values.pop(name)) for name in list(values) if name in of_kinds)
    problems = _unknown_keys(values, SearchSpace, "")
    if not isinstance(values.get("description", ""), str):
        problems.append(f"description is {values['description']!r}; a text is needed.")
    stages = values.pop("stages", None)
    known_stages: list[StageSpace] = []
    if stages is not None and not isinstance(stages, list):
        problems.append(f"stages is {stages!r}; a list with one entry a stage is needed.")
    else:
        for number, stage in enumerate(stages or ()):
            stage = {} if stage is None else stage
            if not isinstance(stage, dict):
                problems.append(f"stages[{number}] is {stage!r}; a mapping is needed.")
                continue
            problems += _unknown_keys(stage, StageSpace, f"stages[{number}]: ")
            known_stages.append(StageSpace(**_known(stage, StageSpace)))
    tune = values.pop("tune", None)
    if tune is not None and not isinstance(tune, dict):
        problems.append(f"tune is {tune!r}; a mapping is needed, such as {{window: [4, 7]}}.")
        tune = None
    problems += _unknown_keys(tune or {}, Tuning, "tune: ")
    tuning = Tuning(**_frozen(_known(tune, Tuning))) if tune is not None else None
    settings = {"name": path.stem, "description": "", **_frozen(_known(values, SearchSpace))}
    try:
        space = SearchSpace(**settings, settings=others, stages=tuple(known_stages) if stages else None, tune=tuning)
    except SpaceError as error:
        problems += error.problems
    if problems:
        raise SpaceError(*(f"{path}: {problem}" for problem in problems))
    return space


def _keys(schema: type) -> set[str]:
    """The fields of a part of a space that stand in its file."""
    return {field.name for field in fields(schema)} - {"name", "settings"}


def _unknown_keys(values: dict[str, Any], schema: type, prefix: str) -> list[str]:
    known = _keys(schema)
    return [f"{prefix}{unknown('key', str(key), known)}" for key in values if key not in known]


def _known(values: dict[str, Any], schema: type) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key in _keys(schema)}


def _frozen(values: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


class _UniqueKeys(yaml.SafeLoader):
    """The safe loader, which also refuses duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool | None):
                raise yaml.constructor.ConstructorError(None, None, "a key must be plain", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)
