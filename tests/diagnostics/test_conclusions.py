"""Sentences on the paper's claims: they follow the numbers, in both directions."""

import re
from collections.abc import Sequence
from math import inf
from typing import Any

import pytest

from buildup.diagnostics.cka import UnitSimilarity
from buildup.diagnostics.corruption import CorruptionErrors
from buildup.diagnostics.feature_maps import Frequencies, Variance
from buildup.diagnostics.figures import Rows, Table
from buildup.diagnostics.hessian import HessianSpectrum
from buildup.diagnostics.landscape import LossLandscape
from buildup.diagnostics.lesion import Lesions
from buildup.diagnostics.measurements import MEASUREMENTS
from buildup.diagnostics.noise import NoiseBands
from buildup.diagnostics.predictions import Calibration

CNN = ("stem", "conv", "conv", "conv", "conv")
ALTER = ("stem", "conv", "msa", "conv", "msa")
STAGES = (None, 1, 1, 2, 2)


def table(kinds: Sequence[str], rows: Rows) -> Table:
    units = [
        {"unit": index, "name": f"u{index}", "kind": kind, "stage": stage}
        for index, (kind, stage) in enumerate(zip(kinds, STAGES, strict=True))
    ]
    return Table(label="alter" if "msa" in kinds else "cnn", units=units, rows=rows)


def by_unit(kinds: Sequence[str], column: str, values: Sequence[float]) -> Table:
    units = table(kinds, []).units
    return table(kinds, [{**unit, column: value} for unit, value in zip(units, values, strict=True)])


def eigenvalues(kinds: Sequence[str], values: Sequence[float]) -> Table:
    return table(kinds, [{"batch": 0, "eigenvalue": value, "converged": True} for value in values])


@pytest.mark.parametrize(("measurement", "column"), [(Variance(), "variance"), (Frequencies(), "log_amplitude")])
@pytest.mark.parametrize(
    ("kinds", "values", "says"),
    [
        (ALTER, (0, 5, 4, 7, 5), "2 of 2 units of attention lower .* As in the paper"),
        (ALTER, (0, 4, 5, 5, 7), "0 of 2 units of attention lower .* Unlike the paper"),
        (CNN, (0, 4, 5, 5, 7), "2 of 2 units of convolutions raise .*1.5.*As in the paper"),
        (CNN, (0, 5, 4, 5, 7), "1 of 2 units of convolutions raise .*0.5.*As in the paper"),
    ],
)
def test_steps_are_those_within_stages(
    measurement: Any, column: str, kinds: Sequence[str], values: Sequence[float], says: str
) -> None:
    assert re.search(says, measurement.conclusion([by_unit(kinds, column, values)]))


def landscape(kinds: Sequence[str], border: float | None) -> Table:
    grid = [(x, y) for x in (-1.0, 0.0, 1.0) for y in (-1.0, 0.0, 1.0)]
    return table(kinds, [{"x": x, "y": y, "nll": border if x or y else 1.0} for x, y in grid])


def corrupted(kinds: Sequence[str], error: float) -> Table:
    rows = [{"kind": kind, "severity": 1, "error": error, "alexnet_error": None, "source": "made"} for kind in "ab"]
    return table(kinds, rows)


def noise(kinds: Sequence[str], high: float) -> Table:
    return table(kinds, [{"low": 0.1, "high": 0.2, "drop": 3.0}, {"low": 0.8, "high": 0.9, "drop": high}])


PAIRS = {
    # A measurement, and its tables of an AlterNet and a CNN that are as in the paper.
    "hessian": (HessianSpectrum(), eigenvalues(ALTER, [-3, -2, 5]), eigenvalues(CNN, [-1, 9, 9])),
    "landscape": (LossLandscape(), landscape(ALTER, 2.0), landscape(CNN, 5.0)),
    "steep border": (LossLandscape(), landscape(ALTER, 2.0), landscape(CNN, None)),
    "corruption": (CorruptionErrors(), corrupted(ALTER, 0.3), corrupted(CNN, 0.4)),
    "noise": (NoiseBands(), noise(ALTER, 2.0), noise(CNN, 8.0)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_two_networks_agree_with_the_paper_or_not(name: str) -> None:
    measurement, alter, cnn = PAIRS[name]
    assert measurement.conclusion([alter, cnn]).endswith("with attention. As in the paper.")
    assert measurement.conclusion([cnn, alter]).endswith("with attention. As in the paper.")
    swapped = [Table(label=one.label, units=one.units, rows=other.rows) for one, other in ((alter, cnn), (cnn, alter))]
    assert measurement.conclusion(swapped).endswith("with attention. Unlike the paper.")
    same = [alter, Table(label=cnn.label, units=cnn.units, rows=alter.rows)]
    assert measurement.conclusion(same).endswith("There is no difference here.")


@pytest.mark.parametrize("name", PAIRS)
def test_one_network_is_described_and_not_judged(name: str) -> None:
    measurement, alter, _ = PAIRS[name]
    said = measurement.conclusion([alter])
    assert said.startswith("alter: ")
    assert "paper" not in said


def test_half_a_claim_is_said_to_be_half() -> None:
    alter, cnn = eigenvalues(ALTER, [-3, 5]), eigenvalues(CNN, [-1, 9])  # as many negative ones, smaller positive ones
    assert "50.0 %" in HessianSpectrum().conclusion([alter, cnn])
    assert HessianSpectrum().conclusion([alter, cnn]).endswith("As in the paper.")
    more = eigenvalues(CNN, [-1, -1, 9])
    assert HessianSpectrum().conclusion([alter, more]).endswith("In part as in the paper.")
    assert "mean of the positive ones is 0" in HessianSpectrum().conclusion([eigenvalues(CNN, [-1.0])])


def test_a_landscape_whose_centre_is_not_finite_is_described() -> None:
    broken = table(ALTER, [{"x": x, "y": 0.0, "nll": None} for x in (-1.0, 0.0, 1.0)])
    assert str(inf) in LossLandscape().conclusion([broken])


def lesions(kinds: Sequence[str], changes: Sequence[float]) -> Table:
    return by_unit(kinds, "change", changes)


@pytest.mark.parametrize(
    ("kinds", "changes", "says"),
    [
        (CNN, (0, -9, -1, -8, -2), "cnn: In 2 of 2 stages the first convolution that can be removed costs more"),
        (CNN, (0, -1, -9, -8, -2), "cnn: In 1 of 2 stages"),
        (ALTER, (0, -1, -3, -1, -5), "accuracy changes by -4.0 points on average. No stage has two convolutions"),
    ],
)
def test_lesions_compare_the_ends_of_stages(kinds: Sequence[str], changes: Sequence[float], says: str) -> None:
    assert says in Lesions().conclusion([lesions(kinds, changes)])


def test_similarity_is_compared_within_and_between_stages() -> None:
    def similar(within: float, between: float) -> Table:
        rows = [
            {"unit": one, "other": other, "cka": within if STAGES[one] == STAGES[other] else between}
            for one in range(5)
            for other in range(5)
        ]
        return table(CNN, rows)

    said = UnitSimilarity().conclusion([similar(0.9, 0.4)])
    assert said == "cnn: the mean similarity is 0.900 within stages and 0.400 between them. As in the paper."
    assert UnitSimilarity().conclusion([similar(0.4, 0.9)]).endswith("Unlike the paper.")


def test_where_the_paper_claims_nothing_there_is_no_sentence() -> None:
    assert Calibration().conclusion([table(CNN, [])]) == ""
    assert {"hessian", "landscape", "fourier", "variance", "lesion", "cka", "noise", "corruption"} <= set(MEASUREMENTS)
