"""The ledger on a real file: group commit, append-only, budgets in parallel, roll-ups."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.errors import CapacityError, ConfigError, EngineError
from edge_runtime.ledger import budget_sql, schema
from edge_runtime.ledger.budget import Expiry, Limit, Period, Refused, Usage, window_of
from edge_runtime.ledger.database import check, open_reader, open_writer
from edge_runtime.ledger.ledger import Ledger
from edge_runtime.ledger.rollup import SUMS, Retention
from edge_runtime.ledger.rows import (
    US_PER_DAY,
    Attempt,
    JouleSource,
    MoneySource,
    Outcome,
    Purpose,
    Tier,
)
from edge_runtime.ledger.writer import GroupWriter

NOW = 1_795_348_800_000_000  # 2026-11-22 12:00 UTC


class Clock:
    def __init__(self) -> None:
        self.us = NOW

    def __call__(self) -> int:
        return self.us


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "box" / "ledger.db"


def row(number: int, at_us: int = NOW, **changes: object) -> Attempt:
    values: dict[str, object] = {
        "at_us": at_us,
        "request_id": f"r{number}",
        "task_id": f"t{number}",
        "tier": Tier.FRONTIER,
        "model": "big",
        "tokens_in": 10 + number,
        "tokens_out": 5,
        "frontier_nano": 1000 + number,
        "money_source": MoneySource.USAGE,
        "answered": True,
    }
    return Attempt(**{**values, **changes})  # type: ignore[arg-type]


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


async def test_fifty_parallel_requests_share_a_budget_for_ten(path: Path, clock: Clock) -> None:
    limits = [Limit("box", Period.DAY, 10 * 1000 + 999)]
    with Ledger.open(path, limits=limits, clock=clock) as ledger:

        async def call(number: int) -> bool:
            granted = ledger.reserve(f"c{number}", worst_nano=1000)
            if isinstance(await asyncio.wrap_future(granted), Refused):
                return False
            paid = row(number, frontier_nano=1000)
            await asyncio.wrap_future(ledger.settle(f"c{number}", paid))
            return True

        sent = await asyncio.gather(*(call(number) for number in range(50)))
        assert sum(sent) == 10
        window = window_of("box", Period.DAY, NOW)
        assert ledger.usage([window]).result() == {window: Usage(10_000, 0)}


def test_two_processes_share_one_budget(path: Path, clock: Clock) -> None:
    limits = [Limit("box", Period.MONTH, 5)]
    with (
        Ledger.open(path, limits=limits, clock=clock) as one,
        Ledger.open(path, limits=limits, clock=clock) as two,
    ):
        made = [side.reserve(f"{n}", worst_nano=1) for n, side in enumerate([one, two] * 5)]
        assert sum(not isinstance(each.result(), Refused) for each in made) == 5


@pytest.mark.parametrize("rule", Expiry)
def test_a_dead_process_leaves_its_reservations_spent(
    path: Path, clock: Clock, rule: Expiry
) -> None:
    limits = [Limit("box", Period.DAY, 10)]
    with Ledger.open(path, limits=limits, hold_s=60, clock=clock) as dying:
        dying.reserve("lost", worst_nano=7).result()  # and then nothing more is heard of it
    clock.us += 59_000_000
    with Ledger.open(path, limits=limits, hold_s=60, expiry=rule, clock=clock) as ledger:
        assert isinstance(ledger.reserve("next", worst_nano=4).result(), Refused)
        clock.us += 1_000_000
        assert len(ledger.expire().result()) == 1
        again = ledger.reserve("next", worst_nano=4).result()
        assert isinstance(again, Refused) == (rule is Expiry.CHARGE)
        ledger.settle("lost", row(1, frontier_nano=2)).result()
        assert not isinstance(ledger.reserve("last", worst_nano=1).result(), Refused)
    with open_reader(path) as reader:
        assert budget_sql.audit(reader) == []


def test_money_comes_back_when_the_call_was_never_sent(path: Path, clock: Clock) -> None:
    with Ledger.open(path, limits=[Limit("box", Period.DAY, 10)], clock=clock) as ledger:
        for number in range(3):
            assert not isinstance(ledger.reserve(f"{number}", worst_nano=10).result(), Refused)
            ledger.release(f"{number}").result()
        with pytest.raises(ValueError, match="made before"):
            ledger.reserve("1", worst_nano=1).result()
        with pytest.raises(ValueError, match="settled already"):
            ledger.release("1").result()


def test_settled_reservations_and_old_windows_are_forgotten(path: Path, clock: Clock) -> None:
    with Ledger.open(path, clock=clock) as ledger:
        ledger.reserve("old", worst_nano=3).result()
        ledger.settle("old", row(1)).result()
        clock.us += 1000 * US_PER_DAY
        while ledger.maintain().result():
            pass
        ledger.maintain().result()
    with open_reader(path) as reader:
        assert reader.execute("SELECT count(*) FROM reservations").fetchone()[0] == 0
        assert reader.execute("SELECT count(*) FROM budget_windows").fetchone()[0] == 0


def sums(path: Path) -> dict[str, int]:
    """Totals over details and roll-ups together."""
    plain = [name for name in SUMS if name.endswith(("_nano", "_uj", "_us")) or "tokens" in name]
    plain.remove("answered_frontier_nano")
    with open_reader(path) as reader:
        totals = {}
        for name in plain:
            (value,) = reader.execute(
                f"SELECT coalesce((SELECT sum({name}) FROM attempts), 0) + "
                f"coalesce((SELECT sum({name}) FROM rollups), 0)"
            ).fetchone()
            totals[name] = value
        (rows,) = reader.execute(
            "SELECT (SELECT count(*) FROM attempts) + "
            "coalesce((SELECT sum(attempts) FROM rollups), 0)"
        ).fetchone()
    return totals | {"attempts": rows}


def mixed_rows(days: int) -> Iterator[Attempt]:
    """A local attempt and a frontier one a task, some audits and idle rows, over `days`."""
    for number in range(days * 4):
        at = NOW - (days - number // 4) * US_PER_DAY
        yield row(
            number,
            at,
            tier=Tier.LOCAL,
            model="assistant@1",
            model_digest="d1",
            answered=False,
            frontier_nano=0,
            money_source=MoneySource.NONE,
            energy_uj=12_345 + number,
            energy_source=JouleSource.MODEL,
            energy_nano=7,
            hardware_nano=number,
        )
        yield row(number, at, attempt=1, endpoint=f"e{number % 3}")
        if number % 4 == 0:
            yield row(number, at, attempt=2, purpose=Purpose.AUDIT, answered=False)


def test_rolling_up_keeps_every_sum(path: Path, clock: Clock) -> None:
    keep = Retention(detail_days=10, chunk_rows=7, day_rollup_days=62)
    with Ledger.open(path, retention=keep, clock=clock) as ledger:
        # Outcomes first: upkeep starts by itself, and a task it took is judged already.
        for number in range(0, 600, 2):
            ledger.outcome(Outcome(at_us=NOW, task_id=f"t{number}", resolved=number % 3 == 0))
        for one in mixed_rows(150):
            ledger.append(one)
        ledger.maintain().result()
        before = sums(path)
        while ledger.maintain().result():
            assert sums(path) == before
        ledger.maintain().result()
        assert sums(path) == before
    with open_reader(path) as reader:
        details, groups, months, tasks, resolved, outcomes = reader.execute(
            "SELECT (SELECT count(*) FROM attempts), (SELECT count(*) FROM rollups), "
            "(SELECT count(*) FROM rollups WHERE period = 'month'), "
            "(SELECT sum(tasks) FROM rollups), (SELECT sum(resolved) FROM rollups), "
            "(SELECT count(*) FROM outcomes)"
        ).fetchone()
        check(reader)
    assert details == 90  # ten days of nine rows
    assert groups < 1000
    assert months > 0
    assert tasks == 560
    assert resolved == sum(1 for number in range(0, 560, 6))
    assert outcomes == 20


def test_a_task_that_goes_on_is_counted_where_it_ends(path: Path, clock: Clock) -> None:
    keep = Retention(detail_days=10)
    with Ledger.open(path, retention=keep, clock=clock) as ledger:
        ledger.append(row(1, NOW - 11 * US_PER_DAY, answered=False))
        ledger.append(row(1, NOW, attempt=1))
        ledger.outcome(Outcome(at_us=NOW, task_id="t1", resolved=True)).result()
        assert ledger.maintain().result() == 1
    with open_reader(path) as reader:
        kept = reader.execute("SELECT attempts, tasks, frontier_nano FROM rollups").fetchone()
        assert tuple(kept) == (1, 0, 1001)
        assert reader.execute("SELECT count(*) FROM outcomes").fetchone()[0] == 1


def test_the_number_of_rows_is_bounded_without_anybody_asking(path: Path, clock: Clock) -> None:
    keep = Retention(max_detail_rows=50, chunk_rows=5000, max_groups=8)
    with Ledger.open(path, retention=keep, clock=clock) as ledger:
        for number in range(4100):
            ledger.append(row(number, tag=f"tag{number}"))
        ledger.append(row(9999)).result()
    with open_reader(path) as reader:
        details, groups, total = reader.execute(
            "SELECT (SELECT count(*) FROM attempts), (SELECT count(*) FROM rollups), "
            "(SELECT sum(attempts) FROM rollups)"
        ).fetchone()
    assert details < 50 + 2600
    assert groups == 9  # eight and (other)
    assert details + total == 4101


def test_outcomes_of_tasks_that_never_were_go_when_they_are_old(path: Path, clock: Clock) -> None:
    with Ledger.open(path, clock=clock) as ledger:
        ledger.outcome(Outcome(at_us=NOW, task_id="none", resolved=True)).result()
        ledger.maintain().result()
        clock.us += 93 * US_PER_DAY
        ledger.maintain().result()
    with open_reader(path) as reader:
        assert reader.execute("SELECT count(*) FROM outcomes").fetchone()[0] == 0


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
