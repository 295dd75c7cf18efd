"""A disk on which the n-th write fails, or stops to change: what a full disk, a bad one, a kill and a power cut do.

A write is whatever changes a file or a folder through Python, half of it and all of it, and each statement and commit
that SQLAlchemy sends to a SQLite file. `Disk.watch` sees those below one folder and calls a function before each.
"""

import builtins
import io
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import OperationalError

Before = Callable[[str], None]
"""Called before a write with its name; what it raises happens instead of the write."""
CHANGED = ("replace", "rename", "link", "unlink", "remove", "mkdir", "rmdir", "chmod", "truncate")
"""Functions of `os` whose arguments are paths."""


class Disk:
    """The writes below one folder, and what a power cut would take away of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._before: Before | None = None
        self._synced: dict[str, int] = {}
        """Of files with bytes that no fsync has put on the disk: how many bytes it has for sure."""
        self._renamed: dict[str, list[tuple[str, bytes | None]]] = {}
        """Of folders: the names that were given since their last fsync, each with what stood there before."""
        self._written: set[int] = set()
        """The connections with something to commit."""

    def copy(self, target: Path) -> None:
        """What another process finds when this one is killed now."""
        shutil.copytree(self._folder, target)

    def copy_synced(self, target: Path, share: float = 0.0) -> None:
        """What is found after a power cut: nothing that no fsync asked for, and a share of SQLite's newest entries."""
        self.copy(target)
        for name, size in self._synced.items():
            path = target / os.path.relpath(name, self._folder)
            if path.is_file() and path.stat().st_size > size:
                os.truncate(path, size)
        for name, former in (one for renamed in self._renamed.values() for one in reversed(renamed)):
            path = target / os.path.relpath(name, self._folder)
            if former is not None:
                path.write_bytes(former)
            elif path.is_file():
                path.unlink()
        for log in target.rglob("*.db-wal"):
            os.truncate(log, int(share * log.stat().st_size))
        for shared in target.rglob("*.db-shm"):
            shared.unlink()

    @contextmanager
    def watch(self, before: Before) -> Iterator[None]:
        """Call a function before each write."""
        with ExitStack() as patched:
            for name in (*CHANGED, "fsync"):
                patched.enter_context(mock.patch.object(os, name, self._changing(name)))
            for module in (io, builtins):
                patched.enter_context(mock.patch.object(module, "open", self._open))
            for name, listener in (("before_cursor_execute", self._statement), ("commit", self._commit)):
                event.listen(Engine, name, listener)
                patched.callback(event.remove, Engine, name, listener)
            self._before = before
            try:
                yield
            finally:
                self._before = None

    def write(self, name: str, where: object) -> None:
        """Note a write, if it is below the folder."""
        if self._before and os.fspath(where).startswith(self._folder):  # type: ignore[call-overload] # paths and texts
            self._before(f"{name} {os.path.relpath(os.fspath(where), self._folder)}")  # type: ignore[call-overload]

    def _changing(self, name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def changing(first: Any, *others: Any, **named: Any) -> Any:
            path = os.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else os.fspath(first)
            self.write(name, path)
            moves = name in {"replace", "rename"}
            target = os.fspath(others[0]) if moves else ""
            former = Path(target).read_bytes() if os.path.isfile(target) else None
            done = real(first, *others, **named)
            if name == "fsync":
                self._synced.pop(path, None)
                self._renamed.pop(path, None)
            elif moves and self._before and target.startswith(self._folder):
                self._renamed.setdefault(os.path.dirname(target), []).append((target, former))
                if path in self._synced:
                    self._synced[target] = self._synced.pop(path)
            return done

        return changing

    def _open(self, file: Any, mode: str = "r", *others: Any, **named: Any) -> Any:
        is_descriptor = isinstance(file, int)
        path = os.readlink(f"/proc/self/fd/{file}") if is_descriptor else os.fspath(file)
        if not self._before or not set(mode) & set("wax+") or not str(path).startswith(self._folder):
            return _OPEN(file, mode, *others, **named)
        if not is_descriptor:
            self.write("open", path)
        kept = os.path.getsize(path) if "a" in mode and os.path.exists(path) else 0
        opened = _OPEN(file, mode, *others, **named)
        self._synced.setdefault(path, kept)
        return _File(self, path, opened)

    def _statement(self, connection: Connection, cursor: object, statement: str, *_: object) -> None:
        verb = statement.split(maxsplit=1)[0]
        if verb.isupper() and verb not in {"SELECT", "PRAGMA"}:
            self._written.add(id(connection))
            self._database(connection, verb)

    def _commit(self, connection: Connection) -> None:
        if id(connection) in self._written:
            self._written.discard(id(connection))
            self._database(connection, "commit")

    def _database(self, connection: Connection, what: str) -> None:
        try:
            self.write(what, str(connection.engine.url.database))
        except OSError as error:
            what = "disk I/O error" if error.errno == 5 else "database or disk is full"
            raise OperationalError(what, None, sqlite3.OperationalError(what)) from None


class _File:
    """An open file whose writes are noted twice: before anything of them is in the file, and after half of it is."""

    def __init__(self, disk: Disk, path: str, file: Any) -> None:
        self._disk, self._path, self._file = disk, path, file

    def write(self, data: Any) -> int:
        self._disk.write("write", self._path)
        half = len(data) // 2
        self._file.write(data[:half])
        self._file.flush()
        self._disk.write("half of write", self._path)
        self._file.write(data[half:])
        self._file.flush()
        return len(data)

    def truncate(self, *size: int) -> int:
        self._disk.write("truncate", self._path)
        return int(self._file.truncate(*size))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._file)


_OPEN = io.open
