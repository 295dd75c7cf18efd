"""What a plan says before anything is trained."""

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import save_file

from buildup.engine.plan import MOST_ROWS, Plan, _Costs, _reachable, make_plan, plan_to_values
from buildup.engine.replay import make_replay
from buildup.engine.summaries import plan_text
from buildup.graph.kinds import LocalAttention
from buildup.graph.network import Replace, sketch
from buildup.models.build import build
from buildup.models.cost import cost
from buildup.models.read import read_network
from buildup.settings import SearchSettings
from buildup.space.load import load
from buildup.space.schema import SearchSpace, Tuning
from buildup.strategies.registered import STRATEGIES

SETTINGS = SearchSettings(base="resnet18", dataset="digits", epochs=2, seeds=2, device="cpu")


@pytest.mark.parametrize("base", ["resnet26", "resnetv2_18"])
def test_costs_added_up_block_by_block_are_those_of_the_whole_network(base: str) -> None:
    network = read_network(base, input_shape=(3, 32, 32), num_classes=10)
    costs = _Costs(network)
    for candidate in _reachable(make_replay(network, load("alternet"), judge="point", seeds=1)):
        assert costs.of(candidate) == cost(candidate.network)


def test_costs_of_blocks_that_are_added_count_as_in_the_whole_network() -> None:
    network = read_network("resnet26", input_shape=(3, 32, 32), num_classes=10)
    costs = _Costs(network)
    space = SearchSpace(name="control", description="", kind="C", place="end")
    for candidate in _reachable(make_replay(network, space, judge="point", seeds=1)):
        assert costs.of(candidate) == cost(candidate.network)


def test_every_row_of_verdicts_is_covered_once() -> None:
    network = read_network("resnet50", input_shape=(3, 32, 32), num_classes=10)
    candidates = list(_reachable(make_replay(network, load("alternet"), judge="point", seeds=1)))
    # c4 has 1 place, c3 has 3, c2 has 2, c1 has 1; a stage with m places ends in one of m + 1 ways.
    assert len(candidates) == 1 + 1 + 2 * 3 + 2 * 4 * 2 + 2 * 4 * 3 * 1
    assert len({candidate.id for candidate in candidates}) == len(candidates)


@pytest.mark.parametrize("strategy", ["tpe", "random", "exhaustive"])
def test_a_plan_of_a_control_names_each_layout_once(strategy: str) -> None:
    steps = make_replay(sketch("CCC|CCCC|CCC"), load("alternet"), strategy=STRATEGIES[strategy], judge="point", seeds=1)
    layouts = [candidate.layout for candidate in _reachable(steps)]
    assert len(set(layouts)) == len(layouts) == (1 + 4 if strategy == "random" else 2 * 3 * 2)


@pytest.mark.parametrize("tries", [1, 9])
def test_a_plan_names_every_setting_that_may_be_tried_whether_drawn_or_not(tries: int) -> None:
    space = SearchSpace(name="test", description="", tune=Tuning(window=(1, 2, 3), tries=tries))
    steps = make_replay(sketch("CC|CC"), space, strategy=STRATEGIES["alternet"], judge="point", seeds=1)
    candidates = list(_reachable(steps))
    assert len({candidate.id for candidate in candidates}) == len(candidates)
    edits = {candidate.edits[-1] for candidate in candidates[1:]}
    placed = [(edit.path, edit.new) for edit in edits if isinstance(edit, Replace)]
    windows = {(path, kind.window) for path, kind in placed if isinstance(kind, LocalAttention)}
    assert windows == {(path, window) for path in ("c1.1", "c2.1") for window in (1, 2, 3, 4)}


def test_what_passes_a_limit_is_not_planned() -> None:
    values = plan_to_values(make_plan(replace(SETTINGS, strategy="exhaustive", max_macs=130_000_000, judge="point")))
    macs = [candidate["macs"] for candidate in values["candidates"]]
    assert len(macs) < 16
    assert max(macs[1:]) <= 130_000_000
    assert values["trainings"]["most"] == 2 * len(macs)


