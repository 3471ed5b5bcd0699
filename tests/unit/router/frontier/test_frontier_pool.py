"""The pool without a network: who is asked, what is given out, what is booked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest

from edge_runtime.errors import CapacityError
from edge_runtime.ledger.budget import Limit, Period
from edge_runtime.ledger.ledger import BudgetRules
from edge_runtime.ledger.memory import MemoryLedger
from edge_runtime.ledger.rows import MoneySource, Purpose, Status, Tokens
from edge_runtime.metrics import Metrics
from edge_runtime.router.contract import (
    FrontierCall,
    FrontierChunk,
    FrontierError,
    FrontierReply,
    FrontierWhy,
    Json,
    Payer,
)
from edge_runtime.router.frontier.memory import (
    NOW_US,
    Body,
    MemoryFrontiers,
    Scripted,
    Stall,
    completion,
    event,
    fails,
    says,
)
from edge_runtime.router.frontier.transport import BrokenOffError, NotSentError
from edge_runtime.router.frontier.walk import Timing
from tests.support.frontier import FakeTime, a_call

FRONTIERS = ("first", "second")


def pool(
    answer: Callable[[Body], Scripted] | None = None,
    *,
    names: tuple[str, ...] = FRONTIERS,
    clock: FakeTime | None = None,
    **settings: Any,
) -> MemoryFrontiers:
    timing = (clock or FakeTime()).timing
    answer = answer or (lambda body: says("yes", stream=body.get("stream", False)))
    return MemoryFrontiers(answer, names=names, timing=timing, settings=settings)


def by_model(**answers: Scripted) -> Callable[[Body], Scripted]:
    return lambda body: answers[body["model"]]


def in_turn(*answers: Scripted) -> Callable[[Body], Scripted]:
    left = list(answers)
    return lambda _body: left.pop(0)


def asked(frontiers: MemoryFrontiers) -> list[str]:
    return [body["model"] for _, body in frontiers.transport.requests]


async def all_of(frontiers: MemoryFrontiers, call: FrontierCall) -> list[FrontierChunk]:
    return [chunk async for chunk in frontiers.stream(call)]


def rows(frontiers: MemoryFrontiers) -> list[Any]:
    ledger = frontiers.ledger
    assert isinstance(ledger, MemoryLedger)
    assert not [one for one in ledger._usage.values() if one.held_nano], "money is still held"
    return ledger.attempts


async def test_an_answer_is_one_row_and_says_what_it_cost() -> None:
    frontiers = pool(lambda body: says("yes", tokens=(1000, 400, 20)), names=("big",))
    payer = Payer("r-7", "t-7", "acme", "search", "beta")
    reply = await frontiers.complete(a_call(payer=payer, first_attempt=3))
    assert reply.tokens == Tokens(1000, 400, 20)
    assert reply.cost_nano == 600 * 2000 + 400 * 500 + 20 * 8000
    assert (reply.frontier, reply.model, reply.tries) == ("big", "memory", 1)
    (row,) = rows(frontiers)
    assert (row.request_id, row.task_id, row.tenant) == ("r-7", "t-7", "acme")
    assert (row.endpoint, row.tag, row.attempt) == ("search", "beta", 3)
    assert (row.model, row.reason, row.status) == ("big", "low-confidence", Status.OK)
    assert (row.frontier_nano, row.money_source) == (reply.cost_nano, MoneySource.USAGE)
    assert row.price_version == "memory"
    assert row.answered


async def test_the_body_goes_through_untouched_but_for_what_must_be_ours() -> None:
    frontiers = pool(names=("big",))
    body = {
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        "tool_choice": "auto",
        "response_format": {"type": "json_schema", "json_schema": {"name": "a"}},
        "temperature": 0.3,
        "seed": 7,
        "max_tokens": 9,
        "stream_options": {"include_obfuscation": False},
    }
    await frontiers.complete(a_call(body=body))
    await all_of(frontiers, a_call(body=body))
    whole, stream = (one for _, one in frontiers.transport.requests)
    ours = {"model": "big", "max_completion_tokens": 9}
    same = {key: body[key] for key in body if key != "max_tokens"}
    assert whole == same | ours
    options = {"include_obfuscation": False, "include_usage": True}
    assert stream == same | ours | {"stream": True, "stream_options": options}
    assert body["max_tokens"] == 9


@pytest.mark.parametrize(
    ("given", "field", "limit"),
    [
        ({}, "max_tokens", 50),
        ({"max_completion_tokens": 500}, "max_tokens", 50),
        ({"max_tokens": 20, "max_completion_tokens": 30}, "max_completion_tokens", 20),
    ],
)
async def test_no_answer_is_longer_than_what_money_is_held_for(
    given: Json, field: str, limit: int
) -> None:
    frontiers = pool(names=("big",), output_limit_field=field)
    await frontiers.complete(a_call(body={"messages": [], **given}))
    ((_, sent),) = frontiers.transport.requests
    limits = {key: sent[key] for key in sent if key.startswith("max_")}
    assert limits == {field: limit}


async def test_every_choice_is_held_for() -> None:
    held = []
    for n in (1, 4):
        frontiers = pool(names=("big",))
        body = {"messages": [], "n": n}
        await frontiers.complete(a_call(body=body, prompt_tokens=0))
        assert isinstance(frontiers.ledger, MemoryLedger)
        held += [one.worst_nano for one in frontiers.ledger._made.values()]
    assert held == [50 * 8000, 4 * 50 * 8000]


async def test_the_smaller_of_two_bounds_is_held_with_the_frontiers_template() -> None:
    messages = len(b'[{"role":"user","content":"hi"}]') + 16
    for prompt_tokens, tokens in ((10, 10 + 500), (100_000, messages + 500)):
        frontiers = pool(names=("big",), template_tokens=500)
        await frontiers.complete(a_call("hi", prompt_tokens=prompt_tokens))
        assert isinstance(frontiers.ledger, MemoryLedger)
        (held,) = frontiers.ledger._made.values()
        assert held.worst_nano == tokens * 2000 + 50 * 8000


async def test_the_order_is_the_calls_else_the_cheapest_first() -> None:
    frontiers = pool()
    assert frontiers.names() == FRONTIERS  # the first is cheaper
    await frontiers.complete(a_call())
    await frontiers.complete(a_call(order=("second", "first")))
    await frontiers.complete(a_call(order=("unknown", "second")))
    assert asked(frontiers) == ["first", "second", "second"]
    with pytest.raises(FrontierError) as told:
        await frontiers.complete(a_call(order=("unknown",)))
    assert told.value.why is FrontierWhy.NONE_CONFIGURED


async def test_a_refused_answer_costs_and_the_next_is_asked() -> None:
    def fault(body: Json) -> str | None:
        said = body["choices"][0]["message"]["content"]
        return None if said == "good" else f"{said!r} is no label"

    frontiers = pool(by_model(first=says("bad"), second=says("good")))
    reply = await frontiers.complete(a_call(accept=fault))
    assert (reply.frontier, reply.tries) == ("second", 2)
    first, second = rows(frontiers)
    assert (first.status, first.answered, first.frontier_nano > 0) == (
        Status.DISCARDED,
        False,
        True,
    )
    assert (second.status, second.answered) == (Status.OK, True)
    assert reply.cost_nano == first.frontier_nano + second.frontier_nano

    frontiers = pool(lambda _body: says("bad"))
    with pytest.raises(FrontierError, match="is no label") as told:
        await frontiers.complete(a_call(accept=fault))
    assert (told.value.why, told.value.tries) == (FrontierWhy.REFUSED, 2)
    assert frontiers.available(FRONTIERS)  # it is alive: no breaker opens
    assert asked(frontiers) == ["first", "second"]


async def test_a_wrong_request_is_asked_of_nobody_else() -> None:
    frontiers = pool(by_model(first=fails(400, "no such parameter"), second=says("x")))
    with pytest.raises(FrontierError, match="no such parameter") as told:
        await frontiers.complete(a_call())
    assert told.value.why is FrontierWhy.BAD_REQUEST
    assert asked(frontiers) == ["first"]
    assert told.value.cost_nano == 0


async def test_what_passes_is_tried_again_with_jittered_waits() -> None:
    clock = FakeTime(draw=0.5)
    answers = in_turn(fails(503), Scripted(before=NotSentError("no"), after_sent=False), says("x"))
    frontiers = pool(answers, names=("big",), clock=clock, backoff_s=1.0)
    reply = await frontiers.complete(a_call())
    assert reply.tries == 3
    assert clock.slept == [0.5, 1.0]
    assert [row.status for row in rows(frontiers)] == [Status.ERROR, Status.ERROR, Status.OK]
    assert [row.money_source for row in rows(frontiers)][:2] == [MoneySource.NONE] * 2


async def test_a_pause_is_waited_out_when_nobody_else_could_answer() -> None:
    clock = FakeTime()
    frontiers = pool(
        in_turn(fails(429, retry_after="3"), says("x")), names=("big",), clock=clock, backoff_s=1.0
    )
    assert (await frontiers.complete(a_call())).tries == 2
    assert clock.slept == [pytest.approx(3.5, abs=0.01)]

    clock = FakeTime()
    frontiers = pool(by_model(first=fails(429, retry_after="3"), second=says("x")), clock=clock)
    assert (await frontiers.complete(a_call())).frontier == "second"
    assert clock.slept == []
    await frontiers.complete(a_call())
    assert asked(frontiers) == ["first", "second", "second"]  # the pause is kept
    clock.now_s += 3.0
    await frontiers.complete(a_call())
    assert asked(frontiers)[3:] == ["first", "second"]


async def test_out_of_credit_is_left_alone_until_its_time() -> None:
    clock = FakeTime()
    frontiers = pool(lambda _body: fails(402), names=("big",), clock=clock)
    for _ in range(3):
        with pytest.raises(FrontierError) as told:
            await frontiers.complete(a_call())
        assert told.value.why is FrontierWhy.OUT_OF_CREDIT
    assert len(asked(frontiers)) == 1
    assert told.value.retry_after_s == 900.0
    assert not frontiers.available(())
    clock.now_s += 900.0
    assert frontiers.available(())


async def test_the_deadline_ends_waits_and_is_no_failure_of_the_frontier() -> None:
    clock = FakeTime()
    frontiers = pool(lambda _body: fails(503), names=("big",), clock=clock, backoff_s=1.0)
    with pytest.raises(FrontierError):
        await frontiers.complete(a_call(deadline_s=clock.now_s + 0.5))
    assert clock.slept == []
    with pytest.raises(FrontierError) as told:
        await frontiers.complete(a_call(deadline_s=clock.now_s - 1.0))
    assert told.value.why is FrontierWhy.TIMEOUT

    frontiers = pool(lambda _body: Scripted(before=Stall()), clock=clock, breaker={"failures": 1})
    with pytest.raises(FrontierError, match="time was over") as told:
        await frontiers.complete(a_call(deadline_s=clock.now_s + 0.01))
    assert (told.value.why, asked(frontiers)) == (FrontierWhy.TIMEOUT, ["first"])
    assert frontiers.available(("first",))
    assert [row.money_source for row in rows(frontiers)] == [MoneySource.WORST_CASE]


async def test_deadlines_that_were_long_open_the_breaker() -> None:
    for patience_s, available in ((1e-4, False), (60.0, True)):
        frontiers = MemoryFrontiers(
            lambda _body: Scripted(before=Stall()),
            timing=Timing(time.monotonic, lambda: 0.5),
            settings={"breaker": {"failures": 1}, "deadline_failure_s": patience_s},
        )
        with pytest.raises(FrontierError, match="time was over"):
            await frontiers.complete(a_call(deadline_s=time.monotonic() + 0.01))
        assert frontiers.available(()) is available


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Scripted(pieces=(b"<html>",)), FrontierWhy.UNREACHABLE),
        (Scripted(pieces=(b"[]",)), FrontierWhy.UNREACHABLE),
        (Scripted(pieces=(b'{"choices": []}',)), FrontierWhy.UNREACHABLE),
        (Scripted(pieces=(b'{"error": {"message": "down"}}',)), FrontierWhy.UNREACHABLE),
        (Scripted(pieces=(b"{" * 2000,)), FrontierWhy.REFUSED),
        (Scripted(pieces=(b"{", BrokenOffError("cut"))), FrontierWhy.UNREACHABLE),
        (Scripted(before=BrokenOffError("cut")), FrontierWhy.UNREACHABLE),
    ],
)
async def test_an_answer_nobody_can_read_is_booked_at_its_worst_case(
    answer: Scripted, why: FrontierWhy
) -> None:
    frontiers = pool(lambda _body: answer, names=("big",), max_reply_bytes=1024, max_tries=1)
    with pytest.raises(FrontierError) as told:
        await frontiers.complete(a_call())
    assert told.value.why is why
    (row,) = rows(frontiers)
    assert row.money_source is MoneySource.WORST_CASE
    assert row.tokens_out == 50
    assert frontiers.transport.open_now == 0


@pytest.mark.parametrize(
    "usage", [None, {"prompt_tokens": -1}, {"prompt_tokens": 1, "completion_tokens": 10**12}]
)
async def test_a_bill_that_is_missing_or_odd_is_estimated(usage: Any) -> None:
    import orjson

    whole = completion("some words here", tokens=None) | {"usage": usage}
    frontiers = pool(lambda _body: Scripted(pieces=(orjson.dumps(whole),)), names=("big",))
    await frontiers.complete(a_call())
    (row,) = rows(frontiers)
    assert row.money_source is MoneySource.ESTIMATE
    assert 0 < row.tokens_out <= 50
    assert row.answered


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


async def test_a_bug_in_a_callback_is_still_paid() -> None:
    def bug(_body: Json) -> str | None:
        raise RuntimeError("a bug")

    frontiers = pool(names=("big",))
    with pytest.raises(RuntimeError, match="a bug"):
        await frontiers.complete(a_call(accept=bug))
    (row,) = rows(frontiers)
    assert (row.status, row.money_source) == (Status.ERROR, MoneySource.USAGE)
    assert frontiers._lanes["big"].active == 0


async def test_a_budget_refuses_before_anything_is_sent_and_a_cheaper_one_may_fit() -> None:
    worst = 20 * 2000 + 50 * 8000
    limits = (Limit("box", Period.DAY, worst), Limit("tenant:other", Period.DAY, 0))
    ledger = MemoryLedger(lambda: NOW_US, BudgetRules(limits))
    frontiers = MemoryFrontiers(
        lambda _body: says("x"),
        names=FRONTIERS,
        ledger=ledger,
        scopes=("tenant:other",),
        timing=FakeTime().timing,
    )
    call = a_call(order=("second", "first"), prompt_tokens=20)
    assert (await frontiers.complete(call)).frontier == "first"
    with pytest.raises(FrontierError, match="day budget of box is used up") as told:
        await frontiers.complete(call)
    assert told.value.why is FrontierWhy.BUDGET
    assert told.value.retry_after_s == 12 * 3600.0
    assert told.value.tries == 0
    assert len(frontiers.transport.requests) == len(ledger.attempts) == 1
    scopes = {scope for one in ledger._made.values() for scope in one.scopes}
    assert scopes == {"box"}  # the others have no limit


async def test_only_the_callers_own_limits_count() -> None:
    limits = (Limit("tenant:poor", Period.MONTH, 0), Limit("audits", Period.DAY, 0))
    frontiers = MemoryFrontiers(
        lambda _body: says("x"),
        ledger=MemoryLedger(lambda: NOW_US, BudgetRules(limits)),
        scopes=("tenant:poor", "audits"),
    )
    await frontiers.complete(a_call(payer=Payer("r", "t", "rich")))
    for payer, scope in (
        (Payer("r", "t", "poor"), "month budget of tenant:poor"),
        (Payer("r", "t", "rich", extra_scope="audits"), "day budget of audits"),
    ):
        with pytest.raises(FrontierError, match=scope):
            await frontiers.complete(a_call(payer=payer))


async def test_a_ledger_that_is_full_sends_nothing() -> None:
    class Full(MemoryLedger):
        def reserve(self, *_args: Any, **_named: Any) -> Any:
            raise CapacityError("the disk is full", retry_after_s=30.0, status=503)

    frontiers = MemoryFrontiers(lambda _body: says("x"), ledger=Full(lambda: NOW_US))
    with pytest.raises(FrontierError, match="the disk is full") as told:
        await frontiers.complete(a_call())
    assert (told.value.why, told.value.retry_after_s) == (FrontierWhy.BUDGET, 30.0)
    assert frontiers.transport.requests == []


async def test_a_row_that_cannot_be_kept_leaves_the_money_held() -> None:
    class Lost(MemoryLedger):
        def settle(self, *_args: Any, **_named: Any) -> Any:
            raise CapacityError("too many rows wait", retry_after_s=1.0, status=503)

    ledger = Lost(lambda: NOW_US)
    frontiers = MemoryFrontiers(lambda _body: says("x"), ledger=ledger)
    assert isinstance(await frontiers.complete(a_call()), FrontierReply)
    assert [one.held_nano > 0 for one in ledger._usage.values()] == [True, True]


async def test_who_waited_for_a_place_hears_what_was_learned_meanwhile() -> None:
    frontiers = pool(
        lambda _body: fails(402), names=("big",), max_concurrent_calls=1, max_queue_s=5.0
    )
    calls = (frontiers.complete(a_call()) for _ in range(4))
    errors = await asyncio.gather(*calls, return_exceptions=True)
    whys = [one.why for one in errors if isinstance(one, FrontierError)]
    assert whys == [FrontierWhy.OUT_OF_CREDIT] * 4
    assert len(asked(frontiers)) == len(rows(frontiers)) == 1


async def test_a_call_no_ledger_could_hold_is_refused() -> None:
    frontiers = pool(names=("big",))
    with pytest.raises(FrontierError, match="so large a call") as told:
        await frontiers.complete(a_call(max_output_tokens=10**18))
    assert told.value.why is FrontierWhy.BUDGET
    assert asked(frontiers) == []


async def test_calls_in_progress_are_bounded() -> None:
    frontiers = pool(
        lambda _body: Scripted(before=Stall()),
        max_concurrent_calls=2,
        max_queue_s=0.01,
        settle_s=0,
    )
    tasks = [asyncio.create_task(frontiers.complete(a_call())) for _ in range(5)]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    error = done.pop().exception()
    assert isinstance(error, FrontierError)
    assert error.why is FrontierWhy.RATE_LIMITED
    assert frontiers.transport.open_now == 4  # two at each of two frontiers
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert frontiers.transport.open_now == 0
    assert [lane.active for lane in frontiers._lanes.values()] == [0, 0]


async def test_trimming_saves_tokens_and_says_how_many() -> None:
    frontiers = pool(names=("big",), trim={"whitespace": True, "kept_prefix_messages": 1})
    prefix = {"role": "system", "content": "keep   this"}
    body = {"messages": [prefix, {"role": "user", "content": "a" + " " * 4000 + "b"}]}
    await frontiers.complete(a_call(body=body, saved_tokens=5))
    ((_, sent),) = frontiers.transport.requests
    assert sent["messages"] == [prefix, {"role": "user", "content": "a b"}]
    (row,) = rows(frontiers)
    assert row.tokens_trimmed > 1000
    assert isinstance(frontiers.ledger, MemoryLedger)
    (held,) = frontiers.ledger._made.values()
    assert held.worst_nano < 1000 * 2000 + 50 * 8000  # the bound shrank as well


async def test_audits_are_booked_as_such_and_answer_nobody() -> None:
    frontiers = pool(names=("big",))
    await frontiers.complete(a_call(purpose=Purpose.AUDIT))
    (row,) = rows(frontiers)
    assert (row.purpose, row.answered) == (Purpose.AUDIT, False)


async def test_only_what_may_train_is_captured() -> None:
    class Kept:
        def __init__(self) -> None:
            self.offers: list[tuple[str, str, str]] = []

        def offer(self, frontier: str, call: FrontierCall, sent: Json, answer: Json) -> None:
            said = answer["choices"][0]["message"]["content"]
            self.offers.append((frontier, sent["messages"][0]["content"], said))

    for allowed in (False, True):
        kept = Kept()
        frontiers = MemoryFrontiers(
            lambda body: says("a b", stream=body.get("stream", False)),
            settings={"training_allowed": allowed},
            capture=kept,
        )
        await frontiers.complete(a_call("one"))
        await all_of(frontiers, a_call("two"))
        offers = [("frontier", "one", "a b"), ("frontier", "two", "a b")]
        assert kept.offers == (offers if allowed else [])


async def test_the_metrics_say_what_the_ledger_says() -> None:
    metrics = Metrics()
    frontiers = MemoryFrontiers(
        in_turn(fails(503), says("x", tokens=(100, 40, 7))),
        meter=metrics,
        timing=FakeTime().timing,
    )
    await frontiers.complete(a_call())
    shown = metrics.render().decode()
    for line in (
        'edge_frontier_tries_total{frontier="frontier",outcome="unreachable"} 1.0',
        'edge_frontier_tries_total{frontier="frontier",outcome="ok"} 1.0',
        'edge_frontier_tokens_total{frontier="frontier",kind="input"} 60.0',
        'edge_frontier_tokens_total{frontier="frontier",kind="cached"} 40.0',
        'edge_frontier_tokens_total{frontier="frontier",kind="output"} 7.0',
        'edge_frontier_cost_total{frontier="frontier",source="usage"} 0.000196',
        'edge_frontier_active_calls{frontier="frontier"} 0.0',
        'edge_frontier_breaker_mode{frontier="frontier"} 0.0',
    ):
        assert line in shown
