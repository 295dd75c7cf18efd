"""`diagnostics.jsonl` of a run: one line a verdict that was measured, replaced whole with each of them."""

import json
from collections.abc import Iterable
from pathlib import Path

from buildup.errors import RunError
from buildup.store.atomic_write import write_atomic
from buildup.trials.decision import Diagnosis, diagnosis_from_values, diagnosis_to_values

DIAGNOSTICS = "diagnostics.jsonl"


def read_diagnoses(folder: Path) -> tuple[Diagnosis, ...]:
    """What was measured of a run's verdicts, in their order; nothing where nothing was."""
    path = folder / DIAGNOSTICS
    if not path.is_file():
        return ()
    try:
        return tuple(diagnosis_from_values(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines())
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise RunError(
            f"{path}: damaged, or not written by this version of buildup ({type(problem).__name__}: {problem}). "
            f"Remove it, and measure again by `buildup analyze {folder} --verdicts`."
        ) from None


def write_diagnoses(folder: Path, diagnoses: Iterable[Diagnosis]) -> None:
    """Replace the file."""
    ordered = sorted(diagnoses, key=lambda diagnosis: diagnosis.step)
    lines = "".join(json.dumps(diagnosis_to_values(diagnosis), allow_nan=False) + "\n" for diagnosis in ordered)
    write_atomic(folder / DIAGNOSTICS, lines.encode())
