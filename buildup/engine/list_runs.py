"""List the runs on this disk, without opening their studies."""

from pathlib import Path
from typing import Any

from buildup.engine.clean import size_of
from buildup.engine.load_state import read_final
from buildup.engine.status import status_of
from buildup.errors import BuildupError
from buildup.store.run_dir import DECISIONS, read_decisions
from buildup.store.run_record import open_record


def list_runs(place: Path) -> list[dict[str, Any]]:
    """What is known of each run in a folder without its study, the newest first."""
    rows = [_row(path.parent) for path in place.glob("*/run.yaml")]
    return sorted(rows, key=lambda row: float(row["changed"]), reverse=True)


def _row(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = {"run": str(folder), "size": size_of(folder)}
    values["changed"] = (folder / "run.yaml").stat().st_mtime
    try:
        run = open_record(str(folder.absolute()))
        final = read_final(folder)
    except BuildupError as problem:
        return {**values, "status": "damaged", "base": None, "dataset": None, "verdict": str(problem)}
    decisions = read_decisions(folder / DECISIONS)
    kept = f"{sum(one.kept for one in decisions)} of {len(decisions)} kept"
    claim = f"{kept}, {'proven' if final.claims[0].claimed else 'not proven'}" if final else kept
    own = {"base": run.settings.base, "dataset": run.settings.dataset}
    return {**values, **own, "status": status_of(run)[0], "verdict": claim, "final": final and final.verdict}