def test_without_limits_the_checks_of_the_base_are_expected_too() -> None:
    made = make_plan(replace(SETTINGS, judge="point"))
    assert made.expected == made.whole
    assert made.whole.trainings > made.trainings[0]


def test_what_ends_a_search_early_is_counted_in() -> None:
    made = make_plan(replace(SETTINGS, max_trials=3))
    assert made.trainings == (3, 3)
    assert made.expected.trainings == 3
    text = plan_text(made)
    assert "3 trainings (--max-trials 3 counted in; without, 10 to 40, 5 networks x 2 to 8 seeds)" in text
    table = text[text.index("no.  role") :].splitlines()
    assert table[0].split() == ["no.", "role", "layout", "edit", "params", "MACs"]
    assert [row.split()[:2] for row in table[1:4]] == [["0", "base"], ["1", "first"], ["2", "possible"]]

    def with_limits(**limits: float | None) -> Plan:
        request = replace(made.request, settings=replace(made.request.settings, **limits))  # type: ignore[arg-type]
        return replace(made, request=request)

    assert with_limits(max_trials=500).trainings == with_limits(max_trials=None).trainings == (10, 40)
    short = with_limits(time_budget=1.5 * made.each)
    assert short.seconds[1] == short.expected.high == 1.5 * made.each
    assert short.trainings[1] <= made.request.settings.workers


def test_the_list_of_a_deep_base_is_cut_and_says_so() -> None:
    network = read_network("resnet152", input_shape=(3, 32, 32), num_classes=10)
    candidates = list(_reachable(make_replay(network, load("alternet"), judge="point", seeds=1)))
    assert len(candidates) <= MOST_ROWS


def test_more_workers_than_seeds_save_no_time_but_by_training_ahead() -> None:
    settings = replace(SETTINGS, judge="point", no_base_checks=True)
    times = [plan_to_values(make_plan(replace(settings, workers=workers))) for workers in (2, 8)]
    rounds = [values["seconds"]["most"] / values["candidates"][0]["seconds"] for values in times]
    assert rounds[0] == pytest.approx(rounds[1])
    assert all(one["trainings"]["least"] <= one["expected"]["trainings"] <= one["trainings"]["most"] for one in times)
    expected = [one["expected"]["seconds"] / one["candidates"][0]["seconds"] for one in times]
    assert expected[1] < 0.9 * expected[0]


def test_what_happens_before_the_first_epoch_is_counted(tmp_path: Path) -> None:
    weights = build(read_network(SETTINGS.base, input_shape=(1, 16, 16), num_classes=10), seed=0).state_dict()
    save_file({name: weight.contiguous() for name, weight in weights.items()}, tmp_path / "w.safetensors")
    started = replace(SETTINGS, pretrained=str(tmp_path / "w.safetensors"), judge="point", epochs=20)
    extra = []
    for share in ("0", "0.1", "1"):
        base, *others = make_plan(replace(started, set=(f"transplant={share}",))).estimates
        extra.append([one.seconds - base.seconds * one.cost.macs / base.cost.macs for one in others])
    none, little, much = extra
    # 100 steps at least, and then 20 epochs of 32 steps.
    assert all(0 < one < other for one, other in zip(little, much, strict=True))
    assert all(abs(one) < other / 10 for one, other in zip(none, much, strict=True))


def test_the_checks_of_the_base_are_told_and_counted() -> None:
    made = [make_plan(replace(SETTINGS, judge="point", workers=2, no_base_checks=off)) for off in (False, True)]
    more, usual = made
    each = more.estimates[0].seconds
    assert {check: epochs for check, (epochs, _) in more.checks.items()} == {"longer": 3, "rounding": 2}
    assert [seconds for _, seconds in more.checks.values()] == pytest.approx([1.5 * each, each])
    assert more.whole.trainings == usual.whole.trainings + 2
    assert more.whole_trainings == usual.whole_trainings
    assert more.seconds[0] / more.each > usual.seconds[0] / usual.each + 1.1
    assert "3 epochs, about" in plan_text(more)
    assert plan_to_values(usual)["checks"] == {}
