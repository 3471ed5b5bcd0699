"""Ask the frontier in the background: the queue of audits and of pairs two bundles differ on.

Rules
- The queue is bounded in number and in prompt tokens; what does not fit is dropped and counted.
  It lives in memory: texts are not written to disk for it, and a restart forgets it.
- One call at a time, by one task, `edge-watch-judge`, that lives as long as `running()`.
- While no frontier is to be had (down, out of credit, out of budget, rate-limited) questions wait
  and no try is counted. A question that fails otherwise is asked again, at most `max_tries` times.
- Calls are of purpose audit and reserve under the scope `purpose:audit` besides those of the
  request, so that a budget can be set for them. They have no deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace

import structlog

from edge_runtime.ledger.rows import Purpose
from edge_runtime.router.contract import (
    FrontierCall,
    FrontierError,
    FrontierLike,
    FrontierWhy,
    Json,
)
from edge_runtime.router.watch.contract import AuditEnd
from edge_runtime.router.watch.settings import AuditSettings

AUDIT_SCOPE = "purpose:audit"
MAX_PAUSE_S = 3600.0

_OUT = frozenset(
    {
        FrontierWhy.BUDGET,
        FrontierWhy.OUT_OF_CREDIT,
        FrontierWhy.RATE_LIMITED,
        FrontierWhy.BREAKER_OPEN,
        FrontierWhy.UNREACHABLE,
    }
)
_USELESS = frozenset({FrontierWhy.BAD_REQUEST, FrontierWhy.NONE_CONFIGURED})

log = structlog.get_logger("edge_runtime.watch")

Answered = Callable[[str | None, AuditEnd], None]
"""Called with the frontier's answer; or None and why there is none."""


@dataclass(frozen=True, slots=True)
class Question:
    """What to ask, how to read the reply, and whom to tell. `read` raises `ValueError`."""

    call: FrontierCall
    read: Callable[[Json], str]
    answered: Answered
    tries: int = 0


@dataclass(frozen=True, slots=True)
class Again:
    """What becomes of a failed question: asked again after `pause_s`, counted or not, or not."""

    pause_s: float
    counts: bool


def after_failure(error: FrontierError, tries: int, settings: AuditSettings) -> Again | None:
    """Whether to ask again; None gives up. Pure; `tries` counts those before this one."""
    pause = error.retry_after_s if error.retry_after_s is not None else settings.retry_s
    pause = min(max(pause, 0.0), MAX_PAUSE_S)
    if error.why in _OUT:
        return Again(pause, counts=False)
    if error.why in _USELESS or tries + 1 >= settings.max_tries:
        return None
    return Again(pause, counts=True)


class Judge:
    """See the module's rules. `offer` from the event loop only."""

    def __init__(
        self,
        frontiers: FrontierLike,
        settings: AuditSettings,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        waiting_changed: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._frontiers = frontiers
        self._settings = settings
        self._sleep = sleep
        self._waiting_changed = waiting_changed
        self._queue: deque[Question] = deque()
        self._tokens = 0
        self._filled = asyncio.Event()

    def change(self, settings: AuditSettings) -> None:
        """Ask by other settings from now on; what waits, waits."""
        self._settings = settings

    @property
    def waiting(self) -> int:
        """Questions in the queue, the one being asked included."""
        return len(self._queue)

    def offer(self, question: Question) -> bool:
        """Queue it; False when the queue is full."""
        tokens = question.call.prompt_tokens
        if (
            len(self._queue) >= self._settings.max_waiting
            or self._tokens + tokens > self._settings.max_waiting_tokens
        ):
            return False
        payer = replace(question.call.payer, extra_scope=AUDIT_SCOPE)
        call = replace(
            question.call, payer=payer, purpose=Purpose.AUDIT, deadline_s=None, accept=None
        )
        self._queue.append(replace(question, call=call))
        self._tokens += tokens
        self._filled.set()
        self._waiting_changed(len(self._queue))
        return True

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Ask as long as the block lasts; a call in progress is cancelled at its end."""
        task = asyncio.create_task(self._loop(), name="edge-watch-judge")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _loop(self) -> None:
        while True:
            while not self._queue:
                self._filled.clear()
                await self._filled.wait()
            if not self._frontiers.available(self._queue[0].call.order):
                await self._sleep(self._settings.retry_s)
                continue
            question = self._queue[0]
            try:
                await self._ask(question)
            except Exception:  # a fault in one question must not end all the others
                log.exception("a question to the frontier failed", action="watch_judge")
                if self._queue and self._queue[0] is question:
                    self._done(question, None, AuditEnd.FAILED)

    async def _ask(self, question: Question) -> None:
        try:
            reply = await self._frontiers.complete(question.call)
        except FrontierError as error:
            again = after_failure(error, question.tries, self._settings)
            if again is None:
                self._done(question, None, AuditEnd.FAILED)
                return
            if again.counts:
                # To the back: one bad question must not hold the others up.
                self._queue.rotate(-1)
                self._queue[-1] = replace(question, tries=question.tries + 1)
            await self._sleep(again.pause_s)
            return
        try:
            answer = question.read(reply.body)
        except ValueError:
            self._done(question, None, AuditEnd.UNREADABLE)
            return
        self._done(question, answer, AuditEnd.AGREED)

    def _done(self, question: Question, answer: str | None, end: AuditEnd) -> None:
        self._queue.popleft()
        self._tokens -= question.call.prompt_tokens
        self._waiting_changed(len(self._queue))
        question.answered(answer, end)
