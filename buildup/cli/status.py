"""`buildup status`."""

from buildup.cli.output import AsJson, answer


def status(run: str, /, *, as_json: AsJson = False) -> int:
    """Say what runs, what was decided and what is left.

    Example: buildup status demo

    Args:
        run: A name in runs/, or a run's folder.
    """
    from buildup.engine.summaries import status_text, status_values
    from buildup.store.run_record import open_record

    record = open_record(run)
    values = status_values(record)
    return answer(status_text(record, values), values, as_json=as_json)
