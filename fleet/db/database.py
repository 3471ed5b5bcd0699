"""One way to read and to write, for SQLite and PostgreSQL alike.

Rules
- Work is a function of a connection; it runs in one transaction, off the event loop. When
  `write` returns, the transaction is committed and durable (SQLite: WAL with synchronous FULL;
  PostgreSQL: its default, synchronous_commit on). When it raises, nothing was changed.
- Writes of a process go one after another, in the order they were asked for. Work done by `write`
  may read first and write then without another write of this process in between. Other processes
  (ingest workers on PostgreSQL) may write too: what must not race uses one statement or a
  constraint.
- Reads see one moment and cannot write.

Example::

    async with Database.opened("sqlite:///fleet.db") as database:
        await database.write(lambda connection: boxes.insert(connection, box))
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
)

from edge_runtime.errors import CapacityError, ConfigError, EngineError
from fleet.db.schema import migrate

BUSY_TIMEOUT_S: Final = 10.0
RETRY_AFTER_S: Final = 5.0
READERS: Final = 4
T = TypeVar("T")
Work = Callable[[Connection], T]


class Database:
    """Two pools of connections and the threads that use them. Make one with `open_database`."""

    def __init__(self, writer: Engine, reader: Engine) -> None:
        self._writer, self._reader = writer, reader
        self._writes = ThreadPoolExecutor(1, thread_name_prefix="fleet-write")
        self._reads = ThreadPoolExecutor(READERS, thread_name_prefix="fleet-read")

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, url: str) -> AsyncIterator[Database]:
        """Open, migrate, and close at the end. Raises `ConfigError`."""
        database = await asyncio.to_thread(open_database, url)
        try:
            yield database
        finally:
            await asyncio.to_thread(database.close)

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self._writer.dialect.name

    async def write(self, work: Work[T]) -> T:
        """Run `work` in a transaction; it is durable when this returns.

        Cancelling the caller does not stop work that has begun. Raises what `work` raises, and
        `CapacityError` when the database is busy, full or away.
        """
        return await asyncio.get_running_loop().run_in_executor(self._writes, self.write_now, work)

    async def read(self, work: Work[T]) -> T:
        """Run `work`, which only reads. Raises as `write` does."""
        return await asyncio.get_running_loop().run_in_executor(self._reads, self.read_now, work)

    def write_now(self, work: Work[T]) -> T:
        """`write` for code without an event loop."""
        with _explained(), self._writer.begin() as connection:
            return work(connection)

    def read_now(self, work: Work[T]) -> T:
        """`read` for code without an event loop."""
        with _explained(), self._reader.begin() as connection:
            return work(connection)

    def close(self) -> None:
        """Wait for work in progress and close every connection."""
        self._writes.shutdown()
        self._reads.shutdown()
        self._writer.dispose()
        self._reader.dispose()


def open_database(url: str) -> Database:
    """Connect, check and migrate.

    `url` is `sqlite:///<path>` or `postgresql://user:password@host/name`. Raises `ConfigError`.
    """
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
        if backend == "sqlite":
            writer, reader = _sqlite_engines(parsed)
        elif backend == "postgresql":
            writer, reader = _postgresql_engines(parsed)
        else:
            raise ConfigError(f"database: {backend} is not supported; use sqlite or postgresql")
    except (ArgumentError, NoSuchModuleError) as error:
        raise ConfigError(f"database: not a URL: {error}") from error
    database = Database(writer, reader)
    try:
        database.write_now(migrate)
    except CapacityError as error:
        database.close()
        raise ConfigError(f"database {parsed.render_as_string()}: {error}") from error
    except BaseException:
        database.close()
        raise
    return database


def _sqlite_engines(url: URL) -> tuple[Engine, Engine]:
    if not url.database or url.database == ":memory:":
        raise ConfigError("database: name a file, as in sqlite:////var/lib/edge-fleet/fleet.db")
    _create(Path(url.database))
    options: dict[str, Any] = {"connect_args": {"timeout": BUSY_TIMEOUT_S}}
    writer = create_engine(url, pool_size=1, max_overflow=1, **options)
    reader = create_engine(url, pool_size=READERS, max_overflow=2, **options)

    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # transactions begin where `begin` says, not by guess
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA journal_size_limit = 67108864")

    def prepare_reader(connection: sqlite3.Connection, record: object) -> None:
        prepare(connection, record)
        connection.execute("PRAGMA query_only = ON")

    event.listen(writer, "connect", prepare)
    event.listen(reader, "connect", prepare_reader)
    # IMMEDIATE: who will write says so first, or two readers who turn writers would deadlock.
    event.listen(writer, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    event.listen(reader, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    return writer, reader


def _postgresql_engines(url: URL) -> tuple[Engine, Engine]:
    url = url.set(drivername="postgresql+psycopg")
    options: dict[str, Any] = {
        "pool_pre_ping": True,  # the server may have been restarted since
        "connect_args": {"connect_timeout": int(BUSY_TIMEOUT_S)},
    }
    writer = create_engine(url, pool_size=1, max_overflow=1, **options)
    reader = create_engine(
        url,
        pool_size=READERS,
        max_overflow=2,
        isolation_level="REPEATABLE READ",
        **options,
    )

    def read_only(connection: Connection) -> None:
        connection.exec_driver_sql("SET TRANSACTION READ ONLY")

    event.listen(reader, "begin", read_only)
    return writer, reader


def _create(path: Path) -> None:
    """Make the file its owner's only, and its name durable."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; name a file that may be written") from error


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """What a database may do to us, by what to do about it; broken constraints pass through."""
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        raise CapacityError(
            f"the database cannot be used now: {error.orig}",
            retry_after_s=RETRY_AFTER_S,
            status=503,
        ) from error
    except DatabaseError as error:
        if isinstance(error.orig, sqlite3.DatabaseError) and not isinstance(
            error.orig, sqlite3.IntegrityError | sqlite3.ProgrammingError | sqlite3.DataError
        ):
            raise EngineError(
                f"the database is damaged: {error.orig}; restore it from a copy"
            ) from error
        raise
