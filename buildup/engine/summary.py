"""What a search came to, in words and as values."""

from typing import Any

from buildup.engine.search import SearchResult
from buildup.report.text_table import decisions_table


def summary(result: SearchResult) -> str:
    """The decisions and what to look at next; of a search that stopped early, how to go on."""
    record, view = result.record, result.view
    if not view.finished:
        return f"Stopped: {record.reason}. Go on with: buildup resume {record.folder}"
    same = "No replacement was kept: the base stays as it is." if view.best is view.candidates[0] else ""
    lines = [
        decisions_table(view.decisions),
        "",
        f"{record.settings.base} became {view.best.layout}. {same}".strip(),
        *(f"warning: {warning}" for warning in record.warnings),
        "",
        "Next:",
        f"  {record.folder / 'report.html'}  the evidence for each decision, in a browser",
        f"  {record.folder / 'export'}  the network as a timm model; its README.md says how to load it",
        f"  buildup final {record.folder}  train winner and base anew, open the test set once, and say what is proven",
        f"  buildup dashboard {record.folder}  curves and timeline",
        f"  buildup export {record.folder} --to DIR  the same network, or another candidate, elsewhere",
    ]
    return "\n".join(lines)


def result_to_values(result: SearchResult) -> dict[str, Any]:
    """A result as plain values, for JSON."""
    record, view = result.record, result.view
    return {
        "run": str(record.folder),
        "status": record.status,
        "reason": record.reason,
        "base": record.settings.base,
        "dataset": record.settings.dataset,
        "layout": view.best.layout,
        "fingerprint": view.best.id,
        "trainings": len(result.history.outcomes),
        "verdicts": [
            {"step": decision.step, "layout": decision.layout, "verdict": decision.verdict, "reason": decision.reason}
            for decision in view.decisions
        ],
        "warnings": list(record.warnings),
    }
