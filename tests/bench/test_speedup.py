import json
from pathlib import Path

import pytest

from speedup import WORKERS, main


@pytest.fixture
def table(tmp_path: Path) -> str:
    path = tmp_path / "table.csv"
    path.write_text("layout,score\nCC|CC,80\nCC|CM,81\nCM|CM,80.5\nCM|CC,82\n")
    return str(path)


def test_searches_are_faster_than_on_one_worker_and_by_no_more_than_the_workers(
    table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--layout", "CC|CC", "--scores", table, "--seeds", "3", "--runs", "2", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert (values["runs"], values["seeds"]) == (2, 3)
    assert [one["workers"] for one in values["speedups"]] == list(WORKERS)
    for one in values["speedups"]:
        assert 1 < one["table"] <= one["workers"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--layout", "CC|CC"], "--scores is missing"),
        (["--layout", "CC|CC", "--scores", "x.csv", "--runs", "0"], "--runs 0"),
        (["--layout", "CC|CC", "--scores", "x.csv", "--runs", "0"], "x.csv"),
        (["--scores", "x.csv"], "give one of --base NAME and --layout LAYOUT"),
    ],
)
def test_wrong_requests_are_refused(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert expected in said.err
    assert said.out == ""


@pytest.mark.parametrize("flag", ["--noise", "--objective", "--workers"])
def test_a_flag_that_it_would_not_read_is_refused(flag: str, table: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--layout", "CC|CC", "--scores", table, flag, "1"])
    assert end.value.code == 2
    assert flag in capsys.readouterr().err
