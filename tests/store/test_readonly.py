"""A run on a disk that can't be written is read like any other, and nothing is left in it."""

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import buildup
from buildup.cli.main import main
from buildup.errors import RunError
from buildup.store.run_dir import acquire_run_lock


@pytest.fixture
def archive(tried: Path, tmp_path: Path) -> Iterator[Path]:
    """A run on a read-only mount, or in folders without the right to write where we are not root.

    Its process was killed: the newest change, which forgets a decision, is in SQLite's log alone.
    """
    place, live = tmp_path / "archive", Path(shutil.copytree(tried, tmp_path / "live"))
    with closing(sqlite3.connect(live / "study.db")) as study:
        study.execute("delete from study_user_attributes where key = 'decision:0002'")
        study.commit()
        folder = Path(shutil.copytree(live, place / "tried"))
    assert (folder / "study.db-wal").stat().st_size
    if os.getuid() == 0:
        made = [["mount", "--bind", str(place), str(place)], ["mount", "-o", "remount,bind,ro", str(place)]]
        if any(subprocess.run(command, capture_output=True, check=False).returncode for command in made):
            pytest.skip("root writes into any folder, and may not mount here")
    else:
        for path in (folder, *folder.rglob("*")):
            path.chmod(path.stat().st_mode & ~0o222)
    yield folder
    if os.getuid() == 0:
        subprocess.run(["umount", place], check=True)
    else:
        subprocess.run(["chmod", "-R", "u+w", folder], check=True)


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_status_report_export_and_python_read_it(
    archive: Path, tried: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(archive)
    name = str(archive)
    assert main(["status", name]) == 0
    assert main(["report", name, "--format", "md"]) == 0
    assert main(["report", name, "--to", str(tmp_path / "page.html")]) == 0
    assert "Result" in (tmp_path / "page.html").read_text()
    assert main(["export", name, "--candidate", "0", "--to", str(tmp_path / "model")]) == 0
    run = buildup.open_run(name)
    assert run.decisions == buildup.open_run(tried).decisions
    assert [decision.step for decision in run.history.decisions] == [1]
    assert len(run.study.trials) == len(buildup.open_run(tried).study.trials)
    assert run.status == "finished"
    assert files(archive) == before
    capsys.readouterr()
    assert main(["report", name]) == 2
    assert "report.html: it can't be written" in (said := capsys.readouterr().err)
    assert "--to FILE" in said


def test_going_on_with_it_is_refused_with_what_to_do(archive: Path) -> None:
    with pytest.raises(RunError, match="copy it to where you may write"):
        acquire_run_lock(archive)
