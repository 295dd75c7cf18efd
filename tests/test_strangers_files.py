"""Whatever stands in a file, its reader gives a value or a `BuildupError`, and nothing of it is run."""

import json
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from buildup.engine.load_state import read_final, replay_of
from buildup.errors import BuildupError
from buildup.execution.simulated import read_scores
from buildup.graph.network import sketch
from buildup.graph.serialize import network_from_values, network_to_values
from buildup.space.load import load, shipped
from buildup.store.run_dir import final_record, read_decisions, read_diagnoses, read_epochs
from buildup.store.run_record import RunRecord, open_record, save_record
from buildup.training.recipe import load_recipe, shipped_recipes

NASTY: tuple[Any, ...] = (
    *(None, True, -1, 0, 10**400, 1.5, float("nan"), float("inf"), "", "\0", "x" * 300, "../../etc/passwd"),
    *("!!python/object/apply:os.system [touch x]", [], {}, [[]], {"a": {"b": []}}, [None, -3, "C"], "2020-01-01"),
)
"""Values that no setting expects, or few."""
TEXTS = (
    *("\0", "\ufeff", "\x1b[31m", "&a [*a]", "!!binary /w==", "- ", ": ", '"', "'", "{", "\r", ",", "1e999", "\u2028"),
    *("!!python/object/apply:os.system [touch x]\n", "cos\nsystem\n(S'touch x'\ntR.", "\n", "[" * 3000, "x" * 70_000),
)
"""Texts that mean something to one parser or another: tags, a pickle, a byte order mark, open quotes, deep lists."""


@st.composite
def damaged_values(draw: st.DrawFn, sound: Any) -> Any:
    """Values with up to three of them replaced, left out or moved elsewhere."""
    values = json.loads(json.dumps(sound))
    for _ in range(draw(st.integers(1, 3))):
        place = values
        while isinstance(place, dict | list) and place:
            key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
            inner = place[key]
            if not (isinstance(inner, dict | list) and inner and draw(st.integers(0, 4))):
                what = draw(st.integers(0, 4))
                if what == 0:
                    del place[key]
                elif what == 1 and isinstance(place, dict):
                    place["../" * draw(st.integers(0, 2)) + "surprise"] = place.pop(key)
                else:
                    place[key] = deepcopy(draw(st.sampled_from(NASTY)))
                break
            place = inner
    return values


@st.composite
def damaged_text(draw: st.DrawFn, sound: str) -> bytes:
    """A text of which a part is left out, doubled, or replaced, perhaps by bytes that are no text."""
    data = sound.encode()
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 40)))
        other = draw(
            st.one_of(st.sampled_from(TEXTS).map(str.encode), st.binary(max_size=4), st.just(2 * data[start:end]))
        )
        data = data[:start] + other + data[end:]
    return data


def as_yaml(values: Any) -> bytes:
    return yaml.safe_dump(values, sort_keys=False).encode()


def as_json(values: Any) -> bytes:
    return json.dumps(values).encode()


def as_lines(values: Any) -> bytes:
    lines = values if isinstance(values, list) else [values]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def as_table(values: Any) -> bytes:
    return "\n".join(",".join(map(str, row if isinstance(row, list) else [row])) for row in values).encode()


FINAL = {
    "contenders": [{"part": "base", "layout": "CC", "fingerprint": "ab", "params": 1, "macs": 2, "scores": {"0": 1.0}}],
    "claims": [{"against": "base", "gain": 0.5, "ci": [0.1, 0.9], "level": 0.95, "claimed": True, "sentence": "s"}],
    "objective": "accuracy",
    "seeds": [1],
    "recipe": "quick",
    "epochs": 1,
    "train_images": 1,
    "fraction": "same",
    "test_images": 1,
    "opened": "then",
    "verdict": "s",
}
FINAL["contenders"][0] |= {"ci": None, "failures": {}, "mean": 1.0}  # type: ignore[index] # a list of mappings
DECISION = {
    "step": 1,
    "candidate": "ab",
    "parent": "cd",
    "edit": "e",
    "layout": "CM",
    "scores": [1.0],
    "gain": 0.1,
    "parent_scores": [1.0],
    "ci": [0.0, 1.0],
    "verdict": "keep",
    "reason": "r",
    "judge": "point",
    "level": 0.95,
    "looks": 1,
    "seeds": 1,
}
MEASURED = {"lesion": [1.0]}
DIAGNOSIS = {
    "step": 1,
    "candidate": "ab",
    "parent": "cd",
    "edit": "e",
    "seeds": [0],
    "measured_on": {"images": 8},
    "by_seed": {"before": MEASURED, "after": MEASURED},
}
SCORE = {
    "accuracy": 80.0,
    "metrics": {},
    "correct": "AA==",
    "losses": None,
    "validated": None,
    "images": 8,
    "seconds": 1,
}
EPOCH = {"number": 1, "metrics": {"accuracy": 80.0}}
NETWORK = network_to_values(sketch("CC|CM"))


