"""`FrontierPool`: all frontiers of a box behind one door. See `contract.FrontierLike`.

Rules
- The first frontier of the call's order that can answers; which waits and repeats lie between
  is decided in `walk`, what is paid for is settled in `attempt`.
- Nothing is tried again once a part of an answer was given out.
- The body goes through as it came: only the model's name, the output limit, the stream options
  and what the trimming rules allow are changed.

Example::

    async with FrontierPool(settings.frontiers, prices, ledger, scopes=limited) as pool:
        reply = await pool.complete(call)
"""

from __future__ import annotations

import random
import time
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from types import TracebackType
from typing import Any, Final, Self

import orjson
import structlog

from edge_runtime.ledger.ledger import LedgerLike, now_us
from edge_runtime.ledger.prices import Prices
from edge_runtime.router.contract import (
    FrontierCall,
    FrontierChunk,
    FrontierReply,
    Json,
)
from edge_runtime.router.frontier.attempt import Desk, Try, trying
from edge_runtime.router.frontier.capture import CaptureLike
from edge_runtime.router.frontier.events import DONE, EventError, Gathered, SseReader
from edge_runtime.router.frontier.lane import Lane, TryFailed, target_of
from edge_runtime.router.frontier.meter import Meter, NullMeter
from edge_runtime.router.frontier.money import Purse
from edge_runtime.router.frontier.ordering import arranged
from edge_runtime.router.frontier.settings import FrontierSettings
from edge_runtime.router.frontier.transport import (
    Answer,
    BrokenOffError,
    HttpTransport,
    NotSentError,
    Transport,
    read_all,
)
from edge_runtime.router.frontier.verdict import (
    BROKE_OFF,
    MALFORMED,
    NO_FIRST_TOKEN,
    NOT_REACHED,
    TOO_LARGE,
    TOO_SLOW,
    Verdict,
    of_event,
    of_status,
    refused,
    retry_after,
)
from edge_runtime.router.frontier.walk import Timing, Walk

MAX_ERROR_BYTES = 64 * 1024
MAX_HELD_BACK = 64  # events without text that may come before the first with some

_log: Final = structlog.get_logger("edge_runtime.frontier")


