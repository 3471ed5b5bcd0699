"""What is booked is what the frontier charges, also where the bill comes late."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

import pytest

from edge_runtime.ledger.budget import Period, Usage, window_of
from edge_runtime.ledger.memory import MemoryLedger
from edge_runtime.ledger.money import cents
from edge_runtime.ledger.rows import MoneySource, Status
from edge_runtime.router.contract import FrontierError, FrontierWhy, Json
from edge_runtime.router.frontier.memory import NOW_US
from tests.support.frontier import a_call
from tests.support.standin import frontier, streamed


def no_refusal(body: Json) -> str | None:
    return "it refuses" if "sorry" in body["choices"][0]["message"]["content"] else None


async def test_the_ledger_equals_the_bill_through_every_fault(table: Mapping[str, str]) -> None:
    faults = {"server_error": 0.2, "rate_limit": 0.15, "refuse": 0.05, "off_label": 0.05}
    async with frontier(
        table, seed=3, retry_after_s=0.2, max_tries=8, breaker={"failures": 50}, **faults
    ) as (stand_in, pool, ledger):
        for number, text in enumerate(list(table)[:60]):
            if number % 2:
                said, reply = await streamed(pool, text)
                assert reply.body["choices"][0]["message"]["content"] == said
            else:
                with contextlib.suppress(FrontierError):
                    await pool.complete(a_call(text, accept=no_refusal))
    booked = sum(row.frontier_nano for row in ledger.attempts)
    assert booked == stand_in.meter.nano > 0
    assert len(ledger.attempts) == stand_in.calls > 60
    assert stand_in.kinds["server_error"] > 5
    assert stand_in.kinds["rate_limit"] > 5
    kinds = {row.status for row in ledger.attempts}
    assert kinds == {Status.OK, Status.ERROR, Status.DISCARDED}
    assert {row.money_source for row in ledger.attempts} == {MoneySource.USAGE, MoneySource.NONE}
    for name in ("tokens_in", "tokens_cached", "tokens_out"):
        assert sum(getattr(row, name) for row in ledger.attempts) == getattr(stand_in.meter, name)


async def test_a_cached_prefix_is_charged_as_cached(table: Mapping[str, str]) -> None:
    system = {"role": "system", "content": "Name the intent. " * 20}
    async with frontier(table) as (stand_in, pool, ledger):
        for text in list(table)[:3]:
            messages = [system, {"role": "user", "content": text}]
            await pool.complete(a_call(body={"messages": messages}))
    assert [row.tokens_cached > 60 for row in ledger.attempts] == [False, True, True]
    assert sum(row.frontier_nano for row in ledger.attempts) == stand_in.meter.nano


async def test_cut_streams_are_estimated_and_said_to_be(table: Mapping[str, str]) -> None:
    long = dict.fromkeys(table, "a b c d e f g h i j")
    async with frontier(
        long, cut=0.5, wrong=0.0, seed=1, max_tries=1, breaker={"failures": 90}
    ) as (stand_in, pool, ledger):
        reasons = []
        for text in list(long)[:20]:
            try:
                await streamed(pool, text)
            except FrontierError as error:
                reasons.append(error.why)
    estimates = [row for row in ledger.attempts if row.money_source is MoneySource.ESTIMATE]
    assert len(estimates) == len(reasons) == stand_in.kinds["cut"] > 3
    assert set(reasons) == {FrontierWhy.CUT}
    assert all(row.tokens_out == 5 and row.status is Status.ERROR for row in estimates)
    booked = sum(row.frontier_nano for row in ledger.attempts)
    assert cents(booked) == cents(stand_in.meter.nano)
    exact = sum(one["nano"] for one in stand_in.meter.entries if one["out"] == 10)
    usage = [row for row in ledger.attempts if row.money_source is MoneySource.USAGE]
    assert sum(row.frontier_nano for row in usage) == exact


async def test_a_cut_before_the_answer_is_asked_again_and_never_underpaid(
    table: Mapping[str, str],
) -> None:
    async with frontier(table, cut=0.5, seed=2, max_tries=6) as (stand_in, pool, ledger):
        for text in list(table)[:10]:
            await pool.complete(a_call(text))
    assert stand_in.kinds["cut"] > 2
    lost = [row for row in ledger.attempts if row.money_source is MoneySource.WORST_CASE]
    assert len(lost) == stand_in.kinds["cut"]
    assert sum(row.frontier_nano for row in ledger.attempts) > stand_in.meter.nano


def nano(ledger: MemoryLedger) -> int:
    return sum(row.frontier_nano for row in ledger.booked)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_that_was_given_up_is_read_on_for_its_bill(
    table: Mapping[str, str], stream: bool
) -> None:
    short = {"total_timeout_s": 0.1, "first_token_timeout_s": 0.1, "max_tries": 2}
    async with frontier(table, stall=1.0, stall_s=0.3, **short) as (stand_in, pool, ledger):
        text = next(iter(table))
        with pytest.raises(FrontierError) as told:
            await (streamed(pool, text) if stream else pool.complete(a_call(text)))
        assert told.value.why is FrontierWhy.TIMEOUT
        guessed = sum(row.frontier_nano for row in ledger.attempts)
        await pool.settled()
        assert guessed > nano(ledger) == stand_in.meter.nano > 0
        assert {row.money_source for row in ledger.booked} == {MoneySource.USAGE}
        window = window_of("box", Period.DAY, NOW_US)
        used = ledger.usage([window]).result()[window]
        assert used == Usage(spent_nano=stand_in.meter.nano)


@pytest.mark.parametrize(("stream", "asks"), [(True, "id"), (True, "call"), (False, "call")])
async def test_what_was_cut_is_asked_for(table: Mapping[str, str], stream: bool, asks: str) -> None:
    long = dict.fromkeys(table, "a b c d e f g h i j")
    async with frontier(
        long, cut=0.5, seed=1, max_tries=6, breaker={"failures": 90}, asks=asks
    ) as (stand_in, pool, ledger):
        for text in list(long)[:12]:
            with contextlib.suppress(FrontierError):
                await (streamed(pool, text) if stream else pool.complete(a_call(text)))
        await pool.settled()
    assert stand_in.kinds["cut"] > 3
    assert nano(ledger) == stand_in.meter.nano < sum(row.frontier_nano for row in ledger.attempts)
    asked = [row for row in ledger.booked if row.money_source is MoneySource.STATEMENT]
    assert len(asked) == stand_in.kinds["cut"]
    for name in ("tokens_in", "tokens_cached", "tokens_out"):
        assert sum(getattr(row, name) for row in ledger.booked) == getattr(stand_in.meter, name)


async def test_a_stream_whose_caller_left_is_closed_and_asked_for(
    table: Mapping[str, str],
) -> None:
    long = dict.fromkeys(table, "word " * 400)
    async with frontier(long, token_s=0.001, asks="id") as (stand_in, pool, ledger):
        stream = pool.stream(a_call(next(iter(long)), max_output_tokens=500))
        async for chunk in stream:
            if chunk.data["choices"][0]["delta"].get("content"):
                break
        await stream.aclose()
        async with asyncio.timeout(5):
            await stand_in.idle.wait()
        await pool.settled()
        assert 0 < stand_in.meter.tokens_out < 300  # closing it stopped its tokens
        assert nano(ledger) == stand_in.meter.nano
        (row,) = ledger.booked
        assert row.money_source is MoneySource.STATEMENT


async def test_a_process_that_ends_before_the_bill_leaves_the_worst_case(
    table: Mapping[str, str],
) -> None:
    async with frontier(table, stall=1.0, total_timeout_s=0.1, max_tries=1) as (_, pool, ledger):
        with pytest.raises(FrontierError):
            await pool.complete(a_call(next(iter(table))))
    assert ledger.corrections == {}
    (row,) = ledger.booked
    assert row.money_source is MoneySource.WORST_CASE
