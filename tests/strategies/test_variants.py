"""Settings that are searched where a block was kept."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildup.errors import SpaceError
from buildup.graph.kinds import BlockKind, GlobalAttention, LocalAttention
from buildup.graph.network import sketch
from buildup.space.schema import SearchSpace, Tuning
from buildup.strategies.alternet import AlterNetRule, TriedVariant
from buildup.strategies.moves import left_out, moves, start
from buildup.strategies.samplers import by_tpe
from buildup.trials.training import Candidate
from hypothetical_decisions import hypothetical

SPACE = SearchSpace(name="test", description="", tune=Tuning(kind=("M", "G"), window=(2, 4), heads=(6, 24)))


def rule_on(text: str, space: SearchSpace = SPACE) -> AlterNetRule:
    return AlterNetRule(base=Candidate(network=sketch(text)), space=space, choose=by_tpe)


def followed(rule: AlterNetRule, verdicts: Sequence[bool]) -> list[Candidate]:
    """What a rule proposes under a row of verdicts, each drop a loss and each keep a gain."""
    candidates, step = list[Candidate](), rule.first
    while step:
        kept = verdicts[len(candidates)] if len(candidates) < len(verdicts) else False
        candidates.append(step.candidate)
        step = step.after(replace(hypothetical(step.candidate, kept), gain=1.0 if kept else -1.0, scores=(80.0,)))
    return candidates


def test_every_combination_that_fits_is_a_variant_once() -> None:
    variants = moves(sketch("CC|CC|CC|CC"), SPACE)[3][0].variants
    assert variants == (
        LocalAttention(heads=6, window=2),
        LocalAttention(heads=24, window=2),
        LocalAttention(heads=6, window=4),  # with 24 heads it is what the rule puts there
        GlobalAttention(heads=6),
        GlobalAttention(heads=24),
    )


def test_variants_of_a_kept_block_are_tried_before_the_rule_goes_on_and_compared_with_it() -> None:
    candidates = followed(rule_on("CC|CC"), [True])
    assert [candidate.layout for candidate in candidates] == ["CC|CM"] + 3 * ["CC|CM"] + 2 * ["CC|CG"] + ["CM|CM"]
    assert all(candidate.parent is candidates[0] for candidate in candidates[1:])


def test_a_variant_that_is_kept_is_what_later_ones_are_compared_with_and_what_stays() -> None:
    candidates = followed(rule_on("CC|CC"), [True, False, True])
    assert candidates[3].parent is candidates[2]
    assert candidates[-1].parent is candidates[2]
    assert candidates[-1].network.block("c2.1").kind == candidates[2].network.block("c2.1").kind


def test_a_dropped_block_has_no_variants() -> None:
    assert len(followed(rule_on("CC|CC"), [])) == 2


def test_a_block_added_at_the_end_of_a_stage_has_variants_too() -> None:
    space = SearchSpace(name="test", description="", kind="G", place="end", tune=Tuning(head_size=(32, 64)))
    assert [one.edit for one in followed(rule_on("CC", space), [True])] == [
        "c1: one more global-msa(heads=24)",
        "c1.2: global-msa(heads=24) -> global-msa(heads=24, head_size=32)",
    ]


@settings(max_examples=6)
@given(verdicts=st.lists(st.booleans(), max_size=12), tries=st.integers(1, 4), seed=st.integers(0, 9))
def test_what_tpe_chooses_is_chosen_again_and_never_twice(verdicts: list[bool], tries: int, seed: int) -> None:
    space = replace(SPACE, tune=replace(SPACE.tune or Tuning(), tries=tries))
    found = [followed(replace(rule_on("CC|CC|CC"), space=space, seed=seed), verdicts) for _ in range(2)]
    ids = [[candidate.id for candidate in candidates] for candidates in found]
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == len(ids[0])


def test_tpe_goes_where_the_gains_were() -> None:
    kinds: list[BlockKind] = [LocalAttention(heads=heads, window=window) for heads in range(1, 9) for window in (2, 4)]
    good = 0
    for rng in range(20):
        told = [TriedVariant(kind=kind, gain=2.0 if kind in kinds[::2] else -2.0) for kind in kinds[4:]]
        chosen = by_tpe(kinds[:4], told, str(rng))
        good += chosen in kinds[::2]
    assert good >= 15


def test_a_larger_window_than_a_map_is_left_out_there_and_named() -> None:
    space = SearchSpace(name="test", description="", tune=Tuning(window=(2, 7)))
    network = sketch("CC|CC|CC|CC")
    assert [len(places[0].variants) for places in moves(network, space)] == [2, 2, 2, 1]
    assert left_out(network, space) == ("tune.window 7 is larger than the 4x4 maps of c4, and left out there",)


def test_a_value_that_stands_wherever_it_fits_is_named() -> None:
    space = SearchSpace(name="test", description="", tune=Tuning(window=(4,), kind=("M", "G")))
    found = "tune.window 4 is what the rule puts wherever it fits, so no variant has it"
    assert left_out(sketch("CC|CC"), space) == (found,)
    assert left_out(sketch("CC|CC"), replace(space, tune=Tuning(window=(2, 4), heads=(6,)))) == ()


def test_settings_that_nothing_would_try_are_refused() -> None:
    space = SearchSpace(name="test", description="", tune=Tuning(window=(4,)))
    with pytest.raises(SpaceError, match="space test: tune tries nothing on sketch"):
        start(sketch("CC|CC"), space)


def test_a_window_that_fits_nowhere_is_refused() -> None:
    space = SearchSpace(name="test", description="", tune=Tuning(window=(4, 99)))
    with pytest.raises(SpaceError, match=r"tune.window has 99, but no map of sketch .* is larger than 32"):
        start(sketch("CC|CC"), space)


@pytest.mark.parametrize("kept", [True, False])
def test_what_is_left_counts_the_variants(kept: bool) -> None:
    step = rule_on("CC|CC|CCCC").first
    assert step is not None
    # Each place has 5 variants or, where heads are not 6 or 24, 6.
    assert step.remaining(kept) == len(followed(rule_on("CC|CC|CCCC"), [kept] * 100))


@pytest.mark.parametrize("tries", [2, 8])
def test_half_of_the_error_is_for_settings(tries: int) -> None:
    space = replace(SPACE, tune=replace(SPACE.tune or Tuning(), tries=tries))
    step, shares = rule_on("CC|CC", space).first, list[float]()
    while step is not None:
        shares.append(step.share)
        step = step.after(hypothetical(step.candidate, kept=len(shares) == 1))
    count = min(5, tries)
    # The first stage kept its block, so the other half of its share goes on to the second.
    assert shares == pytest.approx([0.25, *[0.25 / count] * count, (0.5 + 0.25) / 2])
