"""Cache of what was read from timm models, because loading torch and timm takes seconds.

They are loaded only for what is not in the cache.
"""

import hashlib
import logging
from contextlib import suppress
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import buildup
from buildup.errors import LayoutError, RequestError, unknown
from buildup.files import recall, remember, user_cache
from buildup.graph.network import Network
from buildup.graph.serialize import network_from_values, network_to_values
from buildup.trials.training import Candidate

log = logging.getLogger("buildup")

READERS = ("bases.py", "read.py", "stages.py", "stem.py", "trace.py")
"""The files of `models/` that read timm models. The cache is renewed when they change."""
PIXELS, CLASSES = 32, 100
"""The input of cached graphs: that of CIFAR-100, as in the paper. A table of scores does not name an input."""


def cached_graph(base: str, stem: Literal["auto", "small", "base"]) -> Network:
    place = _place(f"graph-{base.replace('/', '_')}-{stem}")
    with suppress(LayoutError):  # not in the cache, or of another version
        return network_from_values(recall(place))
    from buildup.models.read import read_network

    network = read_network(base, input_shape=(3, PIXELS, PIXELS), num_classes=CLASSES, stem=stem)
    remember(place, network_to_values(network))
    return network


def base_models(pattern: str | None) -> list[dict[str, Any]]:
    """The timm models with what is known of them as bases, one row per name, sorted.

    In a pattern * stands for any letters; None is for all convolutional models.
    """
    place = _place("models")
    known = recall(place)
    known = known if isinstance(known, dict) else {}
    if pattern is None:
        is_known = bool(known.get("complete"))
    else:
        is_known = bool(known) and all(name in known["rows"] for name in known["families"] if fnmatch(name, pattern))
    if not is_known:
        from buildup.models.bases import judge_bases

        if pattern is None:
            log.info("Reading all convolutional models of timm, which takes minutes the first time ...")
        known = judge_bases(known, pattern)
        remember(place, known)
    rows = [
        {key: value for key, value in row.items() if key != "convolutional"}
        for name, row in sorted(known["rows"].items())
        if (fnmatch(name, pattern) if pattern else row["convolutional"])
    ]
    if not rows:
        raise RequestError(unknown("model", str(pattern), known["families"], listed_by="`buildup models`"))
    return rows


def _place(name: str) -> Path:
    models = Path(buildup.__file__).parent / "models"
    digest = hashlib.sha256(b"".join((models / name).read_bytes() for name in READERS)).hexdigest()
    return user_cache() / f"timm-{version('timm')}-{digest[:8]}" / f"{name}.json"


def costs_of(candidate: Candidate) -> tuple[int, int]:
    """Parameters and MACs of a candidate. The study holds those of candidates that were trained."""
    from buildup.models.cost import cost

    return cost(candidate.network)
