"""The measurements by name, shipped and of installed packages; none is imported before it is used."""

from importlib.metadata import EntryPoint, entry_points

from buildup.errors import RequestError

GROUP = "buildup.measurements"
"""The entry point group in which a package names its measurements."""

SHIPPED = {
    "hessian": "buildup.diagnostics.hessian:HESSIAN",
    "landscape": "buildup.diagnostics.landscape:LANDSCAPE",
    "fourier": "buildup.diagnostics.fourier:FOURIER",
    "variance": "buildup.diagnostics.variance:VARIANCE",
    "lesion": "buildup.diagnostics.lesion:LESION",
    "cka": "buildup.diagnostics.cka:CKA",
    "noise": "buildup.diagnostics.noise:NOISE",
    "corruption": "buildup.diagnostics.corruption:CORRUPTION",
    "calibration": "buildup.diagnostics.calibration:CALIBRATION",
    "ensemble": "buildup.diagnostics.ensemble:ENSEMBLE",
}
"""Module and object of each, in the order in which they are made."""


def registered() -> dict[str, EntryPoint]:
    """Where each measurement is found, those of installed packages after the shipped ones."""
    found = {name: EntryPoint(name, place, GROUP) for name, place in SHIPPED.items()}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        if point.name in found and found[point.name].value != point.value:
            raise RequestError(
                f"{point.value} and {found[point.name].value} are both registered as the measurement {point.name!r}. "
                f"Give one of them another name in the entry point group {GROUP}."
            )
        found[point.name] = point
    return found
