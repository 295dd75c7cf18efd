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
    from buildup.engine import clean as engine
    from buildup.engine.problems import Problems
    from buildup.report.words import memory
    from buildup.store.run_record import open_record

    problems = Problems()
    if not runs:
        problems.found.append("clean: RUN is missing. See buildup clean --help.")
    records = [record for name in dict.fromkeys(runs) if (record := problems.checked(None, open_record, name))]
    looked = [both for record in records if (both := problems.checked(None, engine.leftovers, record))]
    problems.raise_any()
    found = [*engine.left_work(), *(one for own, _ in looked for one in own)]
    gone = found if dry_run else engine.remove_leftovers(records)
    freed, stays = sum(one.size for one in gone), [sentence for _, sentence in looked]
    rows = [{"path": one.shown, "what": one.what, "size": one.size} for one in gone]
    values = {"would_remove" if dry_run else "removed": rows, "bytes": freed, "stays": stays}
    lines = [f"{memory(one.size):>8}  {one.what}  {one.shown}" for one in gone]
    said = "would be freed; nothing was removed" if dry_run else "were freed"
    return answer("\n".join([*lines, *stays, f"{memory(freed)} {said}."]), values, as_json=as_json)
