"""The ledger on a real file: group commit, append-only, budgets in parallel, roll-ups."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

import pytest

from edge_runtime.errors import ConfigError, EngineError
from edge_runtime.ledger import schema
from edge_runtime.ledger.database import check, open_reader, open_writer
from edge_runtime.ledger.ledger import Ledger
from edge_runtime.ledger.rows import (
    Outcome,
)
from tests.support.ledger import NOW, Clock, row


def test_rows_are_there_for_the_next_process(path: Path, clock: Clock) -> None:
    with Ledger.open(path, clock=clock) as ledger:
        assert ledger.append(row(1, reason="low confidence")).result() == 1
        assert ledger.outcome(Outcome(at_us=NOW, task_id="t1", resolved=True)).result() == 1
    with open_reader(path) as reader:
        kept = reader.execute("SELECT * FROM attempts").fetchone()
        assert (kept["reason"], kept["frontier_nano"], kept["tier"]) == (
            "low confidence",
            1001,
            "frontier",
        )
        check(reader)
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader.execute("DELETE FROM attempts")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_file_is_written_through_at_every_commit(path: Path) -> None:
    connection = open_writer(path)
    try:
        assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2
        assert connection.execute("PRAGMA user_version").fetchone()[0] == schema.VERSION
    finally:
        connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE attempts SET frontier_nano = 0",
        "DELETE FROM attempts",
        "UPDATE outcomes SET resolved = 1",
        "DELETE FROM outcomes",
    ],
)
def test_what_is_written_stays(path: Path, clock: Clock, statement: str) -> None:
    with Ledger.open(path, clock=clock) as ledger:
        ledger.append(row(1)).result()
        ledger.outcome(Outcome(at_us=NOW, task_id="t1", resolved=False)).result()
    connection = open_writer(path)
    try:
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(statement)
    finally:
        connection.close()


def test_a_foreign_newer_or_damaged_file_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.db"
    text.write_text("not a database, but long enough to look at" * 30)
    with pytest.raises(ConfigError, match="not an SQLite file"):
        open_writer(text)
    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as other:
        other.execute("CREATE TABLE something (a)")
    other.close()
    with pytest.raises(ConfigError, match="not a ledger"):
        open_writer(foreign)
    newer = tmp_path / "newer.db"
    connection = open_writer(newer)
    connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    connection.close()
    with pytest.raises(ConfigError, match="install the newer release"):
        open_writer(newer)
    with pytest.raises(ConfigError, match="may write"):
        open_writer(text / "below" / "ledger.db")
    with pytest.raises(ConfigError, match="there is no ledger"), open_reader(tmp_path / "no.db"):
        pass


def test_damage_is_found(path: Path, clock: Clock) -> None:
    with Ledger.open(path, clock=clock) as ledger:
        for number in range(500):
            ledger.append(row(number))
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 4096] = bytes(4096)
    path.write_bytes(data)
    with pytest.raises(EngineError, match="copy"), open_reader(path) as reader:
        check(reader)


def test_an_older_schema_is_taken_along(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    open_writer(path).close()
    more = (*schema.MIGRATIONS, ("ALTER TABLE attempts ADD COLUMN later INTEGER",))
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        schema.migrate(connection, more)
        assert connection.execute("PRAGMA user_version").fetchone()[0] == schema.VERSION + 1
        columns = [one[1] for one in connection.execute("PRAGMA table_info(attempts)")]
        assert columns[-1] == "later"
        broken = (*more, ("CREATE TABLE half (a)", "CREATE TABLE half (a)"))
        with pytest.raises(sqlite3.OperationalError, match="already exists"):
            schema.migrate(connection, broken)
        assert connection.execute("PRAGMA user_version").fetchone()[0] == schema.VERSION + 1
        assert not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'half'").fetchall()
    finally:
        connection.close()