class File:
    """One kind of file: sound values, how they are written, where to, and who reads them."""

    def __init__(self, name: str, sound: Any, written: Callable[[Any], bytes], read: Callable[[Path], object]) -> None:
        self.name, self.sound, self.written, self.read = name, sound, written, read


def opened(path: Path) -> None:
    """Reads a run as commands do, up to its study."""
    replay_of(open_record(str(path.parent)))


def reader_of_records(path: Path) -> object:
    return final_record(path.parent.parent)


def network_in(path: Path) -> None:
    """Reads a network as timm does, which hands over the values of an export's config."""
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError):  # timm's to refuse
        return
    network_from_values(values)


FILES = {
    "space": File("space.yaml", yaml.safe_load(shipped()["paper"].read_text()), as_yaml, lambda path: load(str(path))),
    "recipe": File(
        "recipe.yaml",
        yaml.safe_load(shipped_recipes()["paper"].read_text()),
        as_yaml,
        lambda path: load_recipe(str(path)),
    ),
    "table": File(
        "table.csv",
        [["layout", "score", "seconds"], ["CC|CC", 70, 1], ["CC|CM", 71, 2]],
        as_table,
        lambda path: read_scores(path, sketch("CC|CC")),
    ),
    "decisions": File("decisions.jsonl", [DECISION, DECISION], as_lines, read_decisions),
    "diagnostics": File("diagnostics.jsonl", [DIAGNOSIS], as_lines, lambda path: read_diagnoses(path.parent)),
    "metrics": File("metrics.jsonl", [EPOCH, EPOCH], as_lines, read_epochs),
    "final": File("final.json", FINAL, as_json, lambda path: read_final(path.parent)),
    "record": File("training/attempt-1/final.json", {"score": SCORE, "curve": [EPOCH]}, as_json, reader_of_records),
    "network": File("network.json", NETWORK, as_json, network_in),
}


@pytest.fixture(scope="module")
def run_file(make_run: Callable[..., RunRecord], tmp_path_factory: pytest.TempPathFactory) -> File:
    folder = tmp_path_factory.mktemp("run")
    save_record(make_run(folder))
    return File("run.yaml", yaml.safe_load((folder / "run.yaml").read_text()), as_yaml, opened)


def hold(file: File, path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    with suppress(BuildupError):
        file.read(path)
    assert not Path("x").exists(), "a file was able to run a command"


def run_examples(file: File, place: Path, examples: int) -> None:
    path = place / file.name

    @settings(max_examples=examples, database=None, suppress_health_check=list(HealthCheck), print_blob=False)
    @given(st.one_of(damaged_values(file.sound).map(file.written), damaged_text(file.written(file.sound).decode())))
    def check(content: bytes) -> None:
        hold(file, path, content)

    check()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", [*FILES, "run"])
def test_a_damaged_file_is_an_error_with_a_sentence(name: str, run_file: File, place: Path) -> None:
    run_examples(FILES.get(name, run_file), place, 100)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FILES, "run"])
def test_ten_thousand_damaged_files_are_errors_with_a_sentence(name: str, run_file: File, place: Path) -> None:
    run_examples(FILES.get(name, run_file), place, 10_000)


@pytest.mark.parametrize("name", [*FILES, "run"])
def test_the_sound_file_is_read(name: str, run_file: File, place: Path) -> None:
    file = FILES.get(name, run_file)
    path = place / file.name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file.written(file.sound))
    file.read(path)


@pytest.mark.parametrize("name", ["x" * 300, "nul\0", "../" * 100, ""])
def test_a_strange_name_of_a_run_is_an_error_with_a_sentence(name: str, place: Path) -> None:
    with pytest.raises(BuildupError):
        open_record(name)
