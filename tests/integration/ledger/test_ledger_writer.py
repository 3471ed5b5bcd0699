"""The ledger's one writer: group commit, refusals, failures that take only themselves back."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from edge_runtime.errors import CapacityError, EngineError
from edge_runtime.ledger.database import open_reader, open_writer
from edge_runtime.ledger.ledger import Ledger
from edge_runtime.ledger.writer import GroupWriter
from tests.support.ledger import Clock, row


def test_rows_that_wait_share_a_commit(path: Path, clock: Clock) -> None:
    with Ledger.open(path, clock=clock) as ledger:
        before = ledger.commits
        gate = threading.Event()
        first = ledger._writer.submit(lambda _: gate.wait(10))
        waiting = [ledger.append(row(number)) for number in range(100)]
        assert not any(one.done() for one in waiting)
        gate.set()
        assert first.result()
        assert [one.result() for one in waiting] == list(range(1, 101))
        assert ledger.commits - before <= 2


def test_a_command_that_fails_takes_only_itself_back(path: Path, clock: Clock) -> None:
    with Ledger.open(path, clock=clock) as ledger:
        gate = threading.Event()
        ledger._writer.submit(lambda _: gate.wait(10))
        good = ledger.append(row(1))
        bad = ledger.settle("never made", row(2))
        after = ledger.append(row(3))
        gate.set()
        with pytest.raises(ValueError, match="not known"):
            bad.result()
        assert (good.result(), after.result()) == (1, 2)
    with open_reader(path) as reader:
        kept = reader.execute("SELECT request_id FROM attempts").fetchall()
    assert [one[0] for one in kept] == ["r1", "r3"]


def test_a_full_disk_fails_the_rows_it_did_not_keep(path: Path, clock: Clock) -> None:
    with Ledger.open(path, clock=clock) as ledger:
        ledger.append(row(1)).result()
        pages = ledger._writer.submit(
            lambda connection: connection.execute("PRAGMA page_count").fetchone()[0]
        ).result()
        ledger._writer.submit(
            lambda connection: connection.execute(f"PRAGMA max_page_count = {pages}").fetchone()
        ).result()
        big = [ledger.append(row(n, reason="x" * 200, tag="y" * 200)) for n in range(2, 200)]
        failures = [one.exception() for one in big]
        refused = [one for one in failures if one is not None]
        assert refused
        assert all(isinstance(one, CapacityError) and one.status == 503 for one in refused)
        ledger._writer.submit(
            lambda connection: connection.execute("PRAGMA max_page_count = 100000").fetchone()
        ).result()
        last = ledger.append(row(500)).result()
        assert last == 2 + sum(one is None for one in failures)


def test_more_waiting_rows_than_allowed_are_refused(path: Path) -> None:
    writer = GroupWriter(open_writer(path), path, max_waiting=2)
    gate, begun = threading.Event(), threading.Event()

    def wait(_: sqlite3.Connection) -> bool:
        begun.set()
        return gate.wait(10)

    first = writer.submit(wait)
    assert begun.wait(10)
    others = [writer.submit(lambda _: 1) for _ in range(2)]
    with pytest.raises(CapacityError, match="wait for the disk"):
        writer.submit(lambda _: 1)
    others[0].cancel()
    gate.set()
    assert (first.result(), others[1].result()) == (True, 1)
    writer.close()
    writer.close()
    with pytest.raises(CapacityError, match="closed"):
        writer.submit(lambda _: 1)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_nobody_waits_for_a_writer_that_stopped(path: Path) -> None:
    gate = threading.Event()

    def broken_upkeep(_: sqlite3.Connection) -> None:
        gate.wait(10)
        raise RuntimeError("a bug")

    writer = GroupWriter(open_writer(path), path, after_commit=broken_upkeep)
    assert writer.submit(lambda _: 1).result(10) == 1
    late = writer.submit(lambda _: 2)
    gate.set()
    with pytest.raises(EngineError, match="writer stopped"):
        late.result(10)
    with pytest.raises(CapacityError, match="closed"):
        writer.submit(lambda _: 3)
    writer.close()


def test_upkeep_that_meets_a_busy_disk_costs_no_row(path: Path) -> None:
    def busy(connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        raise sqlite3.OperationalError("database is locked")

    writer = GroupWriter(open_writer(path), path, after_commit=busy)
    results = [writer.submit(lambda _, n=n: n).result(10) for n in range(3)]  # type: ignore[misc]
    writer.close()
    assert results == [0, 1, 2]


def test_a_row_the_schema_refuses_fails_alone(path: Path, clock: Clock) -> None:
    with Ledger.open(path, clock=clock) as ledger:
        ledger.append(row(1)).result()
        bad = ledger._writer.submit(
            lambda connection: connection.execute("UPDATE attempts SET tokens_in = 0").rowcount
        )
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            bad.result()
        assert ledger.append(row(2)).result() == 2
