"""Who writes a run, and who only asks."""

import errno
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from buildup.errors import RunError
from buildup.store import run_dir
from buildup.store.run_dir import acquire_run_lock, driver_of

HOLD = "import sys, time; from pathlib import Path; from buildup.store.run_dir import acquire_run_lock\n"
HOLD += "file = acquire_run_lock(Path(sys.argv[1])); print('taken', flush=True); time.sleep(600)"


def test_a_run_that_nobody_has_written_has_no_driver(tmp_path: Path) -> None:
    assert driver_of(tmp_path) is None
    assert not list(tmp_path.iterdir())
    with pytest.raises(RunError, match="there is no such run"):
        acquire_run_lock(tmp_path / "none")


def test_a_writer_is_named_until_it_closes(tmp_path: Path) -> None:
    with acquire_run_lock(tmp_path):
        assert driver_of(tmp_path) == f"{os.getpid()} on {socket.gethostname()}"
        with pytest.raises(RunError, match=f"being written by process {os.getpid()} on {socket.gethostname()}"):
            acquire_run_lock(tmp_path)
    assert driver_of(tmp_path) is None


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "taken\n"
        with pytest.raises(RunError, match=f"being written by process {holder.pid} on"):
            acquire_run_lock(tmp_path)
        holder.send_signal(signal.SIGKILL)
    assert driver_of(tmp_path) is None
    acquire_run_lock(tmp_path).close()


def test_a_file_system_without_locks_is_not_taken_for_a_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, *, blocking: bool) -> bool:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(run_dir, "lock_descriptor", refuse)
    with pytest.raises(RunError, match="it can't be locked: No locks available"):
        acquire_run_lock(tmp_path)
    assert driver_of(tmp_path) is None


def test_readers_neither_see_one_another_nor_keep_a_writer_out(tmp_path: Path) -> None:
    acquire_run_lock(tmp_path).close()
    with ThreadPoolExecutor(8) as pool:
        readers = [pool.submit(driver_of, tmp_path) for _ in range(400)]
        seen = {reader.result() for reader in readers}
        assert seen == {None}
        for _ in range(400):
            pool.submit(driver_of, tmp_path)
        acquire_run_lock(tmp_path).close()


def test_nfs_locks_only_what_is_open_for_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")
    flock = fcntl.flock

    def as_on_nfs(descriptor: int, operation: int) -> None:
        only_read = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        if operation & fcntl.LOCK_EX and only_read:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", as_on_nfs)
    with acquire_run_lock(tmp_path):
        assert driver_of(tmp_path) == f"{os.getpid()} on {socket.gethostname()}"
        with monkeypatch.context() as reader:
            reader.setattr(os, "access", lambda *_: False)
            assert driver_of(tmp_path) == "unknown"
    assert driver_of(tmp_path) is None
