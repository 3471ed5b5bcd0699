"""Streams of the pool: what is given out, the commit point, callers who leave."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from edge_runtime.ledger.rows import MoneySource, Status, Tokens
from edge_runtime.router.contract import (
    FrontierError,
    FrontierWhy,
)
from edge_runtime.router.frontier.memory import (
    MemoryFrontiers,
    Scripted,
    Stall,
    event,
    fails,
    says,
)
from edge_runtime.router.frontier.transport import BrokenOffError, NotSentError
from tests.support.frontier import a_call
from tests.support.frontier_pool import all_of, asked, by_model, pool, rows


async def test_a_stream_gives_out_what_came_and_ends_with_its_bill() -> None:
    frontiers = pool(lambda body: says("a b c", stream=body["stream"]), names=("big",))
    *chunks, last = await all_of(frontiers, a_call())
    deltas = [one.data["choices"][0]["delta"] for one in chunks]
    assert deltas[0]["role"] == "assistant"
    assert "".join(one.get("content", "") for one in deltas) == "a b c"
    assert all(one.reply is None for one in chunks)
    assert last.data["usage"]["prompt_tokens"] == 10
    assert last.reply is not None
    assert last.reply.tokens == Tokens(10, 0, 5)
    assert last.reply.body["choices"][0]["message"]["content"] == "a b c"
    assert last.reply.cost_nano == rows(frontiers)[0].frontier_nano


async def test_a_stream_without_its_bill_is_whole_and_estimated() -> None:
    frontiers = pool(lambda _body: says("a b c", tokens=None, stream=True), names=("big",))
    *_, last = await all_of(frontiers, a_call())
    assert last.data == {}
    assert last.reply is not None
    (row,) = rows(frontiers)
    assert (row.status, row.money_source) == (Status.OK, MoneySource.ESTIMATE)


@pytest.mark.parametrize("end", [Stall(), BrokenOffError("cut"), None])
async def test_an_answer_that_ended_needs_no_end_of_its_stream(
    end: Stall | Exception | None,
) -> None:
    whole = says("a b", tokens=None, stream=True)
    pieces = whole.pieces[:-1] if end is None else (*whole.pieces[:-1], end)
    frontiers = pool(lambda _body: Scripted(pieces=pieces), names=("big",), total_timeout_s=0.05)
    *_, last = await all_of(frontiers, a_call())
    assert last.reply is not None
    assert last.reply.body["choices"][0]["finish_reason"] == "stop"


def broken(*kept: int, end: Stall | Exception | bytes | None = None) -> Scripted:
    """A stream of which only the first pieces come."""
    pieces = says("a b c d", stream=True).pieces[: kept[0]]
    return Scripted(pieces=pieces if end is None else (*pieces, end))


@pytest.mark.parametrize(
    "answer",
    [
        broken(1),  # only the role came: nothing was given out yet
        broken(0),
        broken(1, end=Stall()),
        broken(1, end=BrokenOffError("cut")),
        broken(1, end=event({"error": {"message": "overloaded"}})),
        broken(0, end=b"data: nonsense\n\n"),
        broken(0, end=b"data: [1]\n\n"),
        broken(0, end=b"data: [DONE]\n\n"),
        broken(0, end=b"x" * 5000),
        broken(0, end=b"data: {}\n\n" * 200),
        fails(503),
        Scripted(status=503, pieces=(b"x" * 100_000,)),
        Scripted(before=Stall()),
        Scripted(before=NotSentError("no route"), after_sent=False),
    ],
)
async def test_before_the_commit_point_the_next_one_answers(answer: Scripted) -> None:
    frontiers = pool(
        by_model(first=answer, second=says("yes", stream=True)),
        max_tries=1,
        first_token_timeout_s=0.05,
        max_event_bytes=1024,
        max_reply_bytes=2000,
    )
    chunks = await all_of(frontiers, a_call())
    assert {one.frontier for one in chunks} == {"second"}
    text = "".join(
        choice["delta"].get("content", "")
        for one in chunks
        for choice in one.data.get("choices", ())
    )
    assert text == "yes"
    assert [row.answered for row in rows(frontiers)] == [False, True]


async def gather_into(given: list[str], frontiers: MemoryFrontiers) -> None:
    async for chunk in frontiers.stream(a_call()):
        given += [one["delta"].get("content") for one in chunk.data["choices"]]


@pytest.mark.parametrize(
    "answer",
    [
        broken(3),
        broken(3, end=Stall()),
        broken(3, end=BrokenOffError("cut")),
        broken(3, end=event({"error": {"message": "overloaded"}})),
        broken(3, end=b"data: nonsense\n\n"),
    ],
)
async def test_after_the_commit_point_nobody_else_is_asked(answer: Scripted) -> None:
    frontiers = pool(by_model(first=answer, second=says("no", stream=True)), total_timeout_s=0.05)
    given: list[str] = []
    with pytest.raises(FrontierError) as told:
        await gather_into(given, frontiers)
    assert given == ["", "a ", "b "]
    assert told.value.why is FrontierWhy.CUT
    assert asked(frontiers) == ["first"]
    (row,) = rows(frontiers)
    assert (row.status, row.money_source) == (Status.ERROR, MoneySource.ESTIMATE)
    assert (row.tokens_out, told.value.cost_nano) == (2, row.frontier_nano)


async def test_a_streamed_answer_cannot_be_judged_first() -> None:
    with pytest.raises(ValueError, match="use complete"):
        await all_of(pool(), a_call(accept=lambda _body: None))


async def test_a_caller_who_leaves_closes_the_line_and_pays_what_came() -> None:
    frontiers = pool(lambda _body: broken(3, end=Stall()), names=("big",))
    async with aclosing(frontiers.stream(a_call())) as stream:
        for _ in range(3):
            await anext(stream)
    assert frontiers.transport.open_now == 0
    (row,) = rows(frontiers)
    assert (row.status, row.tokens_out, row.answered) == (Status.CANCELLED, 2, False)

    frontiers = pool(lambda _body: Scripted(before=Stall()), names=("big",), settle_s=0)
    task = asyncio.create_task(frontiers.complete(a_call()))
    for _ in range(10):
        await asyncio.sleep(0)
    assert frontiers.transport.open_now == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert frontiers.transport.open_now == 0
    (row,) = rows(frontiers)
    assert (row.status, row.money_source) == (Status.CANCELLED, MoneySource.WORST_CASE)
