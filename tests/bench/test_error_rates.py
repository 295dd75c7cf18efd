import json
from pathlib import Path
from typing import Any

import pytest

from error_rates import main


def found(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == 0
    values: dict[str, Any] = json.loads(capsys.readouterr().out)
    return values


@pytest.mark.parametrize(
    ("arguments", "refused"),
    [
        (["--aa", "--space", "nonsense"], ["--space: without --base or --layout"]),
        (["--power", "--look-ahead"], ["--look-ahead: without --base or --layout"]),
        (["--kept", "--judge", "nonsense"], ["nonsense"]),
        (["--aa", "--layout", "CC|CM", "--runs", "0", "--seeds", "1"], ["only C may", "--runs 0", "--seeds 1"]),
        (["--aa", "--layout", "CC|CC", "--base", "resnet18"], ["give one of --base NAME and --layout LAYOUT"]),
    ],
)
def test_wrong_requests_are_refused_with_all_that_is_wrong(
    arguments: list[str], refused: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == len(refused)
    assert all(part in said.err for part in refused)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "one of the arguments --aa --kept --winner --power is required"),
        (["--aa", "--power"], "--power: not allowed with argument --aa"),
        (["--aa", "--objective", "nll"], "unrecognized arguments: --objective nll"),
        (["--aa", "--workers", "2"], "unrecognized arguments: --workers 2"),
    ],
)
def test_one_study_is_asked_for_with_flags_that_it_reads(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert expected in capsys.readouterr().err


def _is_plain(one: dict[str, Any]) -> bool:
    return not one["own_images"] and one["disagreement"] == 0.17


@pytest.mark.parametrize("space", ["place: end\nkind: C\n", "stages: [{}, {max_replaced: 0}]\n", "order: first-last\n"])
def test_power_puts_the_gain_where_the_rule_goes(
    space: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(space)
    flags = ["--power", "--judge", "likely", "--layout", "CC|CC", "--space", str(path), "--noise", "0", "--runs", "2"]
    values = found(capsys, *flags)
    (one,) = (one for one in values["searches"] if _is_plain(one) and one["true_gains"] == "one of +1.0")
    assert one["kept_true"] == 1.0


def test_each_study_draws_the_noise_that_its_promise_is_made_for(capsys: pytest.CaptureFixture[str]) -> None:
    drawn = {}
    for study in ("--aa", "--kept", "--power"):
        lines = found(capsys, study, "--layout", "CC", "--judge", "likely", "--runs", "1")["searches"]
        drawn[study] = {one["seed_deviation"] for one in lines}
        if study != "--power":
            assert {one["images"] for one in lines} == {300, 5000}
            assert any(one["heavy_tails"] for one in lines)
    assert drawn == {"--aa": {0.2, 0.4, 1.0, 4.0}, "--kept": {0.2, 0.4, 1.0, 4.0}, "--power": {0.2, 0.4}}


def test_the_answer_is_a_table_that_says_what_was_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--aa", "--layout", "CC", "--judge", "point", "--noise", "0", "--runs", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["search", "judge"]
    assert lines[-1].startswith("2 searches a line. Kept: blocks a search.")
