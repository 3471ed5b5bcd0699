"""Databases and brokers for the fleet's tests: SQLite, and the real servers of production."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support.services import folder_for_anyone, free_port, service

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Callable[[], str]]:
    """Makes the URL of an empty database on a PostgreSQL server that the session shares."""
    port = free_port()
    with (
        folder_for_anyone() as folder,
        service("postgresql", "--dir", str(folder), "--port", str(port), port=port),
    ):

        def create() -> str:
            name = f"fleet{next(_numbers)}"
            admin = f"postgresql://fleet@127.0.0.1:{port}/postgres"
            with psycopg.connect(admin, autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {name} STRATEGY file_copy")
            return f"postgresql://fleet@127.0.0.1:{port}/{name}"

        _await_start(f"postgresql://fleet@127.0.0.1:{port}/postgres")
        yield create


def _await_start(url: str) -> None:
    """It listens a moment before it is ready."""
    deadline = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
        else:
            return


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database, once of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/fleet.db"
    make: Callable[[], str] = request.getfixturevalue("postgresql")
    return make()
