"""The controls: strategies over the same layouts, with the same budget and the same judge."""

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pytest

from buildup.engine.replay import Replay, make_replay
from buildup.errors import RequestError
from buildup.graph.network import sketch
from buildup.space.schema import SearchSpace
from buildup.strategies.fixed_order import Layouts
from buildup.strategies.network_size import Limits
from buildup.strategies.registered import STRATEGIES
from buildup.trials.history import History
from buildup.trials.outcome import Score
from buildup.trials.training import Candidate
from chance import search
from hypothetical_decisions import hypothetical, walk

SPACE = SearchSpace(name="test", description="")
CONTROLS = ("random", "tpe", "nsga2", "nsga2-params", "exhaustive")
DEEP = "CCC|CCCC|CCCCCC|CCCC"


def costs(candidate: Candidate) -> tuple[int, int]:
    changed = candidate.layout.count("M")
    return 100 + changed, 1000 - changed


def replay(
    strategy: str, text: str = DEEP, seed: int = 0, limits: Limits | None = None, space: SearchSpace = SPACE
) -> Replay:
    return make_replay(
        sketch(text),
        space,
        strategy=STRATEGIES[strategy],
        judge="point",
        seeds=1,
        first_seed=seed,
        costs=costs,
        limits=limits,
    )


def score(candidate: Candidate, seed: int) -> Score:
    """Best is attention at the end of each stage, and nowhere else."""
    ends = sum(stage.endswith("M") for stage in candidate.layout.split("|"))
    return Score(accuracy=70.0 + 2 * ends - candidate.layout.count("M"))


@pytest.mark.parametrize("strategy", CONTROLS)
def test_every_layout_is_tried_once_and_the_budget_is_that_of_the_build_up_rule(strategy: str) -> None:
    steps = replay(strategy)
    view, _ = search(steps, score)
    layouts = [decision.layout for decision in view.decisions]
    assert len(set(layouts)) == len(layouts)
    assert steps.base.layout not in layouts
    built_up = replay("alternet").view(History()).verdicts_left(kept=True)
    assert len(layouts) == (71 if strategy == "exhaustive" else built_up)


@pytest.mark.parametrize("strategy", CONTROLS)
def test_a_search_is_the_same_when_it_is_replayed_from_any_of_its_decisions(strategy: str) -> None:
    view, _ = search(replay(strategy), score)
    for length in range(0, len(view.decisions), 3):
        step = walk(replay(strategy).rule.first, view.decisions[:length])
        assert step is not None
        assert step.candidate.id == view.decisions[length].candidate


@pytest.mark.parametrize("strategy", ["random", "tpe", "nsga2"])
def test_another_seed_tries_other_layouts(strategy: str) -> None:
    tried = [[one.layout for one in search(replay(strategy, seed=seed), score)[0].decisions] for seed in (0, 1)]
    assert tried[0] != tried[1]


@pytest.mark.parametrize("strategy", CONTROLS)
def test_each_candidate_is_compared_with_the_best_so_far(strategy: str) -> None:
    view, _ = search(replay(strategy), score)
    best = view.candidates[0].id
    for decision in view.decisions:
        assert decision.parent == best
        best = decision.candidate if decision.kept else best
    assert best == view.best.id


def test_exhaustive_finds_the_best_layout() -> None:
    view, _ = search(replay("exhaustive"), score)
    assert view.best.layout == "CCM|CCCM|CCCCCM|CCCM"


def test_layouts_are_those_that_the_build_up_rule_can_reach() -> None:
    steps = replay("alternet", "CCC|CCCC")
    seen, ahead = set(), [steps.rule.first]
    while ahead:
        if step := ahead.pop():
            seen.add(step.candidate.layout)
            ahead += [step.successor(True), step.successor(False)]
    layouts = Layouts(base=steps.base, space=SPACE)
    assert {layouts.candidate(counts, steps.base).layout for counts in layouts.all} == seen


def test_the_generations_of_nsga2_outlive_their_study() -> None:
    step, steps = replay("nsga2").rule.first, 0
    generations = []
    while step is not None and steps < 7:
        following = step.after(replace(hypothetical(step.candidate, kept=False), scores=(70.0,), macs=1000))
        generations = [trial.system_attrs for trial in getattr(following, "trials", ())]
        step, steps = following, steps + 1
    assert len(generations) == 7
    assert all(generations), "a trial without its generation would be forgotten by the sampler"


@pytest.mark.parametrize(("strategy", "weighed"), [("tpe", []), ("nsga2", [1000]), ("nsga2-params", [77])])
def test_a_strategy_is_told_the_score_and_the_cost_that_it_weighs(strategy: str, weighed: list[int]) -> None:
    step = replay(strategy).rule.first
    assert step is not None
    following = step.after(replace(hypothetical(step.candidate, kept=False), scores=(70.0,), params=77, macs=1000))
    told = [trial.values for trial in getattr(following, "trials", ())]
    assert told == [[70.0, *weighed]]


