"""Money of the pool: what is held, refused, booked and measured."""

from __future__ import annotations

from typing import Any

import pytest

from edge_runtime.errors import CapacityError
from edge_runtime.ledger.budget import Limit, Period
from edge_runtime.ledger.ledger import BudgetRules
from edge_runtime.ledger.memory import MemoryLedger
from edge_runtime.ledger.rows import MoneySource, Purpose, Status
from edge_runtime.metrics import Metrics
from edge_runtime.router.contract import (
    FrontierError,
    FrontierReply,
    FrontierWhy,
    Json,
    Payer,
)
from edge_runtime.router.frontier.memory import (
    NOW_US,
    MemoryFrontiers,
    Scripted,
    completion,
    fails,
    says,
)
from edge_runtime.router.frontier.transport import BrokenOffError
from tests.support.frontier import FakeTime, a_call
from tests.support.frontier_pool import FRONTIERS, asked, in_turn, pool, rows


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


async def test_a_call_no_ledger_could_hold_is_refused() -> None:
    frontiers = pool(names=("big",))
    with pytest.raises(FrontierError, match="so large a call") as told:
        await frontiers.complete(a_call(max_output_tokens=10**18))
    assert told.value.why is FrontierWhy.BUDGET
    assert asked(frontiers) == []


async def test_audits_are_booked_as_such_and_answer_nobody() -> None:
    frontiers = pool(names=("big",))
    await frontiers.complete(a_call(purpose=Purpose.AUDIT))
    (row,) = rows(frontiers)
    assert (row.purpose, row.answered) == (Purpose.AUDIT, False)


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
