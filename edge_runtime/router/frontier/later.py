"""Bills that come late: what a call that was given up really cost.

Rules
- A row is written at once, at its worst case or an estimate. What is learned later corrects it;
  whatever goes wrong here leaves it as it is, so the ledger errs upward.
- The answer of a call that we gave up is read on, for at most `settle_s`. A stream whose caller
  went away is not: closing it stops its tokens, and the money they cost.
- Then the frontier is asked, where the settings name an address that tells what a call cost.
- The number of calls that are followed is bounded; shutdown ends them all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import quote

import structlog

from edge_runtime.errors import CapacityError, EdgeError
from edge_runtime.ledger.cost import frontier_cost
from edge_runtime.ledger.prices import FrontierPrice
from edge_runtime.ledger.rows import Attempt, Correction, MoneySource, Tokens
from edge_runtime.ledger.statement import correction_of, told_of_call
from edge_runtime.router.frontier.lane import Lane
from edge_runtime.router.frontier.line import Rest
from edge_runtime.router.frontier.meter import Meter
from edge_runtime.router.frontier.tokens import usage_tokens
from edge_runtime.router.frontier.transport import (
    BrokenOffError,
    NotSentError,
    Transport,
    read_all,
)

MAX_FOLLOWED = 128
MAX_ASKS = 6
FIRST_ASK_S = 0.5  # frontiers write their books a moment after the answer; doubles
MAX_TOLD_BYTES = 64 * 1024
ASK_TIMEOUT_S = 10.0
NOT_YET = (404, 408, 409, 425, 429)

_log: Final = structlog.get_logger("edge_runtime.frontier")


@dataclass(frozen=True, slots=True)
class OpenCase:
    """A call whose bill nobody saw: its row, the price it is paid by, and what is still to read."""

    lane: Lane
    row: Attempt
    price: FrontierPrice
    rest: Rest | None = None

    def address(self) -> str | None:
        """Where to ask about the call; None where nobody can be, or its id is not known."""
        template = self.lane.settings.usage_url
        remote_id = self.row.remote_id or (self.rest.remote_id if self.rest else "")
        if template is None or ("{id}" in template and not remote_id):
            return None
        for mark, value in (("{id}", remote_id), ("{call}", self.row.call_id)):
            template = template.replace(mark, quote(value, safe=""))
        return template


@dataclass(slots=True)
class Later:
    """See the module. One per pool, used inside its event loop; `close` it before the transport.

    `correct` keeps a correction (`LedgerLike.correct`).
    """

    transport: Transport
    correct: Callable[[Correction], Future[int]]
    wall_us: Callable[[], int]
    sleep: Callable[[float], Awaitable[object]]
    meter: Meter
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def follows(self, case: OpenCase) -> bool:
        """Start to look for the bill; False when nothing is to be had.

        From then on the case's `rest` is closed here.
        """
        if len(self._tasks) >= MAX_FOLLOWED or not (case.rest or case.address()):
            return False
        task = asyncio.create_task(self._follow(case), name="edge-frontier-late-bill")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def settled(self) -> None:
        """Wait until no call is followed any more."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def close(self) -> None:
        """Give up what is still followed: those rows stay as they are."""
        for task in set(self._tasks):
            task.cancel()
        await self.settled()

    async def _follow(self, case: OpenCase) -> None:
        found: Correction | None = None
        if case.rest is not None:
            try:
                found = await self._read_on(case, case.rest)
            finally:
                case.rest.line.leave()
                await case.rest.line.closed()
        if found is None:
            found = await self._ask(case)
        if found is not None:
            await self._book(case, found)

    async def _read_on(self, case: OpenCase, rest: Rest) -> Correction | None:
        try:
            async with asyncio.timeout(case.lane.settings.settle_s):
                answer = await rest.line.answer()
                if answer.status != 200:  # as for any refusal: nothing is charged
                    return self._of(case, Tokens(0), MoneySource.NONE)
                tokens = usage_tokens(await rest.read_on())
        except (TimeoutError, BrokenOffError, NotSentError, ValueError):
            return None
        return None if tokens is None else self._of(case, tokens, MoneySource.USAGE)

    def _of(self, case: OpenCase, tokens: Tokens, source: MoneySource) -> Correction:
        return Correction(
            call_id=case.row.call_id,
            at_us=self.wall_us(),
            frontier_nano=frontier_cost(tokens, case.price),
            money_source=source,
            tokens=tokens,
        )

    async def _ask(self, case: OpenCase) -> Correction | None:
        url = case.address()
        if url is None:
            return None
        wait_s = FIRST_ASK_S
        for _ in range(MAX_ASKS):
            await self.sleep(wait_s)
            wait_s *= 2
            try:
                async with asyncio.timeout(ASK_TIMEOUT_S):
                    status, body = await self._get(case.lane, url)
                if status == 200:
                    line = told_of_call(body)
                    return correction_of(line, case.row.call_id, self.wall_us(), case.price)
            except (TimeoutError, BrokenOffError, NotSentError):
                continue
            except ValueError as error:
                _log.warning("a bill makes no sense", action="bad_usage", error=str(error))
                return None
            if status not in NOT_YET and status < 500:
                return None
        return None

    async def _get(self, lane: Lane, url: str) -> tuple[int, bytes]:
        async with self.transport.get(replace(lane.target, url=url)) as answer:
            return answer.status, await read_all(answer, MAX_TOLD_BYTES)

    async def _book(self, case: OpenCase, found: Correction) -> None:
        try:
            await asyncio.wrap_future(self.correct(found))
        except (CapacityError, EdgeError, ValueError) as error:
            _log.error("a bill could not be booked", action="settle_failed", error=str(error))
            return
        source = str(found.money_source)
        self.meter.count("edge_frontier_late_bills_total", case.lane.name, source)
        _log.info(
            "a call that was given up is settled",
            action="settled_late",
            frontier=case.lane.name,
            request_id=case.row.request_id,
            source=source,
            guessed_nano=case.row.frontier_nano,
            nano=found.frontier_nano,
        )
