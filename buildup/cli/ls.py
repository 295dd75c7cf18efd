"""`buildup ls`."""

import time
from pathlib import Path

from buildup.cli.output import AsJson, answer, table_width


def ls(folder: str = "runs", /, *, as_json: AsJson = False) -> int:
    """The runs in a folder with status, verdicts, size and age.

    Example: buildup ls

    Args:
        folder: Where to look.
    """
    from buildup.engine.status import list_runs
    from buildup.report.text_table import TextTable
    from buildup.report.words import clean, duration, memory

    rows = list_runs(Path(folder))
    if not rows:
        return answer(f"{folder}: there are no runs here.", [], as_json=as_json)
    now = time.time()
    table = TextTable.by_column(
        ("run", "text", (row["run"] for row in rows)),
        ("status", "text", (row["status"] for row in rows)),
        ("base", "text", (row["base"] or "" for row in rows)),
        ("dataset", "text", (row["dataset"] or "" for row in rows)),
        ("size", "number", (memory(row["size"]) for row in rows)),
        ("changed", "number", (f"{duration(max(0.0, now - row['changed']))} ago" for row in rows)),
        ("verdicts", "text", ("" if row["status"] == "damaged" else row["verdict"] for row in rows)),
    )
    damaged = [clean(row["verdict"]) for row in rows if row["status"] == "damaged"]
    lines = [table.text(width=table_width(verbose=False), less=("size", "changed", "dataset")), *damaged]
    return answer("\n".join(lines), rows, as_json=as_json)
