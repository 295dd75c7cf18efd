"""The name of a base as people write it: a timm name, and in parentheses further arguments of timm's `create_model`."""

import ast
import re
from collections.abc import Mapping
from typing import Any

from buildup.errors import BaseError

RESERVED_ARGUMENTS = frozenset({"device", "features_only", "in_chans", "num_classes", "pretrained"})
"""Arguments of timm's `create_model` that are no settings of a base."""


def parse_base(text: str) -> tuple[str, dict[str, Any]]:
    """A base's name in timm and its arguments.

    >>> parse_base("resnetv2_18(stem_chs=16, channels=[16, 32, 64])")
    ('resnetv2_18', {'stem_chs': 16, 'channels': [16, 32, 64]})
    """
    name, bracket, _ = text.partition("(")
    if not bracket:
        return text, {}
    try:
        call = ast.parse(f"base{text[len(name) :]}".strip(), mode="eval").body
        if not isinstance(call, ast.Call) or call.args or not isinstance(call.func, ast.Name):
            raise ValueError
        arguments = {part.arg: ast.literal_eval(part.value) for part in call.keywords if part.arg}
        if not name or len(arguments) < len(call.keywords):
            raise ValueError
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise BaseError(
            f"{text}: after the name, arguments of the model can stand as in Python, with plain values, and quoted for "
            "a shell: 'resnetv2_18(stem_chs=16, channels=[16, 32, 64], layers=[2, 2, 2])'."
        ) from error
    if reserved := sorted(arguments.keys() & RESERVED_ARGUMENTS):
        raise BaseError(f"{text}: {', '.join(reserved)} can't be given here; the dataset and other flags say it.")
    return name.strip(), arguments


def base_text(name: str, arguments: Mapping[str, Any]) -> str:
    """The reverse of `parse_base`, always with the same spaces."""
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})" if arguments else name


def split_names(text: str) -> list[str]:
    """Names that are joined by commas, of which those inside of brackets do not count.

    >>> split_names("demo:0,resnet18(channels=[8, 16, 32, 64]),other")
    ['demo:0', 'resnet18(channels=[8, 16, 32, 64])', 'other']
    """
    names, depth = [""], 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth <= 0:
            names.append("")
        else:
            names[-1] += letter
    return [name for name in names if name]


def base_in_path(text: str) -> str:
    """A base as part of a file name: without the brackets and commas of its arguments.

    >>> base_in_path("resnet18(channels=[8, 16])")
    'resnet18-channels-8-16'
    """
    return re.sub(r"[^\w.]+", "-", text).strip("-")
