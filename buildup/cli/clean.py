"""`buildup clean`."""

from typing import Annotated

from cyclopts import Parameter

from buildup.cli.output import AsJson, answer

DryRun = Annotated[bool, Parameter(name="--dry-run", help="Only say what would be removed.")]


def clean(*runs: str, dry_run: DryRun = False, as_json: AsJson = False) -> int:
    """Remove the weights of networks that lost, and what ended processes left behind.

    Example: buildup clean demo --dry-run

    Args:
        runs: Names in runs/, or run folders.
    """
    from buildup.engine.clean import clean_runs
    from buildup.report.words import memory

    gone, stays = clean_runs(runs, dry_run=dry_run)
    freed = sum(one.size for one in gone)
    rows = [{"path": one.shown, "what": one.what, "size": one.size} for one in gone]
    values = {"would_remove" if dry_run else "removed": rows, "bytes": freed, "stays": stays}
    lines = [f"{memory(one.size):>8}  {one.what}  {one.shown}" for one in gone]
    said = "would be freed; nothing was removed" if dry_run else "were freed"
    return answer("\n".join([*lines, *stays, f"{memory(freed)} {said}."]), values, as_json=as_json)
