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
from contextlib import aclosing
from types import TracebackType
from typing import Final, Self

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
from edge_runtime.router.frontier.events import Gathered
from edge_runtime.router.frontier.exchange import streamed, whole
from edge_runtime.router.frontier.lane import Lane, TryFailed, target_of
from edge_runtime.router.frontier.later import MAX_FOLLOWED, Later
from edge_runtime.router.frontier.meter import Meter, NullMeter
from edge_runtime.router.frontier.money import Purse
from edge_runtime.router.frontier.ordering import arranged
from edge_runtime.router.frontier.settings import FrontierSettings
from edge_runtime.router.frontier.transport import HttpTransport, Transport
from edge_runtime.router.frontier.walk import Timing, Walk

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
        self._price_keys = {name: one.price_key for name, one in frontiers.items()}
        self._lanes = {
            name: Lane(name, one, prices.of(one.price_key), target_of(name, one), meter)
            for name, one in frontiers.items()
        }
        # Calls that are read on for their bill must not stand in the way of new ones.
        places = sum(one.max_concurrent_calls for one in frontiers.values()) + MAX_FOLLOWED
        self._transport = transport or HttpTransport(max_connections=places)
        self._timing = timing or Timing(time.monotonic, random.random)
        purse = Purse(ledger, scopes=scopes, wall_us=wall_us)
        later = Later(self._transport, ledger.correct, wall_us, self._timing.sleep, meter)
        self._desk = Desk(purse, later, prices.version, wall_us, meter)
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

    def change(self, prices: Prices, scopes: Collection[str]) -> None:
        """Reckon by another price list and other limited scopes from the next try on.

        Raises `ConfigError` for a list without a price that is needed, and changes nothing then.
        """
        found = {name: prices.of(key) for name, key in self._price_keys.items()}
        for name, price in found.items():
            self._lanes[name].price = price
        self._desk.price_version = prices.version
        self._desk.purse.limited(scopes)

    async def close(self) -> None:
        """Close idle connections; calls in progress are the callers' to end first.

        Calls that were given up are followed no longer: their rows stay at what was guessed.
        """
        await self._desk.later.close()
        await self._transport.close()

    async def settled(self) -> None:
        """Wait until no call that was given up is followed any more; bounded by the settings."""
        await self._desk.later.settled()

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
                    body = await whole(self._desk, self._transport, one)
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
                    aclosing(streamed(self._desk, self._transport, one, gathered)) as events,
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
