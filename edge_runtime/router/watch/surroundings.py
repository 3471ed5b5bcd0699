"""What the watch is handed from outside: clock, chance, the ledger, and who listens."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from edge_runtime.ledger.ledger import LedgerLike, now_us
from edge_runtime.router.watch.contract import AuditEnd, WatchEvent, WatchListener


class NullListener:
    """A `WatchListener` that hears nothing."""

    def event(self, event: WatchEvent) -> None:
        """Forget."""

    def audited(self, task: str, end: AuditEnd) -> None:
        """Forget."""

    def audits_waiting(self, count: int) -> None:
        """Forget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the watch is handed: clock, chance, sleep, the ledger, digests, and who listens.

    `digest_of` gives the model digest a name is served with, None for one that is not served.
    """

    ledger: LedgerLike | None = None
    digest_of: Callable[[str], str | None] = lambda _: None
    listener: WatchListener = NullListener()  # noqa: RUF009  # it has no state
    clock: Callable[[], int] = now_us
    draw: Callable[[], float] = random.random
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
