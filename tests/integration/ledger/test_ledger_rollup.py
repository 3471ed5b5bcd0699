"""Old rows become sums, exactly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edge_runtime.ledger.database import check, open_reader
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
from tests.support.ledger import NOW, Clock, row


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
