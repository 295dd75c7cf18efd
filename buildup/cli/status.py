"""`buildup status`."""

from buildup.cli.output import AsJson, Details, RunName, answer, table_width


def status(run: RunName, /, *, verbose: Details = False, as_json: AsJson = False) -> int:
    """Say what runs, what was decided and what is left.

    Example: buildup status demo
    """
    from buildup.engine.load_state import state_of
    from buildup.engine.status import status_text, status_values
    from buildup.store.run_record import open_record

    record = open_record(run)
    view, history = state_of(record)
    values = status_values(record, view, history)
    return answer(status_text(record, view, values, width=table_width(verbose=verbose)), values, as_json=as_json)
