"""Money around one try: hold the worst case, send, settle by what is known. See `ledger.budget`.

Rules
- Nothing is sent before its worst case is held on disk.
- Whatever ends a try, its hold is settled in the same breath, also when the caller is gone: the
  command is queued before anything is waited for. A process that dies leaves the hold.
- The bill is the frontier's own usage; where that never came, an estimate by what was seen of
  the answer; where nothing was seen, the worst case. A refusal by status is not billed.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

import structlog

from edge_runtime.errors import CapacityError, EngineError
from edge_runtime.ledger.budget import BOX_SCOPE, Refused, Reservation
from edge_runtime.ledger.cost import frontier_cost, worst_case_cost
from edge_runtime.ledger.ledger import LedgerLike
from edge_runtime.ledger.prices import FrontierPrice
from edge_runtime.ledger.rows import Attempt, MoneySource, Tokens
from edge_runtime.router.contract import Payer
from edge_runtime.router.frontier.tokens import TokenRate
from edge_runtime.router.frontier.verdict import Billed

_log: Final = structlog.get_logger("edge_runtime.frontier")


@dataclass(slots=True)
class Facts:
    """What is known of one try, as it goes on. Tokens are the worst case, bytes what was seen."""

    prompt_bytes: int
    prompt_tokens: int
    output_tokens: int
    sent: bool = False
    began: bool = False  # what came of the answer so far is all there is to bill
    usage: Tokens | None = None
    output_bytes: int = 0
    output_events: int = 0


@dataclass(frozen=True, slots=True)
class Bill:
    """What a try is booked at."""

    tokens: Tokens
    nano: int
    source: MoneySource


def bill(facts: Facts, billed: Billed, price: FrontierPrice, rate: TokenRate) -> Bill:
    """Usage, else an estimate, else the worst case. Pure."""
    if facts.usage is not None:
        return Bill(facts.usage, frontier_cost(facts.usage, price), MoneySource.USAGE)
    if not facts.sent or billed is Billed.NO:
        return Bill(Tokens(0), 0, MoneySource.NONE)
    if facts.began:
        tokens = Tokens(
            min(facts.prompt_tokens, rate.tokens(facts.prompt_bytes)),
            0,
            # Most frontiers send a token or more with each event.
            min(facts.output_tokens, max(facts.output_events, rate.tokens(facts.output_bytes))),
        )
        return Bill(tokens, frontier_cost(tokens, price), MoneySource.ESTIMATE)
    worst = worst_case_cost(facts.prompt_tokens, facts.output_tokens, price)
    return Bill(Tokens(facts.prompt_tokens, 0, facts.output_tokens), worst, MoneySource.WORST_CASE)


@dataclass(frozen=True, slots=True)
class Denied:
    """No money is to be had: why, and in how many seconds there is again, where known."""

    reason: str
    opens_in_s: float | None


class Purse:
    """Holds and settles money of calls in a ledger.

    `scopes` are those that have limits; the box always counts. `wall_us` is the ledger's clock.
    """

    def __init__(
        self, ledger: LedgerLike, *, scopes: Collection[str], wall_us: Callable[[], int]
    ) -> None:
        self._ledger = ledger
        self._scopes = {BOX_SCOPE, *scopes}
        self._wall_us = wall_us

    def limited(self, scopes: Collection[str]) -> None:
        """These have limits from now on."""
        self._scopes = {BOX_SCOPE, *scopes}

    async def hold(self, payer: Payer, worst_nano: int) -> str | Denied:
        """Put money aside; the result is the hold's id, which must be settled or released."""
        # Callers may use a request id twice; a hold's id is used once.
        hold_id = uuid.uuid4().hex
        scopes = [scope for scope in payer.scopes if scope in self._scopes]
        try:
            future = self._ledger.reserve(hold_id, worst_nano=worst_nano, scopes=scopes)
            decision = await self._held(future, hold_id)
        except (CapacityError, EngineError) as error:
            wait_s = getattr(error, "retry_after_s", None)
            return Denied(f"the ledger can hold no money: {error}", wait_s)
        if isinstance(decision, Refused):
            opens_in_s = max(0.0, (decision.resets_at_us - self._wall_us()) / 1e6)
            return Denied(decision.reason, opens_in_s)
        return hold_id

    async def settle(self, hold_id: str, attempt: Attempt) -> None:
        """Book the attempt. A ledger that fails is logged: the hold then stays, and is charged."""
        try:
            future = self._ledger.settle(hold_id, attempt)
            await asyncio.shield(asyncio.wrap_future(future))
        except (CapacityError, EngineError, ValueError) as error:
            _log.error(
                "an attempt could not be booked; its worst case stays held",
                action="settle_failed",
                request_id=attempt.request_id,
                frontier=attempt.model,
                error=str(error),
            )

    async def _held(self, future: Future[Reservation | Refused], hold_id: str) -> object:
        try:
            return await asyncio.shield(asyncio.wrap_future(future))
        except asyncio.CancelledError:
            # The caller is gone before anything was sent: nobody else knows the hold's id.
            future.add_done_callback(lambda done: self._give_back(done, hold_id))
            raise

    def _give_back(self, done: Future[Reservation | Refused], hold_id: str) -> None:
        if done.cancelled() or done.exception() is not None:
            return
        if isinstance(done.result(), Reservation):
            # Too late for a ledger that closes: its hold expires by the rule.
            with contextlib.suppress(CapacityError):
                self._ledger.release(hold_id)
