"""The commands on runs and their networks: `ls`, `final`, `report`, `export`, `dashboard`, `clean` and `analyze`."""

import sys
import time
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from buildup.cli.output import AsJson, Flags, RunName, Verbose, answer, interruptible, reading, table_width
from buildup.errors import command
from buildup.settings import AnalyzeSettings, ExportSettings, FinalSettings

if TYPE_CHECKING:
    from buildup.store.run_record import RunRecord

COMPARISON = "comparison.html"
DryRun = Annotated[bool, Parameter(name="--dry-run", help="Only say what would be removed.")]


def export(
    run: RunName, /, settings: Annotated[ExportSettings, Flags] = ExportSettings(), *, as_json: AsJson = False
) -> int:
    """Write the discovered network as a timm model.

    Example: buildup export demo --to alternet-digits
    """
    from buildup.engine.export import export_candidate
    from buildup.store.run_record import open_record

    record = open_record(run)
    candidate = export_candidate(record, settings)
    values = {"folder": settings.to, "layout": candidate.layout, "fingerprint": candidate.id}
    folder = settings.to.rstrip("/")
    lines = [
        f"{settings.to}: {record.settings.base} as {candidate.layout}, read back with equal logits.",
        f"  import buildup.models, timm; timm.create_model({f'local-dir:{settings.to}'!r}, pretrained=True)",
        f"  or, with torch and timm alone, {folder}/alternet.py",
        *([f"  or, with onnxruntime, {folder}/model.onnx"] if settings.onnx else []),
    ]
    return answer("\n".join(lines), values, as_json=as_json)


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


def final(
    run: RunName,
    /,
    settings: Annotated[FinalSettings, Flags] = FinalSettings(),
    *,
    verbose: Verbose = False,
    as_json: AsJson = False,
) -> int:
    """Train base and winner anew, open the test set once, and say what is proven.

    Example: buildup final demo --seeds 5 --control
    """
    from buildup.store.run_record import open_record

    record = open_record(run)
    reading(str(record.folder))
    from buildup.engine.final import run_final
    from buildup.report.text_table import final_table
    from buildup.trials.final_result import final_to_values

    folder = record.folder
    # Ray prints on stdout whatever its settings.
    with interruptible(lambda: f"Interrupted. Go on with: {command('final', folder)}"), redirect_stdout(sys.stderr):
        found = run_final(record, settings, verbose=verbose)
    if found is None:
        text = f"{folder}: the winner is the base itself, so there is nothing to claim. The test set stays closed."
        return answer(text, {"run": str(folder), "verdict": text, "claims": []}, as_json=as_json)
    values = {"run": str(folder), **final_to_values(found)}
    return answer(
        f"{final_table(found, width=table_width(verbose=verbose))}\n\n{found.verdict}", values, as_json=as_json
    )


def report(
    *runs: str,
    file_format: Annotated[str, Parameter(name="--format", help="html, or md to print it.")] = "html",
    to: str | None = None,
    as_json: AsJson = False,
) -> int:
    """Write report.html of a run anew, also while it runs; or compare several runs.

    Example: buildup report demo demo-random --to comparison.html

    Args:
        runs: Names in runs/, or run folders; several are compared.
        to: Where the page goes (default: report.html in the run, or comparison.html beside the runs).
    """
    from buildup.engine.problems import Problems
    from buildup.store.run_dir import folder_of
    from buildup.store.run_record import open_record

    problems = Problems()
    if not runs:
        problems.found.append("report: RUN is missing. See buildup report --help.")
    named = {folder_of(name).absolute(): name for name in runs}
    records = [record for name in named.values() if (record := problems.checked(None, open_record, name))]
    file_format = problems.choice("format", file_format, "html", ("html", "md"))
    if to and file_format == "md":
        problems.found.append("--to is for the page; --format md prints. Leave one of them out.")
    elif to and not Path(to).absolute().parent.is_dir():
        problems.found.append(f"--to {to}: its folder does not exist.")
    problems.raise_any()
    if len(records) > 1:
        return _compare(records, file_format, to, as_json=as_json)

    from buildup.engine.reports import report_of, write_report
    from buildup.report.page import markdown

    if file_format == "md":
        text = markdown(report_of(records[0]))
        return answer(text, {"markdown": text}, as_json=as_json)
    path = write_report(records[0], to)
    return answer(f"{path}: written.", {"report": str(path)}, as_json=as_json)


def _compare(runs: "list[RunRecord]", file_format: str, to: str | None, *, as_json: bool) -> int:
    from buildup.engine.reports import compare_runs
    from buildup.report.compare import comparison_page, comparison_table, comparison_text
    from buildup.report.comparison import comparison_values
    from buildup.store.run_dir import write_atomic

    rows, evidence = compare_runs(runs)
    values = comparison_values(rows)
    if file_format == "md":
        return answer(comparison_text(rows, evidence), values, as_json=as_json)
    path = Path(to) if to else runs[0].folder.parent / COMPARISON
    write_atomic(path, comparison_page(rows, evidence).encode())
    text = f"{comparison_table(rows)}\n\n{path}: written."
    return answer(text, {"report": str(path), **values}, as_json=as_json)


def dashboard(run: RunName, /, *, host: str = "127.0.0.1", port: int = 8080) -> int:
    """Show a run in optuna-dashboard, for this machine only.

    Example: buildup dashboard demo --port 8080

    Args:
        host: Address to listen on.
        port: Port to listen on.
    """
    from buildup.engine.dashboard import serve_dashboard

    with suppress(KeyboardInterrupt), interruptible():
        serve_dashboard(run, host=host, port=port)
    return 0


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


def analyze(
    model: str, /, settings: Annotated[AnalyzeSettings, Flags] = AnalyzeSettings(), *, as_json: AsJson = False
) -> int:
    """The paper's measurements on a run's network or any model of timm; the same command goes on after a stop.

    Example: buildup analyze demo --compare demo:0 --what hessian,fourier --quick

    Args:
        model: A run, RUN:CANDIDATE, the folder of a training or an export, or a timm model. Of a run or a training also
            a phase that its recipe kept: TRAINING@warmup, RUN:CANDIDATE@100, or TRAINING@all for all of them.
    """
    reading(model)
    if settings.verdicts:
        from buildup.engine.analysis.verdicts import diagnose_verdicts, diagnosed_values
        from buildup.report.diagnostic_table import evidence_text

        with interruptible():
            diagnosed = diagnose_verdicts(model, settings)
        kept = ", ".join(map(str, diagnosed.files))
        text = f"{evidence_text(diagnosed.evidence)}\n\nKept in {kept}; `buildup report` of a run shows its own."
        return answer(text, diagnosed_values(diagnosed), as_json=as_json)

    from buildup.engine.analysis.analyze import analysis_values, analyze_model

    with interruptible():
        found = analyze_model(model, settings)
    lines = []
    for what, summaries in found.summaries.items():
        for label, numbers in summaries.items():
            if not isinstance(numbers, str):
                shown = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in numbers.items()}
                numbers = "  ".join(f"{name} {value}" for name, value in shown.items())
            lines.append(f"{what:12} {label}: {numbers}")
    lines.append(f"Numbers and figures: {found.folder}, all of them in {found.folder / 'index.html'}")
    return answer("\n".join(lines), analysis_values(found), as_json=as_json)
