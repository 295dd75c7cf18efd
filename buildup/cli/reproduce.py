"""`buildup reproduce`."""

from typing import Annotated

from buildup.cli.output import AsJson, Flags, RunName, answer, reading, using_ray
from buildup.settings import ReproduceSettings


def reproduce(
    run: RunName, /, settings: Annotated[ReproduceSettings, Flags] = ReproduceSettings(), *, as_json: AsJson = False
) -> int:
    """Repeat a search, or one of its trainings, from its run.yaml, and compare what came out.

    Example: buildup reproduce demo --training 7fe6437cc604b488-s0

    Exit code 1 says that something differs by more than rounding.
    """
    reading(run)
    from buildup.engine.reproduce import LIKENESS, reproduction_values
    from buildup.engine.reproduce import reproduce as repeat
    from buildup.store.run_record import open_record

    with using_ray():
        found = repeat(open_record(run), settings)
    rows = [
        f"{one.training:<28} {one.layout:<16} {_shown(one.before):>8} {_shown(one.after):>8}  {LIKENESS[one.match]}"
        for one in found.trainings
    ]
    lines = [f"{'training':<28} {'layout':<16} {'then, %':>8} {'now, %':>8}", *rows]
    if found.verdicts:
        lines += ["", *(f"{edit}: {before}, now {after}" for edit, before, after in found.verdicts)]
    if found.changed:
        lines += ["", *(f"{name}: {then}, now {now}" for name, (then, now) in found.changed.items())]
    lines += ["", f"{'Reproduced' if found.succeeded else 'Not reproduced'}: {found.folder}/reproduced.json"]
    return answer("\n".join(lines), reproduction_values(found), as_json=as_json) or int(not found.succeeded)


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"
