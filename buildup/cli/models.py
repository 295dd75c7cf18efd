"""`models`: which names of timm can be a base, and for the others why not."""

from importlib.metadata import version

from buildup.cli.output import AsJson, answer
from buildup.errors import counted


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
        what = f"names like {pattern}" if pattern else f"convolutional names of timm {version('timm')} and buildup"
        lines += ["", f"{len(fit)} of {len(rows)} {what} can be a base."]
    return answer("\n".join(lines), rows, as_json=as_json)
