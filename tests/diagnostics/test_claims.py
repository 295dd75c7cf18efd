"""The sentence below a figure: what was found, and whether the paper agrees."""

from collections.abc import Mapping
from itertools import product
from math import nan
from types import SimpleNamespace
from typing import Any

import pytest

from buildup.diagnostics.analysis import PaperClaim, claims_sentence
from buildup.diagnostics.cka import _same_stage
from buildup.diagnostics.figures import Row
from buildup.diagnostics.lesion import Lesions
from buildup.diagnostics.measurements import MEASUREMENTS

ATTENTION = {"plain": 0.0, "alter": 0.3}


def said(what: str, **values: Mapping[str, float | None]) -> str:
    return claims_sentence(
        MEASUREMENTS[what].claims,
        {label: ATTENTION[label] for label in values},
        {label: dict(row) for label, row in values.items()},
    )


def test_a_model_with_attention_is_compared_with_one_without_in_any_order() -> None:
    alter, plain = {"ape": 20.5, "nep": 0.1}, {"ape": 12.5, "nep": 0.05}
    expected = (
        "The mean of the positive eigenvalues is higher in alter than in plain (20.5 against 12.5), and in the paper "
        "lower; the share of negative eigenvalues is higher in alter than in plain (0.1 against 0.05), as in the paper."
    )
    assert said("hessian", alter=alter, plain=plain) == expected
    assert said("hessian", plain=plain, alter=alter) == expected
    assert "is the same in alter and in plain (0.1 against 0.1), and in the paper higher" in said(
        "hessian", alter=alter, plain=alter
    )


@pytest.mark.parametrize("what", ["variance", "fourier"])
def test_steps_agree_where_attention_lowers_and_convolutions_raise(what: str) -> None:
    columns = ("mean_step_msa", "mean_step_conv", "mean_step_mlp")
    for steps in product((-1.0, 2.0), repeat=3):
        text = said(what, alter=dict(zip(columns, steps, strict=True)))
        verdicts = [part.rpartition(", ")[2].rstrip(".") for part in text.split("; ")]
        expected = [(step < 0) == (column == "mean_step_msa") for column, step in zip(columns, steps, strict=True)]
        assert verdicts == ["as in the paper" if agrees else "unlike in the paper" for agrees in expected]
        assert text.startswith("Attention lowers" if steps[0] < 0 else "Attention raises")


def test_models_that_agree_and_that_do_not_are_told_apart() -> None:
    text = said("cka", alter={"within_minus_across": 0.2}, plain={"within_minus_across": -0.1})
    assert text == (
        "Units resemble those of their own stage more than others (+0.2 in alter), as in the paper; units resemble "
        "those of other stages as much as those of their own, or more (-0.1 in plain), unlike in the paper."
    )


def test_numbers_that_cannot_tell_say_so() -> None:
    for text in (
        said("landscape", alter={"border_rise": 3.0}),
        said("landscape", alter={"border_rise": 3.0}, plain={"border_rise": None}),
        said("variance", plain={}),
    ):
        assert "these numbers can't test it" in text
    assert said("calibration", alter={"ece": 0.1}) == ""


def test_a_stage_that_starts_with_what_matters_most_and_bands_that_hurt() -> None:
    lesions = [
        {"kind": kind, "stage": stage, "change": change, "name": "x", "unit": unit}
        for unit, (kind, stage, change) in enumerate(
            (("conv", 1, -9.0), ("conv", 1, -3.0), ("msa", 1, -20.0), ("conv", 2, -1.0))
        )
    ]
    assert MEASUREMENTS["lesion"].summary(lesions)["conv_start_minus_end"] == -6.0
    bands = [{"low": low, "high": low + 0.1, "drop": drop} for low, drop in ((0.05, 4.0), (0.25, 6.0), (0.85, 11.0))]
    assert MEASUREMENTS["noise"].summary(bands)["high_minus_low_drop"] == 6.0


def test_no_change_and_no_number_say_nothing() -> None:
    claims = (
        PaperClaim(column="step", words="attention lowers it", sign=-1, of_each="attention raises it"),
        PaperClaim(column="error", words="the error", sign=-1),
    )
    found = {"a": {"step": 0.0, "error": nan}, "b": {"step": nan, "error": 3.0}}
    assert claims_sentence(claims, {"a": 0.5, "b": 0.0}, found).endswith("so these numbers can't test it.")


def test_lesions_compare_the_first_and_the_last_unit_of_a_stage() -> None:
    def row(unit: int, treatment: str, change: float) -> Row:
        return {"unit": unit, "name": f"u{unit}", "kind": "conv", "stage": 1, "treatment": treatment, "change": change}

    both = [row(1, "convolution", -30.0), row(1, "branch", -10.0)]
    assert "conv_start_minus_end" not in Lesions().summary(both)
    assert Lesions().summary([*both, row(2, "convolution", -5.0)])["conv_start_minus_end"] == -25.0


def test_stem_and_head_belong_to_no_stage() -> None:
    def unit(kind: str, stage: int) -> Any:
        return SimpleNamespace(kind=kind, stage=stage)

    block = unit("conv", 1)
    others = [unit("stem", 0), unit("msa", 1), unit("conv", 2), unit("head", 1)]
    assert [_same_stage(block, one) for one in others] == [None, True, False, None]
