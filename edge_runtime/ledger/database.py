"""Open the ledger's file.

Rules
- WAL with synchronous FULL: when a commit returns, its WAL frames were fsynced. Readers never
  wait for the writer.
- The file is its owner's only (0600): rows name tenants and tasks.
- The log that WAL keeps is cut back to 64 MiB at each checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from edge_runtime.errors import CapacityError, ConfigError, EngineError
from edge_runtime.ledger.schema import VERSION, migrate

BUSY_TIMEOUT_MS = 5000
WAL_LIMIT_BYTES = 64 << 20
OLDEST_SQLITE = (3, 37, 0)  # STRICT tables
RETRY_AFTER_S = 30.0


def open_writer(path: Path) -> sqlite3.Connection:
    """A connection in autocommit mode on a file that exists and has the newest schema.

    Raises `ConfigError` when the file cannot be a ledger, `EngineError` when it is damaged.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise ConfigError(
            f"SQLite {sqlite3.sqlite_version} is too old for the ledger; install 3.37 or newer"
        )
    _create(path)
    connection = _connect(f"{path.absolute().as_uri()}?mode=rw")
    try:
        with explained(path):
            # Takes effect only before the first table is made.
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise ConfigError(f"{path}: this file system cannot hold a WAL; use a local disk")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}")
            connection.execute("PRAGMA foreign_keys = ON")
            migrate(connection)
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def open_reader(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that sees one moment of the ledger and cannot write.

    Raises `ConfigError` when there is no such file, or one that an older release wrote.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: there is no ledger; name one with --ledger")
    connection = _connect(f"{path.absolute().as_uri()}?mode=rw")
    try:
        with explained(path):
            connection.execute("PRAGMA query_only = ON")
            connection.execute("BEGIN")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version < VERSION:
                raise ConfigError(
                    f"{path}: the ledger is of an older release; start the daemon once to "
                    "convert it"
                )
            yield connection
    finally:
        connection.close()


def check(connection: sqlite3.Connection) -> None:
    """Look at every page and every index. Costs a read of the whole file.

    Raises `EngineError` with what SQLite found.
    """
    found = [row[0] for row in connection.execute("PRAGMA integrity_check(10)")]
    if found != ["ok"]:
        raise EngineError(f"the ledger is damaged: {'; '.join(found)}; restore it from a copy")


@contextlib.contextmanager
def explained(path: Path | str) -> Iterator[None]:
    """SQLite's errors as this project's: full or busy disks may pass, damage does not."""
    try:
        yield
    except sqlite3.Error as error:
        raise explain(path, error) from error


def explain(path: Path | str, error: sqlite3.Error) -> Exception:
    """The error of this project that tells what to do about one of SQLite's."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        what = "free some disk space" if code == sqlite3.SQLITE_FULL else "another process holds it"
        return CapacityError(f"{path}: {error}; {what}", retry_after_s=RETRY_AFTER_S, status=503)
    if code == sqlite3.SQLITE_NOTADB:
        return ConfigError(f"{path}: not an SQLite file; name another one")
    if code == sqlite3.SQLITE_CANTOPEN:
        return ConfigError(f"{path}: cannot be opened; check the folder and its permissions")
    return EngineError(f"{path}: {error}; check the disk, then restore the file from a copy")


def _connect(uri: str) -> sqlite3.Connection:
    # The writer's thread is not the one that opens; it alone uses the connection afterwards.
    connection = sqlite3.connect(
        uri,
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=BUSY_TIMEOUT_MS / 1000,
    )
    connection.row_factory = sqlite3.Row
    return connection


def _create(path: Path) -> None:
    """Make the file, so that SQLite does not choose its mode, and make its name durable."""
    try:
        made = [one for one in (path.parent, *path.parent.parents) if not one.exists()]
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        # A folder's name is durable once the folder that holds it was fsynced.
        for folder in (path.parent, *(one.parent for one in made)):
            directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; name a file the daemon may write") from error