class FrontierPool:
    """See the module. One per daemon, used inside its event loop.

    `scopes` are the budget scopes that have limits, `meter` takes the metrics. Prices and API
    keys are looked up here: raises `ConfigError` when one is missing.
    """

    def __init__(
        self,
        frontiers: Mapping[str, FrontierSettings],
        prices: Prices,
        ledger: LedgerLike,
        *,
        scopes: Collection[str] = (),
        meter: Meter | None = None,
        capture: CaptureLike | None = None,
        transport: Transport | None = None,
        timing: Timing | None = None,
        wall_us: Callable[[], int] = now_us,
    ) -> None:
        meter = meter or NullMeter()
        self._lanes = {
            name: Lane(name, one, prices.of(one.price_key), target_of(name, one), meter)
            for name, one in frontiers.items()
        }
        places = sum(one.max_concurrent_calls for one in frontiers.values())
        self._transport = transport or HttpTransport(max_connections=max(1, places))
        self._timing = timing or Timing(time.monotonic, random.random)
        purse = Purse(ledger, scopes=scopes, wall_us=wall_us)
        self._desk = Desk(purse, prices.version, wall_us, meter)
        self._capture = capture
        for lane in self._lanes.values():
            lane.show(self._timing.clock())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close idle connections; calls in progress are the callers' to end first."""
        await self._transport.close()

    def names(self) -> tuple[str, ...]:
        """See `FrontierLike.names`."""
        return arranged(lane.choice for lane in self._lanes.values())

    def available(self, order: tuple[str, ...]) -> bool:
        """See `FrontierLike.available`."""
        now_s = self._timing.clock()
        # One that could go if it were alone either is alone, or another can go.
        return any(
            self._lanes[name].look(now_s, alone=True) is None
            for name in order or self.names()
            if name in self._lanes
        )

    async def complete(self, call: FrontierCall) -> FrontierReply:
        """See `FrontierLike.complete`."""
        walk = self._walk(call)
        while (lane := await walk.following()) is not None:
            try:
                async with trying(self._desk, lane, call, walk, stream=False) as one:
                    body = await self._exchange(one)
            except TryFailed as failed:
                self._note(lane, failed, call)
                walk.failed(failed.verdict, asked=failed.asked)
                continue
            self._offer(one, body)
            return self._reply(one, walk, body)
        raise walk.error()

    async def stream(self, call: FrontierCall) -> AsyncGenerator[FrontierChunk, None]:
        """See `FrontierLike.stream`.

        The last chunk's `data` is the event with the usage, empty where none came apart.
        Raises `ValueError` for a call with `accept`: nobody can take back what was streamed.
        """
        if call.accept is not None:
            raise ValueError("a streamed answer cannot be judged first: use complete")
        walk = self._walk(call)
        while (lane := await walk.following()) is not None:
            gathered, given = Gathered(), False
            last: Json = {}
            try:
                async with (
                    trying(self._desk, lane, call, walk, stream=True) as one,
                    aclosing(self._events(one, gathered)) as events,
                ):
                    async for chunk in events:
                        if given and not chunk.get("choices"):
                            last = chunk
                            continue
                        given = True
                        yield FrontierChunk(chunk, lane.name)
            except TryFailed as failed:
                self._note(lane, failed, call)
                walk.failed(failed.verdict, asked=failed.asked)
                if given:
                    raise walk.error(cut=True) from None
                continue
            body = gathered.body()
            self._offer(one, body)
            yield FrontierChunk(last, lane.name, self._reply(one, walk, body))
            return
        raise walk.error()

    def _walk(self, call: FrontierCall) -> Walk:
        names = call.order or arranged(
            (lane.choice for lane in self._lanes.values()),
            call.prompt_tokens,
            call.max_output_tokens,
        )
        lanes = [self._lanes[name] for name in dict.fromkeys(names) if name in self._lanes]
        return Walk(lanes, call.deadline_s, self._timing)

    async def _exchange(self, one: Try) -> Json:
        settings = one.lane.settings
        async with one.within(settings.total_timeout_s, TOO_SLOW):
            try:
                async with self._transport.post(
                    one.lane.target, one.prepared.payload, one.sent
                ) as answer:
                    await self._check(answer)
                    one.answering()
                    data = await _whole(answer, settings.max_reply_bytes)
            except NotSentError as error:
                raise TryFailed(_because(NOT_REACHED, error)) from error
            except BrokenOffError as error:
                raise TryFailed(_because(BROKE_OFF, error)) from error
        return _accepted(one, data)

    async def _events(self, one: Try, gathered: Gathered) -> AsyncGenerator[Json, None]:
        """Chunks from the first with a part of the answer on; those before come with it."""
        settings = one.lane.settings
        try:
            async with AsyncExitStack() as stack:
                async with one.within(settings.first_token_timeout_s, NO_FIRST_TOKEN):
                    answer = await stack.enter_async_context(
                        self._transport.post(one.lane.target, one.prepared.payload, one.sent)
                    )
                    await self._check(answer)
                    one.prepared.facts.began = True
                chunks = _chunks(one, answer, gathered)
                async with aclosing(chunks):
                    async for chunk in chunks:
                        yield chunk
        except NotSentError as error:
            raise TryFailed(_because(NOT_REACHED, error)) from error
        except BrokenOffError as error:
            if not gathered.finished:
                raise TryFailed(_because(BROKE_OFF, error)) from error
        except EventError as error:
            raise TryFailed(_because(MALFORMED, error)) from error

    async def _check(self, answer: Answer) -> None:
        if answer.status == 200:
            return
        try:
            body = await read_all(answer, MAX_ERROR_BYTES)
        except ValueError:
            body = b""
        wait_s = retry_after(answer.headers, self._desk.wall_us() / 1e6)
        verdict = of_status(answer.status, body, wait_s)
        assert verdict is not None, "200 was looked at before"
        raise TryFailed(verdict)

    def _reply(self, one: Try, walk: Walk, body: Json) -> FrontierReply:
        assert one.bill is not None, "a reply before its bill"
        now_s = self._timing.clock()
        first_s = now_s if one.first_token_s is None else one.first_token_s
        return FrontierReply(
            frontier=one.lane.name,
            model=str(body.get("model") or one.lane.settings.model),
            body=body,
            tokens=one.bill.tokens,
            cost_nano=walk.cost_nano,
            tries=walk.tries,
            first_token_s=first_s - walk.start_s,
            total_s=now_s - walk.start_s,
        )

    def _offer(self, one: Try, body: Json) -> None:
        if self._capture is not None and one.lane.settings.training_allowed:
            self._capture.offer(one.lane.name, one.call, one.prepared.body, body)

    def _note(self, lane: Lane, failed: TryFailed, call: FrontierCall) -> None:
        _log.warning(
            failed.verdict.message,
            action="frontier_failed",
            frontier=lane.name,
            why=str(failed.verdict.why),
            request_id=call.payer.request_id,
        )