def test_what_verdicts_do_not_change_is_known_ahead() -> None:
    known: Callable[[str], bool] = lambda strategy: bool(  # noqa: E731
        (first := replay(strategy).rule.first) and first.successor(True)
    )
    assert [strategy for strategy in CONTROLS if known(strategy)] == ["random", "exhaustive"]


def test_exhaustive_refuses_what_would_never_end() -> None:
    with pytest.raises(RequestError, match="at most 1,000"):
        replay("exhaustive", "|".join(["C" * 20] * 4))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_candidate_that_costs_too_much_is_dropped_untrained_with_the_reason(strategy: str) -> None:
    steps = replay(strategy, limits=Limits(max_params=102))
    assert steps.fits_any
    view, history = search(steps, score)
    for decision in view.decisions:
        large = decision.layout.count("M") > 2
        assert decision.reason.startswith("dropped untrained") == large
        assert not large or f"{decision.candidate}-s0" not in history.outcomes
    assert view.best.layout.count("M") <= 2


def test_limits_that_no_candidate_fits_are_known_before_any_training() -> None:
    assert not replay("alternet", limits=Limits(max_params=100)).fits_any
    assert not replay("random", limits=Limits(max_macs=10)).fits_any


ANYWHERE = replace(SPACE, places="any")


@pytest.mark.parametrize("strategy", ["random", "tpe", "nsga2"])
def test_controls_change_as_many_blocks_as_the_rule_could_but_anywhere(strategy: str) -> None:
    view, _ = search(replay(strategy, space=ANYWHERE), score)
    layouts = [decision.layout for decision in view.decisions]
    assert len(layouts) == len(set(layouts)) == replay("alternet").view(History()).verdicts_left(kept=True)
    counts = [[stage.count("M") for stage in layout.split("|")] for layout in layouts]
    assert all(count <= most for row in counts for count, most in zip(row, (1, 2, 3, 2), strict=True))
    assert any("MC" in layout and not layout.endswith("CM") for layout in layouts)


@pytest.mark.parametrize("strategy", CONTROLS)
def test_a_search_anywhere_is_the_same_when_it_is_replayed(strategy: str) -> None:
    text = "CCC|CCCC"
    view, _ = search(replay(strategy, text, space=ANYWHERE), score)
    for length in range(len(view.decisions)):
        step = walk(replay(strategy, text, space=ANYWHERE).rule.first, view.decisions[:length])
        assert step is not None
        assert step.candidate.id == view.decisions[length].candidate


def test_layouts_anywhere_are_all_that_have_few_enough_changes() -> None:
    base = sketch("CCC|CCCC")
    layouts = Layouts(base=Candidate(network=base), space=ANYWHERE)
    found = [layouts.candidate(counts, layouts.base).layout for counts in layouts.all]
    of_stages = [("CCC", "CMC", "CCM"), ("CCCC", "CMCC", "CCMC", "CCCM", "CMMC", "CMCM", "CCMM")]
    assert sorted(found) == sorted("|".join(stages) for stages in product(*of_stages))[1:]
    assert layouts.size == len(found) + 1
    assert layouts.tries == 3


def test_random_layouts_anywhere_differ_from_those_of_the_rule_in_their_places_alone() -> None:
    networks = {space.places: Layouts(base=Candidate(network=sketch(DEEP)), space=space) for space in (SPACE, ANYWHERE)}
    for stage in range(4):
        shares = []
        for layouts in networks.values():
            drawn = [layouts.draw(random.Random(seed)) for seed in range(400)]
            rows = [layouts.candidate(counts, layouts.base).layout.split("|")[stage] for counts in drawn]
            shares.append([sum(row.count("M") == count for row in rows) / 400 for count in range(4)])
        # The numbers of changes are drawn first, from the same random numbers.
        assert shares[0] == shares[1]


def test_a_first_block_is_changed_only_where_its_shapes_allow_it() -> None:
    network = sketch("CC|CC")
    first = network.stages[1].blocks[0]
    kept = replace(first, in_shape=first.out_shape)
    open_first = network.with_stage(1, replace(network.stages[1], blocks=(kept, network.stages[1].blocks[1])))
    for base, expected in ((network, {"CC|CC", "CM|CC", "CC|CM", "CM|CM"}), (open_first, {"CC|MC", "CM|MC"})):
        layouts = Layouts(base=Candidate(network=base), space=ANYWHERE)
        assert {layouts.candidate(counts, layouts.base).layout for counts in layouts.all} >= expected - {"CC|CC"}


def test_the_build_up_rule_says_that_other_places_change_nothing() -> None:
    assert "is for the controls" in str(STRATEGIES["alternet"].unused(ANYWHERE))
    assert STRATEGIES["random"].unused(ANYWHERE) is None
