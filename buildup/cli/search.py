"""`buildup search` and `buildup resume`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from buildup.cli.output import AsJson, Flags, From, RunName, Verbose, answer, reading, table_width, using_ray
from buildup.errors import command
from buildup.settings import ResumeSettings, SearchSettings

if TYPE_CHECKING:
    from buildup.engine.search import SearchResult


def search(
    settings: Annotated[SearchSettings, Flags] = SearchSettings(),
    *,
    from_: From = None,
    verbose: Verbose = False,
    as_json: AsJson = False,
) -> int:
    """Find out where attention helps, and export the network.

    Example: buildup search --base resnet6 --dataset cued-digits --recipe quick-plain --epochs 4 --seeds 2 --run demo
    """
    reading(settings.base)
    from buildup.engine.search import run_search
    from buildup.store.run_dir import folder_for

    folder = folder_for(settings)
    return _finish(folder, lambda: run_search(settings, verbose=verbose), verbose=verbose, as_json=as_json)


def resume(
    run: RunName,
    /,
    settings: Annotated[ResumeSettings, Flags] = ResumeSettings(),
    *,
    verbose: Verbose = False,
    as_json: AsJson = False,
) -> int:
    """Go on with a run after any stop, kill or crash, or take it further.

    Example: buildup resume demo --seeds 6
    """
    from buildup.store.run_record import open_record

    record = open_record(run)
    reading(str(record.folder))
    from buildup.engine.search import resume_search

    return _finish(
        record.folder, lambda: resume_search(record, settings, verbose=verbose), verbose=verbose, as_json=as_json
    )


def _finish(folder: Path, work: Callable[[], "SearchResult"], *, verbose: bool, as_json: bool) -> int:
    from buildup.engine.summaries import result_to_values, summary

    def message() -> str:
        started = (folder / "run.yaml").exists()
        return (
            f"Interrupted. Go on with: {command('resume', folder)}" if started else "Interrupted; nothing was written."
        )

    with using_ray(message):
        result = work()
    return answer(summary(result, width=table_width(verbose=verbose)), result_to_values(result), as_json=as_json)
