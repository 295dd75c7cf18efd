"""Storages of the Optuna study: a file in the run's folder, or a database that several machines can read."""

import os
import shutil
import sqlite3
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import wraps
from importlib import import_module
from itertools import count
from pathlib import Path
from select import select
from tempfile import TemporaryDirectory
from typing import Any

import optuna
from optuna.artifacts import FileSystemArtifactStore
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages._rdb.models import BaseModel
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from sqlalchemy import event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, InterfaceError, NoSuchModuleError, OperationalError, SQLAlchemyError

from buildup.errors import RemoteError, ResourceError, RunError, SearchError, command
from buildup.store.outage import Outage

DRIVERS = {"postgresql": "psycopg2", "mysql": "pymysql"}
"""The driver for a URL that names none. SQLAlchemy's own choice changes with its version."""
PACKAGES = {"psycopg2": "psycopg2-binary"}
"""The package of a driver, if its name differs."""
CONNECT_TIMEOUT = 5
"""Seconds for connecting to a database server."""
ANSWER_TIMEOUT = 30
"""Seconds in which a server must have sent something, when it was asked."""
SQLITE_TIMEOUT = 30
"""Seconds for the lock of a SQLite file."""
STUDY_FILES = ("study.db", "study.db-wal", "study.db-shm", "study.db-journal")
"""The file of a study, and what SQLite keeps beside it."""
OWN_DISKS = frozenset({"btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "tmpfs", "xfs", "zfs"})
"""File systems that are not shared between machines."""


@contextmanager
def opened_storage(url: str | None, folder: Path) -> Iterator[BaseStorage]:
    """Open the storage at a URL, or `study.db` in the run folder without one.

    URLs are those of SQLAlchemy; `journal:///FILE` or the path of a `.log` file means Optuna's journal file.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if url is None:
        parsed = make_url("sqlite://").set(database=str(folder.absolute() / "study.db"))
    elif journal := _journal_file(url):
        yield _journal(journal)
        return
    else:
        parsed = _parsed(url)
    with ExitStack() as held:
        storage = _database(_readable(parsed, held))
        held.callback(storage.engine.dispose)
        held.callback(storage.remove_session)
        yield storage


def check_storage(url: str | None, study_name: str) -> None:
    """Raise if a storage can't be used, or holds a study of this name already. Nothing is written to a file."""
    if url is None:
        return
    if journal := _journal_file(url):
        if not journal.parent.is_dir():
            raise ResourceError(f"storage {journal}: the folder {journal.parent} does not exist.")
        if not journal.exists():
            return
    elif url.startswith("sqlite:") and not Path(_parsed(url).database or "").exists():
        _check_file(_parsed(url))
        return
    with opened_storage(url, Path()) as storage:
        names = {study.study_name for study in storage.get_all_studies()}
    if study_name in names:
        raise RunError(
            f"{hide_password(url)} holds a study {study_name!r} already. "
            f"Go on with it by `resume`, or choose another name for the run."
        )


def artifact_store(folder: Path) -> FileSystemArtifactStore:
    path = folder / "artifacts"
    path.mkdir(exist_ok=True)
    return FileSystemArtifactStore(path)


def make_durable(storage: BaseStorage) -> None:
    """Wait until everything in a SQLite file is on the disk. Other storages do not answer earlier than that."""
    if isinstance(storage, RDBStorage) and storage.engine.name == "sqlite":
        with storage.engine.connect() as connection:
            connection.exec_driver_sql("pragma wal_checkpoint(truncate)")


def set_aside(folder: Path) -> Path | None:
    """Move the `study.db` of a run, which is damaged, into a folder of its own; None if there is no such file."""
    found = [path for name in STUDY_FILES if (path := folder / name).exists()]
    if not found:
        return None
    place = next(path for number in count(1) if not (path := folder / f"damaged-{number}").exists())
    place.mkdir()
    for path in found:
        path.rename(place / path.name)
    return place


def way_back(file: Path | None) -> str:
    """A sentence on how to make a file anew, if it is the `study.db` of a run."""
    if file is None or file.name != STUDY_FILES[0]:
        return ""
    if is_final(file.parent):
        again = command("final", file.parent.parent)
        return f" If it is damaged, remove it: `{again}` makes it anew from the files of the trainings."
    again = command("resume", file.parent, "--rebuild")
    return f" If it is damaged, `{again}` makes it anew from the files of the trainings."


def is_final(folder: Path) -> bool:
    """Whether a folder with a study is that of a final, inside that of its run."""
    return not (folder / "run.yaml").is_file() and (folder.parent / "run.yaml").is_file()


def hide_password(url: str | None) -> str:
    if url is None:
        return "study.db of the run"
    return url if _journal_file(url) else _parsed(url).render_as_string(hide_password=True)


@contextmanager
def reporting_lost_storage(what: str) -> Iterator[None]:
    """Turn a failure of a storage or a disk into a `SearchError`."""
    try:
        yield
    except RemoteError:  # it is about the files of a training, and says so
        raise
    except (optuna.exceptions.StorageInternalError, SQLAlchemyError, OSError) as error:
        raise SearchError(
            f"{what} can't be written any more: {cause_of(error)}. Nothing that was written is lost; "
            f"`resume` goes on once it works again."
        ) from error


def _patient(method: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a method of a storage, which is one transaction, to be called again while the server does not answer."""

    @wraps(method)
    def call(self: RDBStorage, *arguments: Any, **named: Any) -> Any:
        outage = Outage(hide_password(self.url))
        while True:
            try:
                done = method(self, *arguments, **named)
            except optuna.exceptions.UpdateFinishedTrialError:
                if outage.is_on:  # the transaction was carried out, and only its answer was lost
                    return True
                raise
            except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
                if not _is_outage(error) or outage.is_too_long:
                    raise
                outage.goes_on(cause_of(error))
                outage.wait()
            else:
                outage.end()
                return done

    return call


class PatientStorage(RDBStorage):
    """A database on a server that may be restarted, or be out of reach for some minutes, while trainings go on."""


# Optuna's cache calls the last two, and they do the work of the two that are left out.
for _name in (BaseStorage.__abstractmethods__ - {"create_new_trial", "get_all_trials"}) | {
    "_create_new_trial",
    "_get_trials",
}:
    setattr(PatientStorage, _name, _patient(getattr(RDBStorage, _name)))


def _is_outage(error: BaseException) -> bool:
    """Whether the connection was lost or refused, in contrast to a statement that is wrong."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    return any(isinstance(one, OperationalError | InterfaceError) for one in chain)


def _wait_for_postgres(connection: Any) -> None:
    psycopg2 = import_module("psycopg2.extensions")
    seconds = ANSWER_TIMEOUT if connection.status in {psycopg2.STATUS_READY, psycopg2.STATUS_BEGIN} else CONNECT_TIMEOUT
    while (state := connection.poll()) != psycopg2.POLL_OK:
        reading = [connection] if state == psycopg2.POLL_READ else []
        writing = [] if reading else [connection]
        if not any(select(reading, writing, [], seconds)):
            raise import_module("psycopg2").OperationalError(f"no answer for {seconds} s")


def cause_of(error: BaseException) -> str:
    """The driver's message behind an error of a storage, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(getattr(error, "orig", None) or error).split()).rstrip(".")


def _parsed(url: str) -> URL:
    try:
        return make_url(url)
    except (ArgumentError, ValueError):
        raise ResourceError(
            f"storage {url.split('@')[-1]!r} is no URL. Examples: sqlite:///study.db, "
            f"postgresql://user:password@host/database, journal:///study.log."
        ) from None


def _journal_file(url: str) -> Path | None:
    if url.startswith("journal://"):
        return Path(url.removeprefix("journal://").removeprefix("/"))
    return Path(url) if "://" not in url and url.endswith(".log") else None


def _journal(path: Path) -> JournalStorage:
    try:
        if path.exists():
            with path.open("rb") as file:
                start = file.read(1)
            if start not in {b"", b"{"}:
                raise RunError(f"{path}: this is no journal file of Optuna. Give another file.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return JournalStorage(JournalFileBackend(str(path), _WholeLines(str(path))))
    except OSError as error:
        raise ResourceError(f"storage {path} can't be used: {error}.") from None
    except (ValueError, KeyError) as error:
        raise RunError(f"{path}: this is no journal file of Optuna, or a damaged one ({error}).") from None


class _WholeLines(JournalFileSymlinkLock):
    """The lock under which a journal is appended to. A full disk or a power cut may leave half a line at its end.

    Readers skip that, but what is appended to it would be lost, and the journal could not be read any more.
    """

    def acquire(self) -> bool:
        taken = super().acquire()
        try:
            self._mend()
        except BaseException:
            self.release()
            raise
        return taken

    def _mend(self) -> None:
        with open(self._lock_target_file, "ab+") as file:
            if size := file.seek(0, os.SEEK_END):
                file.seek(size - 1)
                if file.read() != b"\n":
                    file.seek(0)
                    file.truncate(file.read().rfind(b"\n") + 1)


def _database(url: URL) -> RDBStorage:
    name = url.render_as_string(hide_password=True)
    backend = url.get_backend_name()
    file = Path(str(url.database)) if backend == "sqlite" else None
    is_new = file is not None and not file.exists()
    engine: dict[str, Any]
    if file:
        _check_file(url)
        engine = {"connect_args": {"timeout": SQLITE_TIMEOUT}}
    elif backend in DRIVERS:
        url = url if "+" in url.drivername else url.set(drivername=f"{backend}+{DRIVERS[backend]}")
        # Trainings take long, and servers drop idle connections.
        engine = {"connect_args": {"connect_timeout": CONNECT_TIMEOUT}, "pool_pre_ping": True}
        if url.drivername.endswith("+psycopg2"):
            # psycopg2's own wait for answers has no limit, and holds up Ctrl-C.
            with suppress(ImportError):  # which is reported below
                import_module("psycopg2.extensions").set_wait_callback(_wait_for_postgres)
            # Else a connection whose machine is gone is noticed after two hours.
            engine["connect_args"] |= {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
        elif backend == "mysql":
            engine["connect_args"] |= {"read_timeout": ANSWER_TIMEOUT, "write_timeout": ANSWER_TIMEOUT}
    else:
        raise ResourceError(f"storage {name}: {backend!r} is not known; known are sqlite, postgresql, mysql, journal.")
    try:
        kind = RDBStorage if file else PatientStorage
        storage = kind(url.render_as_string(hide_password=False), engine_kwargs=engine)
        if file:
            _configure_sqlite(storage, write_ahead=is_new and _is_own_disk(file))
        return storage
    except (ImportError, NoSuchModuleError) as error:
        driver = url.drivername.rpartition("+")[2]
        raise ResourceError(
            f"storage {name} needs a driver that is not installed: {cause_of(error)}. "
            f"Install it with `pip install {PACKAGES.get(driver, driver)}`."
        ) from None
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise ResourceError(f"storage {name} can't be used: {cause_of(error)}.{way_back(file)}") from None
    except RuntimeError as error:
        raise RunError(f"storage {name} was written by another version of Optuna: {error}") from None


def _readable(url: URL, held: ExitStack) -> URL:
    """The URL, or that of a copy where it is a file in a folder that can't be written.

    SQLite makes a lock and its log beside a file, even to read it.
    """
    file = Path(url.database or "")
    if url.get_backend_name() != "sqlite" or not file.is_file() or os.access(file.parent, os.W_OK):
        return url
    temporary = Path(held.enter_context(TemporaryDirectory()))
    for path in (file, file.with_name(f"{file.name}-wal")):
        if path.is_file():
            shutil.copyfile(path, temporary / f"copy-of-{path.name}")
    return url.set(database=str(temporary / f"copy-of-{file.name}"))


def _configure_sqlite(storage: RDBStorage, *, write_ahead: bool) -> None:
    """Use SQLite's write-ahead log (`study.db-wal`), which does not wait for the disk at every report.

    A power cut may lose the latest entries. They are recovered from the final records of the trainings, and the same
    decisions follow. A file keeps the journal mode that it was created with.
    """
    if write_ahead:
        with storage.engine.connect() as connection:
            connection.exec_driver_sql("pragma journal_mode=wal")

    @event.listens_for(storage.engine, "connect")
    def set_up(connection: sqlite3.Connection, record: object) -> None:
        if connection.execute("pragma journal_mode").fetchone() == ("wal",):
            connection.execute("pragma synchronous=normal")

    storage.engine.dispose()  # open connections would keep the old settings


def _is_own_disk(path: Path) -> bool:
    """Whether a file is on a disk of this machine alone. The log needs shared memory, which other machines lack."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return False
    place = str(path.absolute())
    over = [(len(where), kind) for _, where, kind, *_ in mounts if os.path.commonpath([where, place]) == where]
    return max(over, default=(0, ""))[1] in OWN_DISKS


def _check_file(url: URL) -> None:
    """Raise if a file is another database: Optuna would add its tables to any."""
    path = Path(url.database or "")
    if not path.name:
        raise ResourceError("storage sqlite:// keeps the study in memory, where no `resume` finds it. Name a file.")
    if not path.parent.is_dir():
        raise ResourceError(f"storage {path}: the folder {path.parent} does not exist.")
    if not path.exists() or path.stat().st_size == 0:
        return
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            tables = {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}
    except sqlite3.DatabaseError as error:
        raise RunError(
            f"{path}: this is no study database ({error}). Move it away, or choose another run.{way_back(path)}"
        ) from None
    # A process that died while it made the tables leaves some of them.
    if not {"studies", "trials", "version_info"} <= tables and tables - BaseModel.metadata.tables.keys():
        raise RunError(f"{path}: this is a database of something else (tables {', '.join(sorted(tables)) or 'none'}).")
