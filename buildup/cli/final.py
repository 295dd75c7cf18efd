"""`buildup final`."""

from typing import Annotated

from buildup.cli.output import AsJson, Flags, RunName, Verbose, answer, reading, table_width, using_ray
from buildup.errors import command
from buildup.settings import FinalSettings


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
    with using_ray(lambda: f"Interrupted. Go on with: {command('final', folder)}"):
        found = run_final(record, settings, verbose=verbose)
    if found is None:
        text = f"{folder}: the winner is the base itself, so there is nothing to claim. The test set stays closed."
        return answer(text, {"run": str(folder), "verdict": text, "claims": []}, as_json=as_json)
    values = {"run": str(folder), **final_to_values(found)}
    return answer(
        f"{final_table(found, width=table_width(verbose=verbose))}\n\n{found.verdict}", values, as_json=as_json
    )
