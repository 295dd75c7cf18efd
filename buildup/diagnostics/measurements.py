"""All measurements by name: the built-in ones, in the order in which they are made, and those of installed packages."""

from collections.abc import Sequence

from buildup.diagnostics.analysis import Measurement
from buildup.diagnostics.cka import UnitSimilarity
from buildup.diagnostics.corruption import CorruptionErrors
from buildup.diagnostics.equivariance import Equivariance
from buildup.diagnostics.feature_maps import Frequencies, Variance
from buildup.diagnostics.hessian import HessianSpectrum
from buildup.diagnostics.landscape import LossLandscape
from buildup.diagnostics.lesion import Lesions
from buildup.diagnostics.noise import NoiseBands
from buildup.diagnostics.predictions import Calibration, DropoutEnsemble
from buildup.diagnostics.robustness import Robustness, TrainingLoss
from buildup.diagnostics.shape import ShapeOrTexture
from buildup.errors import RequestError, unknown
from buildup.registry import Registry

MEASUREMENTS = Registry[Measurement]("measurement", group="buildup.measurements")
for _kind in (
    *(HessianSpectrum, LossLandscape, Frequencies, Variance, Lesions, UnitSimilarity, Equivariance, NoiseBands),
    *(ShapeOrTexture, CorruptionErrors, Calibration, DropoutEnsemble, Robustness, TrainingLoss),
):
    MEASUREMENTS.register(_kind())


def find_measurements(names: Sequence[str] | None = None) -> list[Measurement]:
    """The measurements of these names, in their order; without names the usual ones."""
    if names and "all" in names:
        raise RequestError("--what all stands alone. Name the measurements, or leave the others out.")
    if problems := [
        unknown("measurement", name, ["all", *MEASUREMENTS]) for name in names or () if name not in MEASUREMENTS
    ]:
        raise RequestError(*problems)
    found = MEASUREMENTS.values() if names is None else [MEASUREMENTS[name] for name in names]
    for measurement in found:
        if not isinstance(measurement, Measurement):
            raise RequestError(f"{measurement.name!r} is not a buildup.diagnostics.analysis.Measurement.")
    return [measurement for measurement in found if measurement.is_usual] if names is None else found
