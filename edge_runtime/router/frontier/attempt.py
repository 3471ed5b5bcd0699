"""One try at one frontier: a place, the breaker's leave, money, the exchange, the bill.

Rules
- Everything taken is given back in reverse, however the try ends: answer, refusal, timeout, a
  caller who went away, a bug.
- A bill nobody saw is looked for afterwards (`later`), once its row is written.
- A try that began is one row of the ledger, also when it failed; one that could not begin (no
  place, no money, breaker) is none.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Final

import structlog

from edge_runtime.ledger.cost import worst_case_cost
from edge_runtime.ledger.money import MAX_NANO, NANO
from edge_runtime.ledger.prices import FrontierPrice
from edge_runtime.ledger.rows import OPEN_SOURCES, Attempt, Purpose, Status, Tier
from edge_runtime.router.contract import FrontierCall, FrontierWhy
from edge_runtime.router.frontier.events import Gathered, SseReader
from edge_runtime.router.frontier.lane import Lane, Prepared, TryFailed
from edge_runtime.router.frontier.later import Later, OpenCase
from edge_runtime.router.frontier.line import Line, Rest
from edge_runtime.router.frontier.meter import Meter
from edge_runtime.router.frontier.money import Bill, Denied, Purse, bill
from edge_runtime.router.frontier.tokens import usage_tokens
from edge_runtime.router.frontier.transport import Transport
from edge_runtime.router.frontier.verdict import (
    BROKE_OFF,
    CANCELLED,
    PAST_DEADLINE,
    PAST_DEADLINE_AND_SLOW,
    Billed,
    Verdict,
    no_money,
)
from edge_runtime.router.frontier.walk import Walk, refused_by_breaker

_log: Final = structlog.get_logger("edge_runtime.frontier")


@dataclass(slots=True)
class Desk:
    """What all tries share. `price_version` names the list that the lanes' prices are from."""

    purse: Purse
    later: Later
    price_version: str
    wall_us: Callable[[], int]
    meter: Meter


@dataclass(slots=True)
class Try:
    """What one try knows while it runs. `bill` is there once it was settled.

    It is paid by the price list it began under. `call_id` is also the id of the money held for
    it. `rest` is its exchange, once it has one.
    """

    call_id: str
    lane: Lane
    call: FrontierCall
    prepared: Prepared
    started_s: float
    clock: Callable[[], float]
    deadline_s: float | None
    price: FrontierPrice
    price_version: str
    first_token_s: float | None = None
    waited_s: float = 0.0
    bill: Bill | None = field(default=None)
    rest: Rest | None = field(default=None)

    def dial(self, transport: Transport, gathered: Gathered | None = None) -> Rest:
        """Begin the exchange; `gathered` takes a streamed answer."""
        settings = self.lane.settings
        target = replace(self.lane.target, call_id=self.call_id)
        line = Line(transport, target, self.prepared.payload, self.sent)
        reader = SseReader(settings.max_event_bytes)
        self.rest = Rest(line, settings.max_reply_bytes, reader, gathered)
        return self.rest

    def sent(self) -> None:
        """The transport says: the request leaves."""
        self.prepared.facts.sent = True

    def answering(self) -> None:
        """The first part of an answer came."""
        if self.first_token_s is None:
            self.first_token_s = self.clock()

    def bill_of(self, usage: object) -> None:
        """Take the frontier's usage; one that makes no sense counts as none."""
        try:
            tokens = usage_tokens(usage)
        except ValueError as error:
            _log.warning("a bill makes no sense", action="bad_usage", error=str(error))
            return
        if tokens is not None:
            self.prepared.facts.usage = tokens

    @asynccontextmanager
    async def within(self, limit_s: float, late: Verdict) -> AsyncIterator[None]:
        """Time to wait for the frontier: by its settings, or up to the caller's deadline.

        Raises `TryFailed` with `late`, or `PAST_DEADLINE` when it was the deadline.
        """
        before_s = self.clock()
        left_s = None if self.deadline_s is None else self.deadline_s - before_s
        pressed = left_s is not None and left_s < limit_s
        wait_s = left_s if left_s is not None and pressed else limit_s
        try:
            async with asyncio.timeout(max(0.0, wait_s)):
                yield
        except TimeoutError as error:
            if pressed:
                slow = self.clock() - self.started_s >= self.lane.settings.deadline_failure_s
                late = PAST_DEADLINE_AND_SLOW if slow else PAST_DEADLINE
            raise TryFailed(late) from error
        finally:
            self.waited_s += self.clock() - before_s


@asynccontextmanager
async def trying(
    desk: Desk, lane: Lane, call: FrontierCall, walk: Walk, *, stream: bool
) -> AsyncIterator[Try]:
    """See the module. Raises `TryFailed` when it cannot start, and passes on what ends it."""
    async with lane.place(walk.left_s):
        # Others may have learned something while this one waited for its place.
        refusal = lane.look(walk.timing.clock(), alone=walk.alone)
        if refusal is not None:
            raise TryFailed(refused_by_breaker(refusal), asked=False)
        probe = lane.admit()
        verdict: Verdict | None = CANCELLED
        try:
            prepared = lane.prepare(call, stream=stream)
            price, version = lane.price, desk.price_version  # others may count when it ends
            hold_id = await _hold(desk, lane, call, prepared)
            clock = walk.timing.clock
            one = Try(
                hold_id, lane, call, prepared, clock(), clock, walk.deadline_s, price, version
            )
            try:
                yield one
                verdict = None
            except TryFailed as failed:
                verdict = lane.pausing(failed.verdict)
                raise TryFailed(verdict, asked=failed.asked) from failed
            except (asyncio.CancelledError, GeneratorExit):
                raise
            except BaseException:
                verdict = BROKE_OFF  # a bug here, or in a callback: what was sent is still paid
                raise
            finally:
                await _settle(desk, one, walk, verdict)
        except TryFailed as failed:
            verdict = failed.verdict
            raise
        finally:
            lane.ended(walk.timing.clock(), verdict, probe=probe)


