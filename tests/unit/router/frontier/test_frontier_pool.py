"""The pool without a network: who is asked, what is given out, what is booked."""

from __future__ import annotations

import asyncio
import time

import pytest

from edge_runtime.ledger.memory import MemoryLedger
from edge_runtime.ledger.rows import MoneySource, Status, Tokens
from edge_runtime.router.contract import (
    FrontierCall,
    FrontierError,
    FrontierWhy,
    Json,
    Payer,
)
from edge_runtime.router.frontier.memory import (
    MemoryFrontiers,
    Scripted,
    Stall,
    fails,
    says,
)
from edge_runtime.router.frontier.transport import NotSentError
from edge_runtime.router.frontier.walk import Timing
from tests.support.frontier import FakeTime, a_call
from tests.support.frontier_pool import FRONTIERS, all_of, asked, by_model, in_turn, pool, rows


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


async def test_who_waited_for_a_place_hears_what_was_learned_meanwhile() -> None:
    frontiers = pool(
        lambda _body: fails(402), names=("big",), max_concurrent_calls=1, max_queue_s=5.0
    )
    calls = (frontiers.complete(a_call()) for _ in range(4))
    errors = await asyncio.gather(*calls, return_exceptions=True)
    whys = [one.why for one in errors if isinstance(one, FrontierError)]
    assert whys == [FrontierWhy.OUT_OF_CREDIT] * 4
    assert len(asked(frontiers)) == len(rows(frontiers)) == 1


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
