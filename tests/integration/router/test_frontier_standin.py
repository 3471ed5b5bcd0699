"""The pool against a frontier that meters itself: what is booked is what is charged."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from benchmarks.frontier_answers import Oracle
from benchmarks.frontier_standin import StandIn
from edge_runtime.ledger.memory import MemoryLedger
from edge_runtime.ledger.rows import MoneySource, Status
from edge_runtime.router.contract import FrontierError, FrontierWhy
from edge_runtime.router.frontier.memory import NOW_US
from edge_runtime.router.frontier.pool import FrontierPool
from tests.support.frontier import FakeTime, a_call
from tests.support.standin import PRICES, frontier, settings, streamed


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("behaviour", "why"),
    [
        ({"rate_limit": 1.0, "retry_after_s": 30.0}, FrontierWhy.RATE_LIMITED),
        ({"out_of_credit": 1.0}, FrontierWhy.OUT_OF_CREDIT),
        ({"server_error": 1.0}, FrontierWhy.UNREACHABLE),
        ({"stall": 1.0}, FrontierWhy.TIMEOUT),
        ({"credit_nano": 0}, FrontierWhy.OUT_OF_CREDIT),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
async def test_each_fault_has_its_reason(
    table: Mapping[str, str], behaviour: dict[str, float], why: FrontierWhy, stream: bool
) -> None:
    short = {"total_timeout_s": 0.2, "first_token_timeout_s": 0.1, "max_tries": 2}
    async with frontier(table, **behaviour, **short) as (_, pool, ledger):
        text = next(iter(table))
        with pytest.raises(FrontierError) as told:
            await (streamed(pool, text) if stream else pool.complete(a_call(text)))
        assert told.value.why is why
        assert told.value.tries == len(ledger.attempts) >= 1
        assert told.value.cost_nano == sum(row.frontier_nano for row in ledger.attempts)
        assert all(row.status is Status.ERROR for row in ledger.attempts)
        assert (told.value.retry_after_s == 30.0) == ("retry_after_s" in behaviour)


async def test_an_outage_fails_fast_and_ends_with_the_first_success(
    table: Mapping[str, str],
) -> None:
    time = FakeTime()
    async with frontier(table, time=time, server_error=1.0, max_tries=1) as (stand_in, pool, _):
        text = next(iter(table))
        for _turn in range(20):
            with pytest.raises(FrontierError):
                await pool.complete(a_call(text))
        assert stand_in.calls == 5  # the breaker opened
        assert not pool.available(())
        time.now_s += 2.0
        assert pool.available(())
        with pytest.raises(FrontierError):
            await pool.complete(a_call(text))
        assert stand_in.calls == 6  # one probe, although the breaker is open for 30 s
        stand_in.behaviour = stand_in.behaviour.changed({"server_error": 0.0})
        time.now_s += 2.0
        await pool.complete(a_call(text))
        await pool.complete(a_call(text))
        assert stand_in.calls == 8


async def test_nobody_listens_there_so_the_next_one_answers(table: Mapping[str, str]) -> None:
    stand_in = StandIn(Oracle(table))
    ledger = MemoryLedger(lambda: NOW_US)
    async with stand_in.serving() as url:
        async with stand_in.serving() as closed:
            pass
        both = {
            "gone": settings(closed, order=0, max_tries=2),
            "here": settings(url, order=1),
        }
        pool = FrontierPool(both, PRICES, ledger, timing=FakeTime().timing, wall_us=lambda: NOW_US)
        async with pool:
            assert pool.names() == ("gone", "here")
            reply = await pool.complete(a_call(next(iter(table))))
    assert (reply.frontier, reply.tries) == ("here", 3)
    assert [row.frontier_nano > 0 for row in ledger.attempts] == [False, False, True]
    assert [row.attempt for row in ledger.attempts] == [0, 1, 2]
    assert [row.answered for row in ledger.attempts] == [False, False, True]


async def test_a_caller_who_leaves_stops_the_frontier(table: Mapping[str, str]) -> None:
    long = dict.fromkeys(table, "word " * 400)
    async with frontier(long, token_s=0.001) as (stand_in, pool, ledger):
        stream = pool.stream(a_call(next(iter(long)), max_output_tokens=500))
        async for chunk in stream:
            if chunk.data["choices"][0]["delta"].get("content"):
                break
        await stream.aclose()
        async with asyncio.timeout(5):
            await stand_in.idle.wait()
        assert 0 < stand_in.meter.tokens_out < 300
        (row,) = ledger.attempts
        assert (row.status, row.money_source) == (Status.CANCELLED, MoneySource.ESTIMATE)
        assert not row.answered

        waiting = asyncio.create_task(pool.complete(a_call(next(iter(long)))))
        async with asyncio.timeout(5):
            await stand_in.busy.wait()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await stand_in.idle.wait()
        assert ledger.attempts[-1].status is Status.CANCELLED
        assert ledger.attempts[-1].money_source is MoneySource.WORST_CASE
