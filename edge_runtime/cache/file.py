"""A cache's file: its tables, and a new one in place of one that cannot be used."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Layout:
    """The tables of one kind of cache, and the two numbers by which its file is known."""

    application_id: int
    version: int
    schema: str


SHARED_SCHEMA = """
CREATE INDEX entries_by_use ON entries (used);
CREATE INDEX entries_by_tenant ON entries (tenant);
CREATE INDEX entries_by_model ON entries (model_digest);
CREATE INDEX entries_by_epoch ON entries (epoch);
CREATE INDEX entries_by_expiry ON entries (expires_s);
CREATE TABLE tags (
    tag TEXT NOT NULL,
    entry INTEGER NOT NULL REFERENCES entries ON DELETE CASCADE,
    PRIMARY KEY (tag, entry)
) STRICT, WITHOUT ROWID;
CREATE INDEX tags_by_entry ON tags (entry);
CREATE TABLE state (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    epoch INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    entries INTEGER NOT NULL
) STRICT;
INSERT INTO state VALUES (1, 1, 0, 0);
CREATE TRIGGER entries_in AFTER INSERT ON entries
BEGIN UPDATE state SET bytes = bytes + NEW.bytes, entries = entries + 1; END;
CREATE TRIGGER entries_out AFTER DELETE ON entries
BEGIN UPDATE state SET bytes = bytes - OLD.bytes, entries = entries - 1; END;
"""
"""What `entries.Entries` needs beside the table `entries` itself."""

_SCHEMA = """
CREATE TABLE entries (
    entry INTEGER PRIMARY KEY,
    key BLOB NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    model_digest TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    kept_s INTEGER NOT NULL,
    expires_s INTEGER NOT NULL,
    used INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    answer BLOB NOT NULL
) STRICT;
"""


EXACT = Layout(application_id=0x45444743, version=2, schema=_SCHEMA + SHARED_SCHEMA)  # "EDGC"


class _UnusableError(Exception):
    """The file is a cache, but damaged or of another version."""


def open_file(path: Path, layout: Layout = EXACT) -> sqlite3.Connection:
    """A connection in autocommit mode on a cache of this version; 0600, WAL.

    Reads the whole file once. Raises `ConfigError` when the file cannot be made, or is not a
    cache: only what was a cache is ever replaced.
    """
    _touch(path)
    try:
        return _connect(path, layout)
    except sqlite3.DatabaseError as error:
        code = error.sqlite_errorcode & 0xFF
        if path.read_bytes()[:16] != b"SQLite format 3\0":
            raise ConfigError(f"{path}: not an SQLite file; name another one") from error
        if code != sqlite3.SQLITE_CORRUPT:
            raise ConfigError(f"{path}: {error}; does another process hold it?") from error
    except _UnusableError:
        pass
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    _touch(path)
    return _connect(path, layout)


def open_reader(path: Path) -> sqlite3.Connection:
    """A second connection, for lookups beside a writer; it cannot write."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
    connection.execute("PRAGMA query_only = ON")
    return connection


def _touch(path: Path) -> None:
    """Make the file, so that SQLite does not choose its mode."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; name a file the daemon may write") from error


def _connect(path: Path, layout: Layout = EXACT) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
    try:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA journal_size_limit = 16777216")
        (application_id,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (objects,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if objects and application_id != layout.application_id:
            raise ConfigError(f"{path}: is a database but not a cache; name another file")
        if objects and version != layout.version:
            raise _UnusableError
        if not objects:
            connection.executescript(
                f"BEGIN IMMEDIATE; {layout.schema} "
                f"PRAGMA application_id = {layout.application_id}; "
                f"PRAGMA user_version = {layout.version}; COMMIT;"
            )
        if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise _UnusableError
    except BaseException:
        connection.close()
        raise
    return connection