async def _whole(answer: Answer, limit: int) -> bytes:
    try:
        return await read_all(answer, limit)
    except ValueError as error:
        raise TryFailed(_because(TOO_LARGE, error)) from error


def _accepted(one: Try, data: bytes) -> Json:
    """The answer in `data`, once it is one and the caller takes it. Raises `TryFailed`."""
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise TryFailed(_because(MALFORMED, error)) from error
    if not isinstance(body, dict):
        raise TryFailed(MALFORMED)
    one.bill_of(body.get("usage"))
    if body.get("error") and not body.get("choices"):
        raise TryFailed(of_event(body["error"]))
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices:
        raise TryFailed(MALFORMED)
    one.prepared.facts.began = True
    one.prepared.facts.output_bytes = len(orjson.dumps(choices))
    fault = None if one.call.accept is None else one.call.accept(body)
    if fault is not None:
        raise TryFailed(refused(fault))
    return body


async def _chunks(one: Try, answer: Answer, gathered: Gathered) -> AsyncGenerator[Json, None]:
    """Parsed events; ends at `[DONE]`. Raises `TryFailed` and `EventError`."""
    settings, facts = one.lane.settings, one.prepared.facts
    reader = SseReader(settings.max_event_bytes)
    held_back: list[Json] = []
    told, size = False, 0
    while True:
        try:
            piece = await _next_piece(one, answer, told=told)
        except TryFailed:
            if gathered.finished:  # only the bill is missing
                return
            raise
        if not piece:
            if gathered.finished:
                return
            raise BrokenOffError("the stream ended before its answer")
        size += len(piece)
        if size > settings.max_reply_bytes:
            raise TryFailed(_because(TOO_LARGE, f"more than {settings.max_reply_bytes} bytes"))
        for data in reader.feed(piece):
            if data.strip() == DONE:
                if not told:
                    raise EventError("a stream without an answer")
                return
            chunk = _chunk(data)
            news = gathered.add(chunk)
            one.bill_of(gathered.usage)
            facts.output_bytes, facts.output_events = gathered.text_bytes, gathered.events_with_text
            if told:
                yield chunk
                continue
            held_back.append(chunk)
            if len(held_back) > MAX_HELD_BACK:
                raise EventError(f"{MAX_HELD_BACK} events without a part of an answer")
            if news:
                told = True
                one.answering()
                for early in held_back:
                    yield early
                held_back.clear()


async def _next_piece(one: Try, answer: Answer, *, told: bool) -> bytes:
    # Only time spent waiting for the frontier counts: a slow reader is not its fault.
    settings = one.lane.settings
    limit_s = settings.total_timeout_s - one.waited_s
    late = TOO_SLOW
    if not told and settings.first_token_timeout_s - one.waited_s < limit_s:
        limit_s, late = settings.first_token_timeout_s - one.waited_s, NO_FIRST_TOKEN
    async with one.within(limit_s, late):
        return await answer.piece()


def _chunk(data: str) -> dict[str, Any]:
    try:
        chunk = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise EventError(f"an event is no JSON: {error}") from error
    if not isinstance(chunk, dict):
        raise EventError("an event is no object")
    if chunk.get("error"):
        raise TryFailed(of_event(chunk["error"]))
    return chunk


def _because(verdict: Verdict, error: object) -> Verdict:
    return replace(verdict, message=f"{verdict.message} ({error})")
