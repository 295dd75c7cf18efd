"""All measurements by name: the built-in ones, in the order in which they are made, and those of installed packages."""

from collections.abc import Sequence

from buildup.diagnostics.analysis import Measurement
from buildup.diagnostics.cka import CKA
from buildup.diagnostics.corruption import CORRUPTION
from buildup.diagnostics.feature_maps import FOURIER, VARIANCE
from buildup.diagnostics.hessian import HESSIAN
from buildup.diagnostics.landscape import LANDSCAPE
from buildup.diagnostics.lesion import LESION
from buildup.diagnostics.noise import NOISE
from buildup.diagnostics.predictions import CALIBRATION, ENSEMBLE
from buildup.errors import RequestError, unknown
from buildup.registry import Registry

MEASUREMENTS = Registry[Measurement]("measurement", group="buildup.measurements")
BUILT_IN: tuple[Measurement, ...] = (
    HESSIAN,
    LANDSCAPE,
    FOURIER,
    VARIANCE,
    LESION,
    CKA,
    NOISE,
    CORRUPTION,
    CALIBRATION,
    ENSEMBLE,
)
for _measurement in BUILT_IN:
    MEASUREMENTS.register(_measurement)


def find_measurements(names: Sequence[str] | None = None) -> list[Measurement]:
    """The measurements of these names, in their order; without names the usual ones."""
    if problems := [
        unknown("measurement", name, ["all", *MEASUREMENTS]) for name in names or () if name not in MEASUREMENTS
    ]:
        raise RequestError(*problems)
    found = MEASUREMENTS.values() if names is None else [MEASUREMENTS[name] for name in names]
    for measurement in found:
        if not isinstance(measurement, Measurement):
            raise RequestError(f"{measurement.name!r} is not a buildup.diagnostics.analysis.Measurement.")
    return [measurement for measurement in found if measurement.is_usual] if names is None else found
