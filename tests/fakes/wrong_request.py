"""What a wrong request must be told, and what it must leave."""

from pathlib import Path

import pytest

from buildup.cli.main import main


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a wrong request is told: exit 2, one paragraph on stderr, and nothing is written."""
    before = sorted(Path.cwd().rglob("*"))
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err
    assert sorted(Path.cwd().rglob("*")) == before
    return said.err
