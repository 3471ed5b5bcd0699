"""Database: one transaction a piece of work, durable, and old files become new ones."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert, inspect, select, text
from sqlalchemy.exc import IntegrityError

from edge_runtime.errors import CapacityError, ConfigError
from fleet.db.database import Database, open_database
from fleet.db.schema import MIGRATIONS, migrate, newest_version
from fleet.db.tables import groups


def group(connection: Connection, name: str) -> None:
    connection.execute(
        insert(groups).values(name=name, expression="true", description="", created_s=1.0)
    )


def names(connection: Connection) -> list[str]:
    return list(connection.execute(select(groups.c.name).order_by(groups.c.name)).scalars())


async def test_what_was_written_is_there_after_a_restart(database_url: str) -> None:
    async with Database.opened(database_url) as database:
        await database.write(lambda connection: group(connection, "berlin"))
    async with Database.opened(database_url) as database:
        assert await database.read(names) == ["berlin"]


async def test_work_that_fails_leaves_nothing(database_url: str) -> None:
    def half(connection: Connection) -> None:
        group(connection, "half")
        raise ValueError("on purpose")

    async with Database.opened(database_url) as database:
        with pytest.raises(ValueError, match="on purpose"):
            await database.write(half)
        assert await database.read(names) == []


async def test_a_reader_cannot_write(database_url: str) -> None:
    async with Database.opened(database_url) as database:
        with pytest.raises((CapacityError, Exception), match=r"(?i)read.?only"):
            await database.read(lambda connection: group(connection, "sneaky"))
        assert await database.read(names) == []


async def test_a_broken_constraint_is_told_as_such(database_url: str) -> None:
    async with Database.opened(database_url) as database:
        await database.write(lambda connection: group(connection, "one"))
        with pytest.raises(IntegrityError):
            await database.write(lambda connection: group(connection, "one"))


async def test_writes_go_one_after_another(database_url: str) -> None:
    def count_up(connection: Connection) -> None:
        seen = len(names(connection))
        group(connection, f"{seen:03d}")

    async with Database.opened(database_url) as database:
        await asyncio.gather(*(database.write(count_up) for _ in range(20)))
        assert await database.read(names) == [f"{number:03d}" for number in range(20)]


async def test_a_newer_database_is_refused(database_url: str) -> None:
    async with Database.opened(database_url) as database:
        await database.write(
            lambda connection: connection.execute(text("UPDATE schema_version SET version = 99"))
        )
    with pytest.raises(ConfigError, match="version 99"):
        open_database(database_url)


async def test_an_older_database_goes_through_each_step(database_url: str) -> None:
    steps = (
        *MIGRATIONS,
        ("CREATE TABLE step_one (id INTEGER)",),
        ("ALTER TABLE step_one ADD COLUMN two INTEGER", "INSERT INTO step_one VALUES (1, 2)"),
    )
    async with Database.opened(database_url) as database:
        newest = newest_version(steps)
        assert await database.write(lambda connection: migrate(connection, steps)) == newest
        row = await database.read(
            lambda connection: connection.execute(text("SELECT id, two FROM step_one")).one()
        )
        assert tuple(row) == (1, 2)
        # A second start finds nothing to do.
        assert await database.write(lambda connection: migrate(connection, steps)) == newest


async def test_the_first_version_becomes_what_is_made_now(database_url: str) -> None:
    def shape(connection: Connection) -> object:
        found = inspect(connection)
        return {
            name: (
                [(one["name"], kind_of(one["type"]), one["nullable"]) for one in columns],
                found.get_pk_constraint(name)["constrained_columns"],
                sorted(str(one["referred_table"]) for one in found.get_foreign_keys(name)),
                sorted(str(one["column_names"]) for one in found.get_indexes(name)),
            )
            for name in found.get_table_names()
            for columns in (found.get_columns(name),)
        }

    def kind_of(given: object) -> str:
        # SQLite stores both alike; only the second word is PostgreSQL's too.
        return str(given).replace("REAL", "DOUBLE")

    def back(connection: Connection) -> None:
        for statement in (
            "DROP TABLE cost_hours",
            "DROP TABLE box_budgets",
            "UPDATE schema_version SET version = 1",
        ):
            connection.execute(text(statement))

    async with Database.opened(database_url) as database:
        made = await database.read(shape)
        await database.write(back)
        assert await database.read(shape) != made
        await database.write(migrate)
        assert await database.read(shape) == made


def test_sqlite_is_set_to_be_durable(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/fleet.db")
    try:
        settings = database.write_now(
            lambda connection: [
                connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
                for name in ("journal_mode", "synchronous", "foreign_keys")
            ]
        )
    finally:
        database.close()
    assert settings == ["wal", 2, 1]
    assert (tmp_path / "fleet.db").stat().st_mode & 0o777 == 0o600


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE stranger (id INTEGER)")
    other.close()
    with pytest.raises(ConfigError, match="something else"):
        open_database(f"sqlite:///{path}")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite://", "name a file"),
        ("sqlite:///:memory:", "name a file"),
        ("mysql://localhost/x", "not supported"),
        ("what", "not a URL"),
        ("sqlite:////proc/nowhere/fleet.db", "may be written"),
        ("postgresql://nobody@127.0.0.1:1/none", "cannot be used now"),
    ],
)
def test_an_unusable_url_refuses_the_start(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        open_database(url)


def test_the_newest_version_counts_the_steps() -> None:
    assert newest_version(((), ())) == 3