async def _hold(desk: Desk, lane: Lane, call: FrontierCall, prepared: Prepared) -> str:
    facts = prepared.facts
    worst = worst_case_cost(facts.prompt_tokens, facts.output_tokens, lane.price)
    if worst > MAX_NANO:
        raise TryFailed(no_money("no budget holds so large a call", None), asked=False)
    held = await desk.purse.hold(call.payer, worst)
    if isinstance(held, Denied):
        desk.meter.count("edge_frontier_tries_total", lane.name, str(FrontierWhy.BUDGET))
        raise TryFailed(no_money(held.reason, held.opens_in_s), asked=False)
    return held


async def _settle(desk: Desk, one: Try, walk: Walk, verdict: Verdict | None) -> None:
    lane, facts = one.lane, one.prepared.facts
    going_on = _goes_on(one, verdict)
    if one.rest is not None and not going_on:
        one.rest.line.leave()  # first: what has not left by now never does
    # Only a refusal by status says that nothing will be charged.
    billed = Billed.PERHAPS if verdict is None else verdict.billed
    one.bill = bill(facts, billed, one.price, lane.rate)
    if facts.usage is not None:
        lane.rate = lane.rate.learned(facts.prompt_bytes, facts.usage.tokens_in)
    attempt_number = one.call.first_attempt + walk.tries
    walk.tries += 1
    walk.cost_nano += one.bill.nano
    duration_s = walk.timing.clock() - one.started_s
    _measure(desk.meter, one, verdict, duration_s)
    row = _row(desk, one, attempt_number, verdict, duration_s)
    followed = False
    try:
        await desk.purse.settle(one.call_id, row)
    finally:
        # Nothing is waited for in here: the caller may be gone, and its task be cancelled again.
        if one.bill.source in OPEN_SOURCES and lane.settings.settle_s:
            rest = one.rest if going_on else None
            followed = desk.later.follows(OpenCase(lane, row, one.price, rest))
        if going_on and not followed and one.rest is not None:
            one.rest.line.leave()
    if one.rest is not None and not followed:
        await one.rest.line.closed()


def _goes_on(one: Try, verdict: Verdict | None) -> bool:
    """Whether the rest of the answer is worth its wait: it is on its way, and may tell the bill."""
    facts = one.prepared.facts
    if one.rest is None or not facts.sent or facts.usage is not None:
        return False
    if verdict is None:
        return False
    # A stream that is closed costs no more tokens; an answer that comes whole is made anyway.
    return verdict.why is FrontierWhy.TIMEOUT or (
        verdict is CANCELLED and one.rest.gathered is None
    )


def _row(desk: Desk, one: Try, number: int, verdict: Verdict | None, duration_s: float) -> Attempt:
    assert one.bill is not None, "settled before it was counted"
    call, tokens = one.call, one.bill.tokens
    duration_us = max(0, round(duration_s * 1e6))
    return Attempt(
        at_us=desk.wall_us(),
        request_id=call.payer.request_id,
        task_id=call.payer.task_id,
        tier=Tier.FRONTIER,
        model=one.lane.name,
        attempt=number,
        tenant=call.payer.tenant,
        endpoint=call.payer.endpoint,
        tag=call.payer.tag,
        purpose=call.purpose,
        tokens_in=tokens.tokens_in,
        tokens_cached=tokens.tokens_cached,
        tokens_out=tokens.tokens_out,
        frontier_nano=one.bill.nano,
        money_source=one.bill.source,
        price_version=one.price_version,
        duration_us=duration_us,
        status=status_of(verdict),
        reason=call.reason,
        answered=verdict is None and call.purpose is Purpose.SERVE,
        tokens_trimmed=one.prepared.saved_tokens,
        call_id=one.call_id,
        remote_id="" if one.rest is None else one.rest.remote_id,
    )


def status_of(verdict: Verdict | None) -> Status:
    """How the ledger says a try ended."""
    if verdict is None:
        return Status.OK
    if verdict is CANCELLED:
        return Status.CANCELLED
    return Status.DISCARDED if verdict.why is FrontierWhy.REFUSED else Status.ERROR


def _measure(meter: Meter, one: Try, verdict: Verdict | None, duration_s: float) -> None:
    name, found = one.lane.name, one.bill
    assert found is not None, "measured before it was counted"
    outcome = "ok" if verdict is None else str(verdict.why)
    meter.count("edge_frontier_tries_total", name, "cancelled" if verdict is CANCELLED else outcome)
    meter.observe("edge_frontier_seconds", name, value=duration_s)
    if one.first_token_s is not None:
        waited_s = one.first_token_s - one.started_s
        meter.observe("edge_frontier_first_token_seconds", name, value=waited_s)
    fresh = found.tokens.tokens_in - found.tokens.tokens_cached
    for kind, tokens in (
        ("input", fresh),
        ("cached", found.tokens.tokens_cached),
        ("output", found.tokens.tokens_out),
        ("trimmed", one.prepared.saved_tokens),
    ):
        if tokens:
            meter.count("edge_frontier_tokens_total", name, kind, amount=tokens)
    if found.nano:
        amount = found.nano / NANO
        meter.count("edge_frontier_cost_total", name, str(found.source), amount=amount)
