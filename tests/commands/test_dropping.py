import json

import pytest

from buildup.cli import main


def test_the_study_of_early_drops_prints_one_json_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--early-drop", "0.1", "--runs", "2", "--judge", "point", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert (values["risk"], values["runs"], len(values["searches"])) == (0.1, 2, 8)
    assert all(
        one["judge"] == "point" and one["found"]["early"] <= one["found"]["candidates"] for one in values["searches"]
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["simulate", "--early-drop", "0.9"], "--early-drop 0.9: a number from 0.001 to 0.3"),
        (["simulate", "--early-drop", "0.05", "--workers", "2"], "--workers: --early-drop draws curves of its own"),
        (["bench", "search", "--seconds", "0"], "--seconds 0"),
        (["bench", "search", "--trials", "8"], "--trials 8: a whole number from 32"),
    ],
)
def test_wrong_requests_are_refused(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert expected in said.err
    assert said.out == ""
