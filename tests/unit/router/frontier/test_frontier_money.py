"""Money around a try: what is held is settled or given back, whoever leaves when."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import Any

import pytest

from edge_runtime.errors import CapacityError, EngineError
from edge_runtime.ledger.budget import Limit, Period, window_of
from edge_runtime.ledger.ledger import BudgetRules
from edge_runtime.ledger.memory import MemoryLedger
from edge_runtime.router.contract import Payer
from edge_runtime.router.frontier.memory import NOW_US
from edge_runtime.router.frontier.money import Denied, Purse

PAYER = Payer("r", "t", "acme", "search")
DAY = window_of("box", Period.DAY, NOW_US)


class SlowLedger(MemoryLedger):
    """Decides only when told to, as a disk that takes its time."""

    def __init__(self, limit_nano: int) -> None:
        super().__init__(lambda: NOW_US, BudgetRules((Limit("box", Period.DAY, limit_nano),)))
        self.asked: list[tuple[Future[Any], Future[Any]]] = []

    def reserve(self, reservation_id: str, **named: Any) -> Future[Any]:
        waiting: Future[Any] = Future()
        self.asked.append((waiting, super().reserve(reservation_id, **named)))
        return waiting

    def decide(self) -> None:
        for waiting, decision in self.asked:
            if waiting.set_running_or_notify_cancel():
                waiting.set_result(decision.result())


def purse(ledger: MemoryLedger, *scopes: str) -> Purse:
    return Purse(ledger, scopes=scopes, wall_us=lambda: NOW_US)


@pytest.mark.parametrize("limit_nano", [0, 1000])
async def test_a_caller_who_leaves_while_money_is_put_aside_gives_it_back(limit_nano: int) -> None:
    ledger = SlowLedger(limit_nano)
    task = asyncio.create_task(purse(ledger).hold(PAYER, 500))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    ledger.decide()
    assert [one.held_nano for one in ledger._usage.values() if one.held_nano] == []
    assert len(ledger._booked) == (1 if limit_nano else 0)


@pytest.mark.parametrize(
    "error", [CapacityError("full", retry_after_s=9.0, status=503), EngineError("broken")]
)
async def test_a_ledger_that_fails_denies(error: Exception) -> None:
    class Broken(MemoryLedger):
        def reserve(self, *_args: Any, **_named: Any) -> Future[Any]:
            failed: Future[Any] = Future()
            failed.set_exception(error)
            return failed

    denied = await purse(Broken(lambda: NOW_US)).hold(PAYER, 500)
    assert isinstance(denied, Denied)
    assert str(error) in denied.reason
    assert denied.opens_in_s == getattr(error, "retry_after_s", None)


async def test_each_hold_has_an_id_of_its_own_whatever_the_request_is_called() -> None:
    ledger = MemoryLedger(lambda: NOW_US)
    ids = {await purse(ledger).hold(PAYER, 5) for _ in range(3)}
    assert len(ids) == 3
    assert ledger._usage[DAY].held_nano == 15


async def test_only_scopes_with_limits_are_counted() -> None:
    ledger = MemoryLedger(lambda: NOW_US)
    await purse(ledger, "tenant:acme", "tenant:other").hold(PAYER, 5)
    (made,) = ledger._made.values()
    assert made.scopes == ("box", "tenant:acme")
