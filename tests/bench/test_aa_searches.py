"""Searches in which nothing can help: that the candidate is its parent under another name, and what is counted."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import aa_searches
from aa_searches import JUDGES_COMPARED, first_gain, main, null_search, share, summary
from answer import append_line, read_lines
from buildup.engine.replay import make_replay
from buildup.graph import kinds
from buildup.graph.network import apply
from buildup.models.build import build
from buildup.strategies.moves import moves
from buildup.training.recipe import Recipe
from buildup.trials.outcome import Record, Score, record_to_values
from buildup.trials.training import Candidate, Training


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    """Kinds as before, without the twin."""
    before = dict(kinds._REGISTERED)
    yield
    kinds._REGISTERED.clear()
    kinds._REGISTERED.update(before)
    kinds.known_kinds.cache_clear()


def line(*verdicts: str, gain: float = 0.0) -> dict[str, Any]:
    decisions = [
        {"verdict": verdict, "seeds": 3, "scores": [90.0 + gain] * 3, "parent_scores": [90.0] * 3}
        for verdict in verdicts
    ]
    row = {"trainings": 9, "decisions": decisions}
    numbers = dict.fromkeys(("accuracy", "least_accuracy", "trainings", "training_seconds", "seconds"), 1.0)
    return {**numbers, "judges": dict.fromkeys(JUDGES_COMPARED, row)}


def test_a_twin_is_the_replaced_block_with_first_weights_of_its_own() -> None:
    network, space, _ = null_search(1)
    places = [move for stage in moves(network, space) for move in stage]
    assert places
    for move in places:
        base, twin = (build(one, seed=5).eval() for one in (network, apply(network, move.edit(network))))
        ours, theirs = twin.state_dict(), base.state_dict()
        differing = {name for name in theirs if not torch.equal(ours[name], theirs[name])}
        assert differing == {f"{move.path}.{conv}.weight" for conv in ("conv1", "conv2")}
        for name in differing:
            assert ours[name].std().item() == pytest.approx(theirs[name].std().item(), rel=0.1)
        twin.load_state_dict(theirs)
        image = torch.randn(2, *network.input_shape)
        assert torch.equal(twin(image), base(image))


def drawn(training: Training, _: Recipe) -> Record:
    """A score by chance alone, the same whenever it is asked for."""
    correct = np.random.default_rng(list(training.id.encode())).random(400) < 0.9
    score = Score(accuracy=100 * float(correct.mean()), correct=np.packbits(correct).tobytes(), images=400)
    return Record(outcome=score, curve=())


def test_a_stopped_search_continues_with_the_trainings_that_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []

    def train(training: Training, recipe: Recipe) -> Record:
        if len(trained) == 14 and stops:
            raise KeyboardInterrupt
        trained.append(training.id)
        return drawn(training, recipe)

    def searched(folder: Path, *flags: str) -> list[Any]:
        assert main([str(folder), "--searches", "3", *flags]) == 0
        return [one["judges"] for one in read_lines(folder / "searches.jsonl")]

    monkeypatch.setattr(aa_searches, "_train", train)
    stops = True
    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path / "stopped")
    stops = False
    continued = searched(tmp_path / "stopped")
    assert len(set(trained)) == len(trained)
    trained.clear()
    assert searched(tmp_path / "stopped", "--again") == continued
    assert not trained
    assert searched(tmp_path / "whole") == continued
    assert len(continued) == 3


def test_parent_and_candidate_are_trained_on_the_same_images(tmp_path: Path) -> None:
    network, space, recipe = null_search(1)
    first = make_replay(network, space, judge="likely", seeds=3).rule.first
    assert first is not None
    ours, theirs = (
        aa_searches._train(Training(candidate=one, seed=7), recipe).outcome
        for one in (first.candidate, Candidate(network=network))
    )
    assert isinstance(ours, Score)
    assert isinstance(theirs, Score)
    assert ours.validated == theirs.validated is not None
    assert ours.images == theirs.images == 1152
    assert ours.correct != theirs.correct


@pytest.mark.parametrize(
    ("searches", "in_searches", "among_verdicts"),
    [
        ([["drop", "drop"]], (0, 1), (0, 2)),
        ([["keep", "keep"], ["drop", "drop"]], (1, 2), (2, 4)),
        ([["drop", "keep"], ["keep", "drop"], ["drop"]], (2, 3), (2, 5)),
    ],
)
def test_a_search_counts_once_however_much_it_keeps(
    searches: Sequence[Sequence[str]], in_searches: tuple[int, int], among_verdicts: tuple[int, int]
) -> None:
    for found in summary([line(*verdicts) for verdicts in searches])["judges"].values():
        assert (found["searches"]["kept"], found["searches"]["of"]) == in_searches
        assert (found["verdicts"]["kept"], found["verdicts"]["of"]) == among_verdicts


@pytest.mark.parametrize(("kept", "of"), [(0, 10), (3, 10), (10, 10), (9, 200)])
def test_the_interval_holds_the_share_and_narrows_with_more_searches(kept: int, of: int) -> None:
    few, many = (share([True] * kept * times + [False] * (of - kept) * times)["interval"] for times in (1, 10))
    assert few[0] <= many[0] <= kept / of <= many[1] <= few[1]
    assert many[1] - many[0] < few[1] - few[0]


def test_the_gain_of_the_first_candidates_is_that_of_the_first_look() -> None:
    gain, error = first_gain([line("keep", gain=1.0), line("drop", gain=-1.0), line("drop", gain=0.6)])
    assert gain == pytest.approx(0.2)
    assert error == pytest.approx(0.6110, abs=1e-4)


def score(right: int) -> Score:
    correct = np.arange(400) < right
    return Score(accuracy=right / 4, correct=np.packbits(correct).tobytes(), images=400)


def test_in_drawn_searches_any_training_of_a_seed_may_be_that_of_any_network() -> None:
    # The first of each group is far better. If it always had the same role, that network would always win.
    groups = [[score(380 - seed % 5), score(300), score(301 + seed % 3)] for seed in range(20)]
    found = aa_searches.drawn_searches(groups, 100, seed=3)
    assert found["seeds"] == 20
    for judge in JUDGES_COMPARED:
        assert found["judges"][judge]["of"] == 100
        assert found["judges"][judge]["kept"] <= 15, judge
    assert found == aa_searches.drawn_searches(groups, 100, seed=3)


def test_a_training_has_one_role_in_a_drawn_search() -> None:
    groups = [[score(300 + 10 * seed + one) for one in range(3)] for seed in range(12)]
    network, _, _ = null_search(1)
    roles = aa_searches.Roles(groups, np.random.default_rng(0))
    base, other = Candidate(network=network), Candidate(network=network, check="longer")
    for seed in range(12):
        first, second = roles.score(base, seed), roles.score(other, seed)
        assert first is not second
        assert any(first in group and second in group for group in groups)
        assert roles.score(base, seed) is first
    assert len({roles.score(base, seed).accuracy for seed in range(12)}) == 12


def test_too_few_trainings_to_draw_from_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = Record(outcome=score(300), curve=())
    append_line(tmp_path / "trainings-0.jsonl", {"training": "0f-s0", **record_to_values(record)})
    assert main([str(tmp_path), "--drawn", "5"]) == 2
    said = capsys.readouterr().err
    assert "--drawn: a search draws from 12 seeds" in said
    assert "has 0 with 3 trainings. Make more searches first." in said


def test_a_line_that_was_not_written_to_its_end_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_text(json.dumps({"search": 0}) + '\n{"search": 1, "trai')
    assert read_lines(file) == [{"search": 0}]
    append_line(file, {"search": 1})
    assert read_lines(file) == [{"search": 0}, {"search": 1}]


def test_the_table_of_no_searches_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none"), "--table"]) == 0
    assert "0 searches" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()
