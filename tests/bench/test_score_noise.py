"""That the ways to score a training are the ones that are stated, and that their comparison finds what was put in."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from buildup.models.read import read_network
from buildup.training.execution import torch_settings
from buildup.training.fit import Job, fit
from buildup.training.recipe import load_recipe
from score_noise import Pair, Scored, Trained, compare, control, disagreeing, residuals
from score_ways import BASE, EXECUTION, PLAIN, SHIFTS, WINDOWS, Task, Window, restate, shifted, train


def test_the_plain_way_is_the_score_of_a_training(tmp_path: Path) -> None:
    task = Task(name="test", dataset="digits", fraction=0.1, epochs=1)
    with torch_settings(1, deterministic=False):  # as a training: sums of two threads differ in their last digits
        line = train(task, 0)
    network = read_network(BASE, input_shape=(1, 16, 16), num_classes=10, stem="base")
    recipe = load_recipe("quick").with_epochs(1)
    job = Job(
        network=network,
        seed=0,
        dataset="digits",
        fraction=0.1,
        recipe=recipe,
        execution=EXECUTION,
        folder=str(tmp_path),
    )
    *_, last = fit(job)
    assert line["scores"][PLAIN]["accuracy"] == pytest.approx(last.metrics["accuracy"])
    assert line["scores"][PLAIN]["nll"] == pytest.approx(last.metrics["nll"], rel=1e-4)
    assert 0 < line["scores"]["ema 20 %"]["nll"] != line["scores"][PLAIN]["nll"]


@pytest.mark.parametrize("start", [0.0, 0.75])
def test_a_window_without_horizon_is_the_mean_of_its_steps(start: float) -> None:
    window, average = Window(name="test", start=start), 0.0
    for step in range(40):
        average += window.rate(step, 40) * (step - average)
    assert average == pytest.approx(np.mean(range(int(40 * start), 40)))


@pytest.mark.parametrize("window", WINDOWS, ids=lambda window: window.name)
def test_an_average_of_equal_weights_is_these_weights_and_forgets_the_first_ones(window: Window) -> None:
    average = 1e6
    for step in range(200):
        average += window.rate(step, 200) * (7.0 - average)
    assert average == pytest.approx(7.0)


def test_restated_statistics_are_those_of_the_images_and_leave_the_weights() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    before = [one.clone() for one in model.parameters()]
    batches = [torch.randn(64, 1, 4, 4) + 3 for _ in range(4)]
    restate(model, batches)
    seen = model[0](torch.cat(batches))
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    torch.testing.assert_close(norm.running_mean, seen.mean((0, 2, 3)))
    assert norm.momentum == 0.1
    assert not model.training
    assert all(map(torch.equal, before, model.parameters()))


def test_shifted_images_move_by_a_pixel() -> None:
    images = torch.arange(16.0).reshape(1, 1, 4, 4)
    for view, (down, right) in zip(shifted(images), SHIFTS, strict=True):
        there = images[..., 1 + down : 3 + down, 1 + right : 3 + right]
        assert torch.equal(view[..., 1:3, 1:3], there)


def test_half_the_differing_images_are_half_the_disagreement_and_half_the_variance() -> None:
    rng = np.random.default_rng(0)
    pairs = [_pair(rng, uncertain=1000) for _ in range(200)]
    rows = {row["way"]: row for row in compare("test", pairs)}
    assert rows[PLAIN]["disagreement_ratio"] == (1.0, 1.0, 1.0)
    assert rows["calmer"]["disagreement_ratio"][0] == pytest.approx(0.5, abs=0.01)
    low, high = rows["calmer"]["variance_ratio"][1:]
    assert low < 0.5 < high < 0.8


def test_a_training_disagrees_with_itself_on_nothing() -> None:
    one, other = _pair(np.random.default_rng(0), uncertain=1000)
    assert not disagreeing((one, one), PLAIN).any()
    assert disagreeing((one, other), PLAIN).sum() == pytest.approx(500, abs=60)


def test_a_control_removes_the_share_that_it_explains_and_noise_removes_nothing() -> None:
    rng = np.random.default_rng(0)
    known, unknown = rng.normal(size=(2, 2000))
    left = np.mean(residuals(known + unknown, 3 * known) ** 2) / np.mean((known + unknown) ** 2)
    assert left == pytest.approx(0.5, abs=0.05)
    assert np.mean(residuals(unknown, known) ** 2) >= 0.995 * np.mean(unknown**2)


def test_losses_that_follow_the_hits_leave_little_of_their_variance() -> None:
    rng = np.random.default_rng(0)
    row = control("test", [_pair(rng, uncertain=1000) for _ in range(30)])
    assert row["images_ratio"][0] < 0.2
    assert row["points_per_centinat"] < 0


def _pair(rng: np.random.Generator, *, uncertain: int) -> Pair:
    """Two trainings on 2,000 images; by the way `calmer` they toss coins for half as many of them."""
    return _training(rng, uncertain), _training(rng, uncertain)


def _training(rng: np.random.Generator, uncertain: int) -> Trained:
    coins = rng.random(uncertain) < 0.5
    plain, calm = np.ones(2000, bool), np.ones(2000, bool)
    plain[:uncertain], calm[: uncertain // 2] = coins, coins[: uncertain // 2]
    losses = np.where(plain, 0.2, 1.5) + 0.1 * rng.normal(size=2000)
    ways = {PLAIN: plain, "calmer": calm}
    scores = {
        way: Scored(accuracy=100 * float(right.mean()), nll=float(losses.mean()), correct=right)
        for way, right in ways.items()
    }
    return Trained(scores=scores, losses=losses)
