"""Trainings of a run are kept as small files, and searches are replayed on them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from buildup.engine.load_state import state_of
from buildup.errors import RequestError
from buildup.store.run_record import open_record, save_record
from layouts import layouts, read_known, take


@pytest.fixture
def folder(tried: Path, tmp_path: Path) -> Path:
    take(str(tried), tmp_path / "kept")
    return tmp_path / "kept"


def test_all_scores_of_a_run_are_kept_once(tried: Path, folder: Path) -> None:
    known, (view, history) = read_known(folder), state_of(open_record(str(tried)))
    assert known.layouts[0] == view.candidates[0].layout
    scores = {round(score.accuracy, 6) for layout in known.layouts for score in known.scores(layout).values()}
    assert scores == {round(one.accuracy, 6) for one in history.outcomes.values()}  # type: ignore[union-attr]
    before = (folder / "trainings.jsonl").read_text()
    take(str(tried), folder)
    assert (folder / "trainings.jsonl").read_text() == before


def test_a_replay_decides_as_the_run_did_and_an_unknown_training_gives_no_answer(tried: Path, folder: Path) -> None:
    text, values = layouts({"folder": str(folder), "take": [], "replays": "2"})
    rows = {(row["strategy"], row["judge"], row["seeds"]): row for row in values["replays"]}
    # The run has stopped after two verdicts, with one seed.
    assert rows["alternet", "point", 1]["answered"] == 0
    view, _ = state_of(open_record(str(tried)))
    gains = [row["gain"] for row in values["layouts"] if "gain" in row]
    assert gains == pytest.approx([0.5, -2.0])  # the second is two blocks away from the base, and 2.5 below the first
    assert all(candidate.layout in text for candidate in view.candidates[1:2])


def test_a_finished_search_is_found_again(folder: Path) -> None:
    """Every layout of the base scores half a point more for each block of attention."""
    lines = [json.loads(line) for line in (folder / "trainings.jsonl").read_text().splitlines()]
    base = lines[0]["layout"]
    stages = base.split("|")
    places = [
        (stage, len(blocks) - 1 - back)
        for stage, blocks in enumerate(stages)
        for back in (0, 2, 4)
        if len(blocks) - back > 1
    ]
    made = []
    for number in range(2 ** len(places)):
        letters = [list(blocks) for blocks in stages]
        for bit, (stage, block) in enumerate(places):
            if number >> bit & 1:
                letters[stage][block] = "M"
        layout = "|".join("".join(blocks) for blocks in letters)
        score = {**lines[0]["score"], "accuracy": 80 + 0.5 * layout.count("M")}
        made.append({**lines[0], "layout": layout, "score": score})
    (folder / "trainings.jsonl").write_text("".join(json.dumps(line) + "\n" for line in made))
    _, values = layouts({"folder": str(folder), "take": [], "replays": "1"})
    found = {(row["strategy"], row["judge"], row["seeds"]): row for row in values["replays"]}
    for strategy in ("alternet", "exhaustive"):
        row = found[strategy, "point", 1]
        assert row["answered"] == 1
        assert row["gain"] > 0


def test_trainings_of_another_recipe_are_not_mixed_in(tried: Path, folder: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(tried, tmp_path / "other" / "tried"))
    record = open_record(str(other))
    save_record(replace(record, recipe=replace(record.recipe, lr=0.01)))
    with pytest.raises(RequestError, match=r"can't be compared with those of .*kept: values differ"):
        take(str(other), folder)
