"""How a command answers: text for people, or one JSON document on stdout."""

import json
from typing import Annotated, Any

from cyclopts import Parameter

AsJson = Annotated[bool, Parameter(name="--json", help="Print one JSON document on stdout; messages go to stderr.")]
Verbose = Annotated[bool, Parameter(name="--verbose", help="Show what Ray says, too.")]
Flags = Parameter(name="*")
"""Makes the fields of a settings dataclass the flags of a command."""


def answer(text: str, values: Any, *, as_json: bool, code: int = 0) -> int:
    """Print an answer, and give back its exit code."""
    print(json.dumps(values, indent=2, ensure_ascii=False) if as_json else text)
    return code
