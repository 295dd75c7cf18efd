"""`buildup report`: one run as a page or as Markdown, or several runs side by side."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from buildup.cli.output import AsJson, answer

if TYPE_CHECKING:
    from buildup.store.run_record import RunRecord

COMPARISON = "comparison.html"


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
    from buildup.files import write_atomic
    from buildup.report.compare import comparison_page, comparison_table, comparison_text
    from buildup.report.comparison import comparison_values

    rows, evidence = compare_runs(runs)
    values = comparison_values(rows)
    if file_format == "md":
        return answer(comparison_text(rows, evidence), values, as_json=as_json)
    path = Path(to) if to else runs[0].folder.parent / COMPARISON
    write_atomic(path, comparison_page(rows, evidence).encode())
    text = f"{comparison_table(rows)}\n\n{path}: written."
    return answer(text, {"report": str(path), **values}, as_json=as_json)
