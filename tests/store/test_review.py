"""A run as the dashboard shows it: networks with verdicts, the winner as the best, notes that stay, nothing written."""

import csv
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast
from wsgiref.util import setup_testing_defaults

import optuna_dashboard
import pytest
from optuna import create_trial
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from buildup.engine.dashboard import Files, review_of
from buildup.engine.reports import report_of
from buildup.errors import BuildupError
from buildup.report.page import markdown, page
from buildup.store.notes import note_attributes, note_texts, with_people
from buildup.store.review_trials import last_kept, network_trial, networks_of, training_trial
from buildup.store.run_record import open_record
from buildup.store.study_reader import existing_storage, load_study, read_history
from buildup.store.study_writer import StudyWriter
from buildup.trials.decision import Decision

Ask = Callable[..., Any]


@pytest.fixture
def run(tried: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tried, tmp_path / "tried"))


@pytest.fixture
def ask(run: Path) -> Iterator[Ask]:
    """Asks the dashboard of the run: a path, and a method and values if it is no plain question."""
    record = open_record(str(run))
    with existing_storage(record.folder, None) as storage:
        app = optuna_dashboard.wsgi(cast(BaseStorage, review_of(record, storage)), Files(record))

        def ask(path: str, method: str = "GET", **values: Any) -> Any:
            body, said = json.dumps(values).encode(), list[str]()
            environ: dict[str, Any] = {"REQUEST_METHOD": method, "PATH_INFO": path, "CONTENT_TYPE": "application/json"}
            environ |= {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
            setup_testing_defaults(environ)
            answer = b"".join(app(environ, lambda status, headers, problem=None: said.append(status)))
            if not said[0].startswith("20"):
                return said[0]
            return json.loads(answer) if path.startswith("/api") and answer else answer

        yield ask


def networks_id(ask: Ask) -> int:
    found = {one["study_name"]: one["study_id"] for one in ask("/api/studies")["study_summaries"]}
    return int(found["tried: networks"])


def attributes(trial: dict[str, Any]) -> dict[str, str]:
    return {one["key"]: one["value"] for one in trial["user_attrs"]}


def test_each_network_is_a_trial_with_its_verdict_diagram_and_note_and_the_winner_is_the_best(
    ask: Ask, run: Path
) -> None:
    shown = ask(f"/api/studies/{networks_id(ask)}")
    decisions = read_history(run, None, "tried").decisions
    rows = [attributes(trial) for trial in shown["trials"]]
    assert [row.get("verdict") for row in rows[: len(decisions) + 1]] == [None, *(one.verdict for one in decisions)]
    assert [row["layout"] for row in rows[1 : len(decisions) + 1]] == [one.layout for one in decisions]
    assert [trial["note"]["body"].partition("**")[2][:4] for trial in shown["trials"][1:3]] == ["keep", "drop"]
    winner = next(one for one in reversed(decisions) if one.kept)
    assert [attributes(trial)["layout"] for trial in shown["best_trials"]] == [winner.layout]


def test_the_graphs_have_a_point_for_each_network_with_a_score(ask: Ask) -> None:
    shown = ask(f"/api/studies/{networks_id(ask)}")
    scored = [trial for trial in shown["trials"] if trial.get("values")]
    graphs = {one["id"]: json.loads(one["graph_object"]) for one in shown["plotly_graph_objects"]}
    assert graphs.keys() == {"build-up", "gains", "cost", "lineage"}
    for name in ("build-up", "cost"):
        dots = [trace for trace in graphs[name]["data"] if trace["mode"] == "markers"]
        assert sorted(y for trace in dots for y in trace["y"]) == sorted(trial["values"][0] for trial in scored)
    assert sum(len(trace["x"]) for trace in graphs["gains"]["data"]) == 2


def test_looking_writes_nothing(ask: Ask, run: Path) -> None:
    def stored() -> object:
        with existing_storage(run, None) as storage:
            study = load_study(storage, None, "tried")
            return [*storage.get_all_studies(), study.get_trials()]

    before = stored()
    for path in ("/api/studies", "/api/studies/1", f"/api/studies/{networks_id(ask)}", "/artifacts/1/0-0"):
        assert not isinstance(ask(path), str)
    assert stored() == before


def test_a_note_stays_when_the_run_goes_on_and_is_in_the_report(ask: Ask, run: Path) -> None:
    study = networks_id(ask)
    trial = ask(f"/api/studies/{study}")["trials"][1]
    text = f"{trial['note']['body']}\n\nLooks <odd>: #again with more seeds"
    ask(f"/api/studies/{study}/{trial['trial_id']}/note", "PUT", body=text, version=trial["note"]["version"] + 1)
    ask(f"/api/studies/{study}/note", "PUT", body="For the paper", version=2)
    record = open_record(str(run))
    writer = StudyWriter.open(folder=run, storage_url=None, study_name="tried", base=record.network)
    writer.conclude({"verdict": "the winner is better"})
    writer.close()
    shown = ask(f"/api/studies/{study}")
    assert shown["trials"][1]["note"]["body"] == text
    rows = list(csv.DictReader(ask(f"/csv/{study}").decode().splitlines()))
    assert [row["UserAttribute tags"] for row in rows[:3]] == ["", "again", ""]
    with existing_storage(run, None) as storage:
        assert "the winner is better" in optuna_dashboard.get_note(load_study(storage, None, "tried"))
    layout = attributes(trial)["layout"]
    notes = report_of(record).notes
    assert [text for _, text in notes] == ["For the paper", "Looks <odd>: #again with more seeds"]
    assert notes[1][0].startswith(f"{layout}, ")
    assert "Looks &lt;odd&gt;: #again" in page(report_of(record))
    assert "For the paper" in markdown(report_of(record))
    assert "For the paper" in ask(f"/artifacts/{study}/0-0").decode()


@pytest.mark.parametrize("number", ["1", "networks"])
def test_nobody_deletes_renames_or_changes_a_run_by_a_click(number: str, ask: Ask, run: Path) -> None:
    study = networks_id(ask) if number == "networks" else 1
    before = read_history(run, None, "tried")
    for path, method, values in (
        (f"/api/studies/{study}", "DELETE", {}),
        (f"/api/studies/{study}", "DELETE", {"remove_associated_artifacts": False}),
        (f"/api/studies/{study}/rename", "POST", {"study_name": "other"}),
        ("/api/trials/1/user-attrs", "POST", {"user_attrs": {"candidate": "other"}}),
        ("/api/trials/1/tell", "POST", {"state": "Fail"}),
    ):
        assert ask(path, method, **values)[0] in "45"
    assert read_history(run, None, "tried") == before


def trial(
    number: int, candidate: str, accuracy: float | None, seed: int = 0, outcome: str = "score", parent: str | None = "b"
) -> FrozenTrial:
    known = {"candidate": candidate, "training": f"{candidate}-s{seed}", "seed": seed, "outcome": outcome}
    known |= {"layout": candidate.upper(), "edit": "", "parent": parent}
    state = TrialState.FAIL if accuracy is None else TrialState.COMPLETE
    made = create_trial(state=state, value=accuracy, user_attrs=known)
    made.number = made._trial_id = number
    return made


def decision(step: int, candidate: str, verdict: str) -> Decision:
    values: dict[str, Any] = {"scores": (), "parent_scores": (), "gain": 1.0, "ci": (0.0, 2.0), "reason": "so"}
    values |= {"judge": "point", "level": 0.9, "looks": 1, "seeds": 1, "edit": "", "layout": "", "verdict": verdict}
    return Decision(step=step, candidate=candidate, parent="b", **values)


def test_the_best_is_what_the_search_kept_even_where_something_dropped_had_luck() -> None:
    trials = [trial(0, "b", 70.0, parent=None), trial(1, "kept", 71.0), trial(2, "kept", 73.0, seed=1)]
    trials += [trial(3, "lucky", 80.0), trial(4, "b-longer", 99.0), trial(5, "ahead", None, outcome="unneeded")]
    decisions = [decision(1, "lucky", "drop"), decision(2, "kept", "keep")]
    rows = networks_of(trials, decisions, None)
    shown = [network_trial(number, row, (), params=True, limits={"macs": 5}) for number, row in enumerate(rows)]
    assert [one.user_attrs["layout"] for one in shown] == ["B", "LUCKY", "KEPT", "AHEAD"]
    assert [one.state.name for one in shown] == ["COMPLETE", "COMPLETE", "COMPLETE", "PRUNED"]
    best = last_kept(shown)
    assert best is not None
    assert (best.user_attrs["layout"], best.value) == ("KEPT", 72.0)


@pytest.mark.parametrize("parent", [None, "b"], ids=["a base above the limit", "a candidate ahead of its base"])
def test_there_is_a_best_as_soon_as_anything_is_finished(parent: str | None) -> None:
    (row,) = networks_of([trial(0, "b" if parent is None else "c", 70.0, parent=parent)], [], None)
    row.trials[0].user_attrs["macs"] = 9
    best = last_kept([network_trial(0, row, (), params=True, limits={"macs": 5})])
    assert best is not None
    assert best.value == 70.0
    assert best.system_attrs["constraints"] == ([0.0] if parent is None else [1.0, 4.0])


def test_any_damaged_page_is_at_most_a_sentence_in_the_report(run: Path) -> None:
    study = run / "study.db"
    whole, told = study.read_bytes(), 0
    for start in range(0, len(whole), 4096):
        study.write_bytes(whole[:start] + b"\xff" * 4096 + whole[start + 4096 :])
        try:
            report_of(open_record(str(run)))
        except BuildupError as error:
            told += "study.db" in str(error)
    assert told > 3


def test_a_training_that_was_not_needed_is_no_failure() -> None:
    trials = [trial(0, "b", None, outcome="unneeded"), trial(1, "b", None, outcome="diverged"), trial(2, "b", 70.0)]
    states = [training_trial(one, params=True).state for one in trials]
    assert states == [TrialState.PRUNED, TrialState.FAIL, TrialState.COMPLETE]
    assert trials[0].state is TrialState.FAIL


def test_a_long_note_is_read_as_it_was_written() -> None:
    text = "words of a note " * 500
    generated = note_attributes(5, "verdict") | note_attributes(6, "other") | note_attributes(None, "table")
    people = {f"people:{key}": value for key, value in note_attributes(5, text).items()}
    found = note_texts(with_people(generated, people, networks=True))
    assert found == {5: text, 6: "other", None: "table"}
