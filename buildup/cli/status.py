"""`buildup status`."""

from buildup.cli.output import AsJson, RunName, answer


def status(run: RunName, /, *, as_json: AsJson = False) -> int:
    """Say what runs, what was decided and what is left.

    Example: buildup status demo
    """
    from buildup.engine.summaries import status_text, status_values
    from buildup.store.run_record import open_record

    record = open_record(run)
    values = status_values(record)
    return answer(status_text(record, values), values, as_json=as_json)
