"""`--prior lesion`: measured once on the trained base, kept, and never in the way of a search."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from buildup.cli import main
from buildup.commands.foretell import PRIOR, foreteller
from buildup.diagnostics.evaluate import labelled
from buildup.diagnostics.places import effect
from buildup.models.build import build
from buildup.rules.prior import Prior, from_lesions, replaceable
from buildup.search.folder import Run, open_run
from buildup.search.state import procedure, state_of
from buildup.training.data import load_data, split


@pytest.fixture
def run(tried: Path) -> Iterator[Run]:
    """The run as if it had been asked for with `--prior lesion`."""
    found = open_run(str(tried))
    yield replace(found, settings=replace(found.settings, prior="lesion"))
    (tried / PRIOR).unlink(missing_ok=True)


def foretold(run: Run) -> Prior:
    _, history = state_of(run)
    return foreteller(run, procedure(run))(history)


def test_each_block_that_may_be_replaced_is_measured_once_on_the_base(run: Run) -> None:
    guesses = foretold(run)
    assert tuple(guesses) == replaceable(run.network, run.space)
    costs = json.loads((run.folder / PRIOR).read_text())["lesion"]
    assert guesses == from_lesions(costs)
    data = load_data("digits")
    _, held = split(data, run.data["split_seed"])
    model = build(run.network, seed=run.settings.seed)  # the weights of this run's base are as they were drawn
    place = next(iter(costs))
    found = effect(model, [place], lambda: labelled(data.part(held), 128))
    assert costs[place] == pytest.approx(found.lesion)


def test_a_run_that_goes_on_has_the_guesses_that_it_began_with(run: Run) -> None:
    places = replaceable(run.network, run.space)
    costs = {place: float(number) for number, place in enumerate(places)}
    (run.folder / PRIOR).write_text(json.dumps({"lesion": costs}))
    assert foretold(run) == from_lesions(costs)


def test_without_the_flag_nothing_is_measured(run: Run) -> None:
    assert foretold(replace(run, settings=replace(run.settings, prior="none"))) == {}
    assert not (run.folder / PRIOR).exists()


def test_what_cannot_be_measured_is_left_out_and_said(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    (run.folder / PRIOR).write_text("{")
    assert foretold(run) == {}
    assert "prior.json: damaged" in capsys.readouterr().err
    (run.folder / PRIOR).unlink()
    base = state_of(run)[0].candidates[0]
    weights = run.trainings / f"{base.id}-s{run.settings.seed}" / "attempt-1" / "weights.safetensors"
    hidden = weights.rename(weights.with_suffix(".gone"))
    assert foretold(run) == {}
    assert "changes no verdict" in capsys.readouterr().err
    hidden.rename(weights)


def test_a_prior_is_refused_where_it_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["plan", "--base", "test_convnext", "--dataset", "digits", "--device", "cpu", "--execution", "float32"]
    assert main([*asked, "--prior", "leson"]) == 2
    assert "lesion" in capsys.readouterr().err
    assert main([*asked, "--prior", "lesion", "--space", "smoothing"]) == 2
    assert "replaces no block" in capsys.readouterr().err
