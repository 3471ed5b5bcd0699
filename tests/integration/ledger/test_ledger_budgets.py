"""Budgets on disk: in parallel, across processes, over time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from edge_runtime.ledger import budget_sql
from edge_runtime.ledger.budget import Expiry, Limit, Period, Refused, Usage, window_of
from edge_runtime.ledger.database import open_reader
from edge_runtime.ledger.ledger import Ledger
from edge_runtime.ledger.rows import (
    US_PER_DAY,
)
from tests.support.ledger import NOW, Clock, row


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
