"""Who trains: the evaluator protocol, Ray Tune workers, and a simulation.

Ray reads its way of authentication when it is imported. It takes a token that this machine has for clusters that it
starts, but not for those that it connects to; so it is told here, before any module of this package imports it.
"""

import os
import sys
from pathlib import Path

TOKEN_FILE = Path("~/.ray/auth_token")
"""Where Ray keeps the token of this user's clusters, if not in `RAY_AUTH_TOKEN` or at `RAY_AUTH_TOKEN_PATH`."""


def has_token() -> bool:
    given = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    return bool(given) or TOKEN_FILE.expanduser().is_file()


if has_token() and "ray" not in sys.modules:
    os.environ.setdefault("RAY_AUTH_MODE", "token")
